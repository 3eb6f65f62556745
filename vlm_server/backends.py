"""What computes a server's answers: transformers, or vLLM where it is installed. Both are a ``Backend``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # so that a wrong choice is refused before torch is imported
    from vlm_server.engine import Observation, Reply, Timings
    from vlm_server.lora import Saved
    from vlm_server.tasks import Task

NAMES = ("transformers", "vllm")


class Backend(Protocol):
    """Answers of a base model and its adapters, on the inference thread only; ``engine.Engine`` says what raises."""

    constrains: bool  # whether it can write nothing but replies that parse
    targets: tuple[str, ...]  # of ``TuningConfig``, whose adapters it serves
    prefixes_reused: int  # questions whose text was not read again

    def add_adapter(self, key: str, adapter: Path | Saved) -> None: ...

    def remove_adapter(self, key: str) -> None: ...

    def check(self, key: str) -> None: ...

    def check_prefixes(self) -> None: ...

    def predict(
        self,
        task: Task,
        observations: Sequence[Observation],
        adapter: str | None,
        constrained: bool,
        max_new_tokens: int,
        should_stop: Callable[[], bool] | None,
    ) -> tuple[list[Reply], Timings]: ...


def check(name: str, model: str, keep_prefixes: bool) -> None:
    """Whether this backend can be used here, as far as can be told without the model.

    Raises:
        ValueError: it cannot; one line says why.
    """
    if name == "transformers":
        return
    if importlib.util.find_spec("vllm") is None:
        raise ValueError("--backend=vllm needs vLLM: pip install 'covr-jax[server,vllm]'")
    if model == "tiny":
        raise ValueError("--backend=vllm is for released models; the tiny one, which needs constraints, is served by"
                         " --backend=transformers")  # fmt: skip
    if keep_prefixes:
        raise ValueError("--prefix_cache belongs to --backend=transformers; vLLM keeps prefixes by itself")
