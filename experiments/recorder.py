"""The loop's records on disk and on the screen: run directory, videos, checkpoints, progress bar."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from covr_jax.checkpoint import save_params
from covr_jax.evaluation import Episode
from covr_jax.priors.labels import Answered
from covr_jax.replay.buffer import ReplayBuffer
from covr_jax.snapshots import Snapshots
from covr_jax.types import LearnerState
from experiments.policy import params_path
from experiments.run_directory import RunDirectory
from experiments.video import write_episode


class RunRecorder:
    """Implements ``covr_jax.recording.Recorder``."""

    def __init__(
        self,
        run: RunDirectory,
        snapshots: Snapshots,
        budget: int,
        unit: str,
        action_names: Sequence[str],
        fps: float,
    ):
        self._run, self._snapshots, self._names, self._fps = run, snapshots, action_names, fps
        # A log file gets a line a minute instead of a bar that moves.
        every = 0.2 if sys.stderr.isatty() else 60.0
        self._bar = tqdm(
            total=budget, unit=unit.removesuffix("s"), dynamic_ncols=True, smoothing=0.05, mininterval=every
        )

    def begin(self, steps: int) -> None:
        """Where the bar starts, in a resumed run."""
        self._bar.n = self._bar.initial = steps

    def metrics(self, record: dict[str, Any]) -> None:
        self._run.write("metrics", record)

    def evaluation(self, record: dict[str, Any], video: Episode | None, prior_actions: np.ndarray | None) -> None:
        if video is not None:
            name = f"videos/{record['frames']:09d}.mp4"
            frames = np.stack([observation.frame for observation in video.observations])
            try:
                write_episode(
                    self._run.path / name, frames, np.stack(video.actions), prior_actions, self._names, self._fps
                )
                record = {**record, "video": name}
            except (OSError, RuntimeError) as error:  # a picture is not worth the run
                self._bar.write(f"no video: {error}")
        self._run.write("evaluations", record)
        self._bar.write(
            f"{record['frames']:>9} frames  evaluation {record['return_mean']:.0f} ± {record['return_std']:.0f} "
            f"({len(record['returns'])} episodes)"
        )

    def round(self, record: dict[str, Any]) -> None:
        self._run.write("rounds", record)
        before, after = record.get("vlm_return_before"), record.get("vlm_return_after")
        alone = "" if after is None else f", VLM alone {before:.0f} -> {after:.0f}"
        error = f", {record['error']}" if "error" in record else ""
        self._bar.write(
            f"{record['frames']:>9} frames  round {record['round']}: kept {record['kept']}/{record['total']}, "
            f"adapter {record.get('adapter_version', 'unchanged')}{alone}{error}"
        )

    def label(self, record: dict[str, Any], answered: Answered) -> None:
        label = answered.label
        self._run.write_sample(
            answered.observation.frame,
            record
            | {
                "prompt": label.prompt,
                "text": label.text,
                "status": label.status,
                "version": label.version,
                "action": None if label.action is None else label.action.tolist(),
                "policy_action": answered.action.tolist(),
            },
        )

    def timing(self, record: dict[str, Any]) -> None:
        self._run.write("timings", record)

    def progress(self, steps: int, notes: dict[str, str]) -> None:
        self._bar.set_postfix(notes, refresh=False)
        self._bar.update(steps - self._bar.n)

    def policy(self, state: LearnerState) -> None:
        save_params(params_path(self._run.path), state.params)

    def checkpoint(
        self, decisions: int, learner: LearnerState, state: dict[str, Any], replay: ReplayBuffer
    ) -> None:
        self._snapshots.save(decisions, learner, state | {"records": self._run.lengths()}, replay)

    def close(self) -> None:
        self._bar.close()
