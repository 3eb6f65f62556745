"""Writes the policy of a run alone, for machines without this package: its mean action on a CPU, no VLM, no simulator.

    python -m experiments.export --run=runs/demo                        # writes runs/demo/export
    python -m experiments.export --run=runs/demo --out=car --format=onnx

--out then holds `policy.stablehlo` (needs the jax package alone), `policy.onnx` (needs an ONNX runtime alone) and
`policy.json`: task, actions and their ranges, sizes, what to feed and a few lines of example code. Files of an earlier
export there are replaced. ONNX does not cover the bases madi and resact, and is written by the onnx package
(pip install 'covr-jax[export]'); where either is missing nothing is written, and --format=stablehlo goes without.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import jax
from absl import app, flags

from covr_jax.config import Config
from covr_jax.envs.gl import GlError
from covr_jax.learner import Learner
from experiments import policy_stablehlo
from experiments.command_line import fail, prepare
from experiments.policy import environment, load_policy
from experiments.run_directory import read_config, write_json

FORMATS = ("stablehlo", "onnx")
EXAMPLES = {
    "stablehlo": (
        "import jax, jax.export, pathlib  # on a machine with a GPU, set JAX_PLATFORMS=cpu",
        'saved = bytearray(pathlib.Path("policy.stablehlo").read_bytes())',
        "policy = jax.jit(jax.export.deserialize(saved).call)",
        "action = policy({inputs})",
    ),
    "onnx": (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("policy.onnx")',
        'action = session.run(["action"], {{"stacks": stacks}})[0]',
    ),
}
STACKS = (
    "stacks [N,H,W,3S]: the newest S frames of the task, RGB, 0 to 255, side by side in the channels, oldest first; "
    "before there are S, the first one fills the places. Frames have render_size; centre view and scaling are inside."
)
BEFORE = (
    " previous_stacks, previous_actions: those of the decision before; zeros at an episode's start."
)

_RUN = flags.DEFINE_string("run", None, "Run directory.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write to; by default export/ in the run directory.")
_FORMAT = flags.DEFINE_list("format", list(FORMATS), f"What is written: {', '.join(FORMATS)}, or both.")


def main(argv: list[str]) -> None:
    prepare()
    jax.config.update("jax_platforms", "cpu")  # what is exported is for the CPU, its convolutions included
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    run = Path(_RUN.value)
    try:
        export(run, Path(_OUT.value) if _OUT.value else run / "export", _FORMAT.value)
    except (ValueError, GlError, OSError) as error:
        fail(str(error))


def export(run: Path, out: Path, formats: list[str]) -> None:
    """Raises ValueError, GlError, OSError; nothing is written before all that can be wrong has been looked at."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"--format={','.join(formats)}: allowed: {', '.join(FORMATS)}")
    policy_onnx = _policy_onnx() if "onnx" in formats else None
    config = read_config(run)
    with environment(config) as env:
        learner, params = load_policy(run, env.action_space.shape[0])
        files = {}
        if policy_onnx is not None:
            files["policy.onnx"] = policy_onnx.serialise(learner, params, config.env.render_size)
        if "stablehlo" in formats:
            files["policy.stablehlo"] = policy_stablehlo.serialise(learner, params, config.env.render_size)
        described = describe(config, env, learner, formats)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        part = out / f"{name}.part"
        part.write_bytes(content)
        part.replace(out / name)
        print(f"{out / name}: {len(content) / 1e6:.2f} MB")
    write_json(out / "policy.json", described)
    print(f"{out / 'policy.json'}\n\n{described['feed']}")
    for name in formats:
        print("\n" + "\n".join(described["examples"][name]))


def describe(config: Config, env: gymnasium.Env, learner: Learner, formats: list[str]) -> dict[str, Any]:
    """What policy.json holds."""
    inputs = policy_stablehlo.inputs(learner, config.env.render_size)
    names = ", ".join(each.name for each in inputs)
    space = env.action_space
    return {
        "task": config.env.name,
        "environment": dataclasses.asdict(config.env),
        "action_repeat": env.action_repeat,
        "decisions_per_second": env.decision_rate,
        "actions": [
            {"name": name, "low": low, "high": high}
            for name, low, high in zip(env.action_names, space.low, space.high, strict=True)
        ],
        "base": config.learner.base,
        "method": config.learner.method,
        "render_size": config.env.render_size,
        "frame_stack": config.env.frame_stack,
        "augmentation": learner.augmentation,
        "image_size": config.learner.image_size,
        "inputs": [{"name": each.name, "dtype": each.dtype, "shape": ["N", *each.shape]} for each in inputs],
        "output": {"name": "action", "dtype": "float32", "shape": ["N", learner.action_dim]},
        "feed": STACKS + (BEFORE if learner.base.sight.remembers else ""),
        "examples": {name: [line.format(inputs=names) for line in EXAMPLES[name]] for name in formats},
        "jax": jax.__version__,
    }


def _policy_onnx() -> ModuleType:
    try:
        from experiments import policy_onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ValueError("ONNX needs a package: pip install 'covr-jax[export]', or take --format=stablehlo") from None
    return policy_onnx


if __name__ == "__main__":
    app.run(main)
