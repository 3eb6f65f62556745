"""Trains one agent.

    python -m experiments.train --preset=cpu,tiny,demo --out=runs/demo
    python -m experiments.train --env=dmc/reacher/easy --base=rad --method=none --seed=2 --steps=100000 --out=runs/rad
    python -m experiments.train --preset=cpu --method=dpl --prior=teacher:oracle --out=runs/oracle
    python -m experiments.train --resume --out=runs/oracle

With --resume the same command line starts a run, goes on with it after it was stopped or killed, and does nothing once
it is done: the records are those of a run that was never stopped. SIGTERM and Ctrl-C let the decision under way end and
write a checkpoint; the second one stops at once, and what followed the latest checkpoint is done again.

Exit codes: 0 done; 1 an environment raised an error; 2 a wrong value, a missing requirement or a full disk; 3 no prior
at the start, or gone although it was required; 75 stopped by SIGTERM, or the prior server or the process of an
environment that the run started has died: go on with --resume, as schedulers do that requeue on this code
(EX_TEMPFAIL); 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from absl import app, flags

from covr_jax.envs import ALLOWED
from covr_jax.envs.driving.world import WorldLost
from covr_jax.envs.gl import GlError
from covr_jax.envs.vector import WorkerDied, WorkerFailed
from covr_jax.methods import BASES, METHODS
from covr_jax.priors.own_server import PriorDied
from covr_jax.priors.source import PriorUnavailable, TuningFailed
from experiments import configuration
from experiments.command_line import fail, prepare
from experiments.configuration import Built
from experiments.run import Terminated, run

MINIMUM_DISK_MB = 500

_PRESET = flags.DEFINE_string(
    "preset", "", f"Named settings, comma-separated, later ones win: {', '.join(configuration.presets())}."
)
_ENV = flags.DEFINE_string("env", None, f"{ALLOWED}.")
_BASE = flags.DEFINE_string("base", None, f"Base learner: {', '.join(BASES)} (docs/methods.md).")
_METHOD = flags.DEFINE_string("method", None, f"What a VLM adds: {', '.join(METHODS)}.")
_SEED = flags.DEFINE_integer("seed", None, "Seed of everything random.")
_STEPS = flags.DEFINE_integer("steps", None, "Budget, in run.step_unit (simulator frames by default).")
_NUM_ENVS = flags.DEFINE_integer(
    "num_envs", None, "Environments that training drives at once, several in processes of their own (docs/speed.md)."
)
_PRIOR = flags.DEFINE_string(
    "prior",
    None,
    "tiny; a Hugging Face id or folder (a server is started and stopped for you); grpc://host:port (one that runs); "
    "or teacher:<oracle|noisy|half|zeros|random>.",
)
_VALUE_CRITIC = flags.DEFINE_string("value_critic", None, "Folder of experiments.pretrain_critic, for gated methods.")
_REQUIRED = flags.DEFINE_bool("prior_required", None, "Stop when the prior is gone, instead of going on as the base.")
_SET = flags.DEFINE_multi_string("set", [], "Any field of covr_jax/config.py: --set learner.batch_size=64; repeatable.")
_OUT = flags.DEFINE_string("out", None, "Run directory.", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the run in --out, if one is there.")
_RESUME = flags.DEFINE_bool(
    "resume", False, "Go on with the run in --out, if one is there; its settings may be left out, not changed."
)


def _configure() -> Built:
    return configuration.build(
        _PRESET.value,
        {
            "env.name": _ENV.value,
            "learner.base": _BASE.value,
            "learner.method": _METHOD.value,
            "run.seed": _SEED.value,
            "run.steps": _STEPS.value,
            "run.num_envs": _NUM_ENVS.value,
            "prior.source": _PRIOR.value,
            "prior.value_critic": _VALUE_CRITIC.value,
            "prior.required": _REQUIRED.value,
        },
        _SET.value,
    )


def _terminate(*_) -> None:
    raise Terminated("stopped by SIGTERM")


def main(argv: list[str]) -> int:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    if _RESUME.value and _OVERWRITE.value:
        fail("--resume keeps the run in --out and --overwrite removes it: give one of them")
    out = Path(_OUT.value)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        built = _configure()
        parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        if shutil.disk_usage(parent).free < MINIMUM_DISK_MB * 2**20:
            fail(f"less than {MINIMUM_DISK_MB} MB of disk are free at {parent}; free some or choose another --out")
        run(built, out, _OVERWRITE.value, _RESUME.value)
    except WorldLost as error:
        fail(f"{error}; go on with --resume", code=os.EX_TEMPFAIL)
    except (ValueError, GlError, OSError) as error:
        fail(str(error))
    except (PriorUnavailable, TuningFailed) as error:
        fail(str(error), code=3)
    except (PriorDied, WorkerDied) as error:
        fail(f"{error}; go on with --resume", code=os.EX_TEMPFAIL)
    except WorkerFailed as error:
        fail(f"{error}; its traceback is above", code=1)
    except Terminated:
        print(f"\nstopped by SIGTERM; go on with --resume --out={out}", file=sys.stderr)
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        print(f"\ninterrupted; what was recorded is in {out}, go on with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    app.run(main)
