"""Trains every combination of tasks, methods and seeds.

    python -m experiments.sweep --methods=none,dpl,covr --tasks=dmc/cartpole/swingup --seeds=0..4 --preset=cpu,tiny \\
        --workers=2 --out=runs/sweep
    python -m experiments.report runs/sweep

Every trial is a plain ``python -m experiments.train`` with a run directory and a log of its own:
OUT/<task>/<method>/seed_<seed> and ....log. --dry_run prints the commands.

Exit codes: 0 all trials are done, 1 some failed, 2 a wrong value, 130 interrupted.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from covr_jax.methods import BASES
from experiments import configuration
from experiments.command_line import fail
from experiments.launching import conclude, launch
from experiments.trials import Sweep, parse_seeds, pending

_TASKS = flags.DEFINE_list("tasks", [], "dmc/<domain>/<task>,...; empty: the preset's.")
_BASES = flags.DEFINE_list("bases", [], f"Base learners, of {', '.join(BASES)}; empty: the preset's.")
_METHODS = flags.DEFINE_list("methods", [], "What a VLM adds: none,dpl,covr; empty: the preset's.")
_SEEDS = flags.DEFINE_string("seeds", "0..4", "0..4 (five seeds), or 1,3,5.")
_PRESET = flags.DEFINE_string("preset", "", f"As of experiments.train: {', '.join(configuration.presets())}.")
_STEPS = flags.DEFINE_integer("steps", None, "Budget of each trial, in run.step_unit.")
_PRIOR = flags.DEFINE_string("prior", None, "As of experiments.train; by default each trial that asks starts its own.")
_SET = flags.DEFINE_multi_string("set", [], "Any field, for all trials: --set=learner.batch_size=64; repeatable.")
_OUT = flags.DEFINE_string("out", None, "Folder of the sweep.", required=True)
_ONLY_MISSING = flags.DEFINE_bool("only_missing", False, "Leave out the trials that are finished.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands and do nothing.")


def main(argv: Sequence[str]) -> int:
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    try:
        sweep = Sweep(
            out=Path(_OUT.value),
            tasks=tuple(_TASKS.value),
            bases=tuple(_BASES.value),
            methods=tuple(_METHODS.value),
            seeds=parse_seeds(_SEEDS.value),
            preset=_PRESET.value,
            steps=_STEPS.value,
            prior=_PRIOR.value,
            settings=tuple(_SET.value),
        )
        trials = pending(sweep.trials(), _ONLY_MISSING.value)
        if _DRY_RUN.value:
            print("\n".join(shlex.join(trial.command) for trial in trials))
            return 0
        outcomes = launch([trial.job for trial in trials], sweep.out)
    except (ValueError, OSError) as error:
        fail(str(error))
    return conclude(outcomes, sweep.out, "the same command with --only_missing")


if __name__ == "__main__":
    app.run(main)
