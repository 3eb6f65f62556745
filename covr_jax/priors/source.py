"""What a prior is to the learner: something that answers observations with labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from covr_jax.config import RoundsConfig
from covr_jax.types import Label, Observation, Sample, TuningReport

Progress = Callable[[int, int, float], None]  # step, steps, loss of the latest step


class PriorUnavailable(Exception):
    """The prior cannot answer now. One line that names its address and what to do."""


class TuningFailed(Exception):
    """A tuning round made no new adapter version. One line that names the address and the cause."""


class PriorSource(Protocol):
    """A VLM behind gRPC (client.GrpcPrior) or a named teacher (teachers.Teacher)."""

    def predict(self, observations: Sequence[Observation]) -> list[Label]:
        """One label per observation, in order. An answer that cannot be read is a label with status
        "malformed"; PriorUnavailable is raised when there is no answer at all."""
        ...

    def close(self) -> None:
        """Gives up connections; a call in flight ends with PriorUnavailable."""
        ...


@runtime_checkable
class GradedPrior(PriorSource, Protocol):
    """A teacher that knows where it is right: its labels say so (``Label.reliable``), which measures a gate."""

    def reliable(self, observation: Observation) -> bool:
        """Whether its answer to this observation is the right one."""
        ...


@runtime_checkable
class TunablePrior(PriorSource, Protocol):
    """A prior that learns from the agent's own steps: a VLM behind gRPC. Teachers cannot."""

    run: str  # namespace of the versions: no other run's
    version: str  # adapter version that answers now: "base", "v1", ...
    digest: str  # of that version

    def activate(self, version: str) -> tuple[str, str]:
        """Lets a version answer from now on; its (version, digest). Raises PriorUnavailable if it cannot."""
        ...

    def tune(
        self,
        samples: Sequence[Sample],
        config: RoundsConfig,
        seed: int,
        parent: str = "",
        progress: Progress | None = None,
        selection: Mapping[str, float] | None = None,
    ) -> TuningReport:
        """Makes a new version from ``parent`` ("": the one that answers now) and lets it answer, unless
        ``config.promotion`` wants it to be better first. What was asked for before, in the same words, gives the
        version that it gave then. ``selection``: numbers about how the samples were chosen, for the record.

        Raises TuningFailed if there is none; the version that answered before then goes on answering.
        """
        ...
