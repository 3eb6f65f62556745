"""The prior behind a server that this run started itself. Nobody else would start it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from covr_jax.priors.client import GrpcPrior
from covr_jax.priors.server_process import ServerProcess
from covr_jax.priors.source import PriorUnavailable, TuningFailed
from covr_jax.types import Label, Observation, TuningReport


class PriorDied(Exception):
    """The run's own prior server has ended. One line that names its log."""


class OwnServerPrior(GrpcPrior):
    """A GrpcPrior whose calls raise PriorDied once the server process is gone, however optional the prior is.

    The run then stops at its last checkpoint; resumed, it is the run that it would have been.

    Args:
      server: has been started.
      arguments: of GrpcPrior, after the address.
    """

    def __init__(self, server: ServerProcess, *arguments: Any):
        self._server = server
        super().__init__(server.address, *arguments)

    def predict(self, observations: Sequence[Observation]) -> list[Label]:
        with self._watched():
            return super().predict(observations)

    def tune(self, *arguments: Any, **named: Any) -> TuningReport:
        with self._watched():
            return super().tune(*arguments, **named)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (PriorUnavailable, TuningFailed) as error:
            if self._server.ended():
                log = self._server.log
                raise PriorDied(f"the prior server that this run started has ended; {log} may say why") from error
            raise
