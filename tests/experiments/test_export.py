"""Exported policies say what the learner says, in processes that have nothing of this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from covr_jax.checkpoint import save_params
from covr_jax.config import Config, EnvConfig, LearnerConfig
from covr_jax.learner import Learner
from experiments import configuration, policy_onnx, policy_stablehlo
from experiments.policy import params_path

ROOT = Path(__file__).parents[2]
LIMIT = 12 * 2**20  # bytes
SMALL = {"filters": (4, 6), "kernels": (3, 3), "strides": (2, 1), "feature_dim": 8, "hidden_dim": 16}
# Odd margins on purpose: a centre has two sides.
CASES = {
    "sac": (LearnerConfig(base="sac", method="none", augmentation="none", image_size=20, **SMALL), 20),
    "rad_translate": (LearnerConfig(base="rad", method="none", augmentation="translate", image_size=25, **SMALL), 20),
    "rad_crop": (LearnerConfig(base="rad", method="none", augmentation="crop", image_size=15, **SMALL), 20),
    "drq": (LearnerConfig(base="drq", method="none", augmentation="shift", image_size=20, **SMALL), 20),
}
ACTIONS = 2

# Runs every case while neither this package nor what only it needs can be imported.
ALONE = """
import sys
from pathlib import Path
import numpy as np

folder, kind = Path(sys.argv[1]), sys.argv[2]
for name in ("covr_jax", "experiments", "covr", "flax", "orbax", "onnx", "jax" if kind == "onnx" else "onnxruntime"):
    sys.modules[name] = None
for file in sorted(folder.glob(f"*.{kind}")):
    pictures = np.load(folder / f"{file.stem}.npy")
    if kind == "onnx":
        import onnxruntime
        session = onnxruntime.InferenceSession(file)
        policy = lambda stacks: session.run(["action"], {"stacks": stacks})[0]
    else:
        import jax, jax.export
        policy = jax.jit(jax.export.deserialize(bytearray(file.read_bytes())).call)
    np.save(folder / f"{file.stem}_{kind}_three.npy", policy(pictures))
    np.save(folder / f"{file.stem}_{kind}_one.npy", policy(pictures[:1]))
"""


def _moved(params):
    """As after learning: no bias and no scale at its initial value."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape).astype(np.float32), params)


def _learner(name: str) -> tuple[Learner, dict, int]:
    config, render_size = CASES[name]
    learner = Learner(config, ACTIONS, 3)
    shapes = jax.eval_shape(lambda: learner.agent.create(jax.random.PRNGKey(0)))
    return learner, _moved(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)), render_size


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Every case in both formats, and what the learner says about three random stacks."""
    folder, expected = tmp_path_factory.mktemp("exported"), {}
    for name in CASES:
        learner, params, size = _learner(name)
        stacks = np.random.default_rng(0).integers(0, 256, (3, size, size, 9), dtype=np.uint8)
        expected[name] = np.asarray(learner.mean_action(params, stacks))
        np.save(folder / f"{name}.npy", stacks)
        (folder / f"{name}.stablehlo").write_bytes(policy_stablehlo.serialise(learner, params, size))
        (folder / f"{name}.onnx").write_bytes(policy_onnx.serialise(learner, params, size))
    return folder, expected


@pytest.mark.parametrize("kind", ["stablehlo", "onnx"])
def test_the_files_alone_say_what_the_learner_says(exported, kind):
    folder, expected = exported
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), kind],
        cwd=folder, env={**clean, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for name, actions in expected.items():
        three, one = (np.load(folder / f"{name}_{kind}_{count}.npy") for count in ("three", "one"))
        assert three.dtype == np.float32 and three.shape == (3, ACTIONS)
        np.testing.assert_allclose(three, actions, atol=1e-5, rtol=0, err_msg=name)
        np.testing.assert_allclose(one, actions[:1], atol=1e-5, rtol=0, err_msg=name)
        assert np.ptp(actions, axis=0).min() > 1e-3 and np.abs(actions).max() < 0.999, "tells nothing"


def test_at_rads_full_setting_both_stay_below_the_limit():
    learner = Learner(LearnerConfig(base="rad", method="none", augmentation="crop", image_size=84), 6, 3)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: learner.agent.create(jax.random.PRNGKey(0)))
    params = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)
    for module in (policy_stablehlo, policy_onnx):
        assert 11 * 2**20 < len(module.serialise(learner, params, 100)) < LIMIT


@pytest.mark.parametrize(("base", "reason"), [("madi", "masks its pictures"), ("resact", "reads the decision before")])
def test_what_onnx_does_not_cover(base, reason):
    size = {"madi": "shift", "resact": "none"}[base]
    learner = Learner(LearnerConfig(base=base, method="none", augmentation=size, image_size=20, **SMALL), 1, 3)
    with pytest.raises(ValueError, match=f"'{base}' {reason}.*--format=stablehlo"):
        policy_onnx.serialise(learner, {}, 20)


def test_the_previous_decision_is_an_input_of_resact():
    config = LearnerConfig(base="resact", method="none", augmentation="none", image_size=20, **SMALL)
    learner = Learner(config, ACTIONS, 3)
    shapes = jax.eval_shape(lambda: learner.agent.create(jax.random.PRNGKey(0)))
    params = _moved(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    rng = np.random.default_rng(0)
    now, before = rng.integers(0, 256, (2, 3, 20, 20, 9), dtype=np.uint8)
    action = rng.uniform(-1, 1, (3, ACTIONS)).astype(np.float32)
    saved = jax.export.deserialize(bytearray(policy_stablehlo.serialise(learner, params, 20)))
    expected = learner.mean_action(params, policy_stablehlo.Remembered(now, before, action))
    np.testing.assert_allclose(saved.call(now, before, action), expected, atol=1e-5, rtol=0)


# -- the program -----------------------------------------------------------------------------------------------------


def program(*arguments: str, before: str = "") -> subprocess.CompletedProcess:
    code = f"import runpy, sys; {before}runpy.run_module('experiments.export', run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a policy that drives; nothing was trained."""
    folder = tmp_path_factory.mktemp("runs") / "drq"
    config, size = CASES["drq"]
    folder.mkdir()
    resolved = configuration.resolve(Config(env=EnvConfig(name="toy/highway", render_size=size), learner=config))
    (folder / "config.json").write_text(configuration.to_json(resolved))
    learner, _, _ = _learner("drq")
    (folder / "checkpoints").mkdir()
    save_params(params_path(folder), _moved(jax.device_get(learner.init(0, size).params)))
    return folder


def test_the_program_writes_files_and_says_how_to_use_them(run):
    done = program(f"--run={run}")
    assert done.returncode == 0, done.stderr[-2000:]
    about = json.loads((run / "export" / "policy.json").read_text())
    assert about["task"] == "toy/highway" and about["augmentation"] == "shift" and about["frame_stack"] == 3
    assert about["actions"] == [{"name": name, "low": -1.0, "high": 1.0} for name in ("steer", "throttle")]
    assert about["inputs"] == [{"name": "stacks", "dtype": "uint8", "shape": ["N", 20, 20, 9]}]
    stacks = np.random.default_rng(2).integers(0, 256, (2, 20, 20, 9), dtype=np.uint8)
    said = {}
    for name, lines in about["examples"].items():
        assert "\n".join(lines) in done.stdout
        code = "\n".join(["import numpy", "stacks = numpy.load('s.npy')", *lines, "print(action.tolist())"])
        np.save(run / "export" / "s.npy", stacks)
        used = subprocess.run([sys.executable, "-c", code], cwd=run / "export", capture_output=True, text=True)
        assert used.returncode == 0, used.stderr[-2000:]
        said[name] = json.loads(used.stdout)
    np.testing.assert_allclose(said["onnx"], said["stablehlo"], atol=1e-5, rtol=0)


def test_errors_are_one_line_and_write_nothing(run, tmp_path):
    missing = program(f"--run={run}", f"--out={tmp_path / 'out'}", before="sys.modules['onnx'] = None; ")
    nothing = program(f"--run={tmp_path / 'none'}")
    unknown = program(f"--run={run}", "--format=onnx,torch")
    for done, message in (
        (missing, "pip install 'covr-jax[export]'"),
        (nothing, "holds no run"),
        (unknown, "allowed: stablehlo, onnx"),
    ):
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()
