"""The value critic's program, its artefact, and a run that is gated by it.

Ledger rows held here (docs/fidelity.md): E19, E33.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from covr_jax.agent import CRITIC, Agent, pick
from experiments import configuration, value_critic_artefact
from experiments.run_directory import read_lines
from tests.experiments.test_train import program, train

SMALL = ["--preset=smoke", "--base=deepmdp", "--set", "run.steps=400", "--set", "run.random_decisions=10",
         "--set", "run.log_every=200"]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base run and a value critic on top of it; both programs' output."""
    folder = tmp_path_factory.mktemp("erpv")
    base = train(folder / "base", *SMALL, "--method=none")
    assert base.returncode == 0, base.stderr[-2000:]
    critic = program(
        "experiments.pretrain_critic", f"--policy={folder / 'base'}", "--prior=teacher:random", "--frames=1500",
        "--updates=30", "--discount=0.8", "--set", "prior.period=3", f"--out={folder / 'critic'}",
    )  # fmt: skip
    assert critic.returncode == 0, critic.stderr[-2000:]
    return folder, critic


def test_the_manifest_says_what_it_is_for_and_how_it_was_made(made):
    manifest = json.loads((made[0] / "critic" / "manifest.json").read_text())
    assert manifest["fits"]["env.name"] == "dmc/cartpole/swingup" and manifest["fits"]["action size"] == 1
    how = manifest["made"]
    assert how["frames"] == how["decisions"] * 8 >= 1500
    assert how["data"] == "rae" and how["target"] == "sarsa" and how["updates"] == 30
    assert how["settings"] == ["prior.period=3"]
    assert how["discount"] == 0.8 and manifest["fits"]["learner.discount"] == 0.99  # its own, and its learner's
    assert 0.2 < how["prior_share"] < 0.8 and len(how["episode_returns"]) == 1
    assert "next:   python -m experiments.train --method=erpv --base=deepmdp --value_critic=" in made[1].stdout


@pytest.mark.parametrize(
    "setting, words",
    [
        ("learner.discount=0.5", "--set learner.discount=0.5: must be a field of prior"),
        ("prior.perod=3", "prior.perod"),
        ("prior.teacher_policy=nowhere", "nowhere"),
    ],
)
def test_settings_are_the_priors_alone_and_are_heeded(made, tmp_path, setting, words):
    done = program(
        "experiments.pretrain_critic", f"--policy={made[0] / 'base'}", "--prior=teacher:oracle", "--set", setting,
        f"--out={tmp_path / 'critic'}",
    )  # fmt: skip
    assert done.returncode == 2 and words in done.stderr.splitlines()[-1], done.stderr[-2000:]


def test_a_gated_run_records_gate_temperature_and_the_frames_spent_before(made):
    folder = made[0]
    done = train(
        folder / "erpv", *SMALL, "--method=erpv", "--prior=teacher:oracle", f"--value_critic={folder / 'critic'}"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    last = read_lines(folder / "erpv" / "metrics.jsonl")[-1]
    assert last["prior_share"] > 0 and 0 <= last["gate_open"] <= 1 and last["guidance_gradient_norm"] >= 0
    assert 0 < last["alpha_target_p10"] <= last["alpha_target_p90"] <= 0.5
    assert json.loads((folder / "erpv" / "value_critic.json").read_text())["frames"] >= 1500
    page = (folder / "erpv" / "report.html").read_text()
    assert json.loads((folder / "erpv" / "value_critic.json").read_text())["policy_frames"] == 400
    assert "frames more went into the value critic and its policy" in page and "Temperature target" in page
    done = program("experiments.evaluate", f"--run={folder / 'erpv'}", "--episodes=1")
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_prior_drives_alone_where_a_run_was_trained(made):
    run, zeros = f"--run={made[0] / 'base'}", "--prior=teacher:zeros"
    done = program("experiments.evaluate", run, zeros, "--set=prior.period=8", "--episodes=2")
    assert done.returncode == 0 and "over 2 episodes" in done.stdout, done.stderr[-2000:]
    refused = program("experiments.evaluate", run, zeros, "--set=learner.discount=0")
    assert refused.returncode == 2 and "must be a field of env or prior" in refused.stderr


@pytest.fixture
def artefact(tmp_path):
    config = configuration.resolve(configuration.build("smoke", {"learner.base": "deepmdp"}).config)
    params = pick(Agent(config.learner, 1, config.env.frame_stack, {}).create(jax.random.PRNGKey(0)), CRITIC)
    value_critic_artefact.save(
        tmp_path / "critic", params, value_critic_artefact.fits(config, 1, 8), {"frames": 5}
    )
    return tmp_path / "critic", config, params


def test_the_artefact_comes_back_as_it_was(artefact):
    folder, config, params = artefact
    loaded, how = value_critic_artefact.load(folder, config, 1, 8)
    assert how == {"frames": 5}
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("env", "name", "dmc/reacher/easy"), "env.name=dmc/cartpole/swingup, this run has dmc/reacher/easy"),
        (("learner", "image_size", 60), "learner.image_size="),
        (("learner", "hidden_dim", 7), "learner.hidden_dim="),
        (("env", "render_quality", "default"), "env.render_quality=fast, this run has default"),
        (("learner", "discount", 0.5), "learner.discount=0.99, this run has 0.5"),
        (("env", "frame_stack", 4), "env.frame_stack=3, this run has 4"),
    ],
)
def test_another_task_or_size_is_refused_in_one_line(artefact, change, words):
    folder, config, _ = artefact
    part, field, value = change
    other = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **{field: value})})
    with pytest.raises(ValueError, match=words) as caught:
        value_critic_artefact.load(folder, other, 1, 8)
    assert "\n" not in str(caught.value)


def test_another_action_size_is_refused(artefact):
    with pytest.raises(ValueError, match="action size=1, this run has 6"):
        value_critic_artefact.load(artefact[0], artefact[1], 6, 8)


def test_damage_is_noticed(artefact):
    folder, config, _ = artefact
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"digest": "0" * 64}))
    with pytest.raises(ValueError, match="is damaged"):
        value_critic_artefact.load(folder, config, 1, 8)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read"):
        value_critic_artefact.load(folder, config, 1, 8)
    shutil.rmtree(folder / "params")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="holds no readable value critic"):
        value_critic_artefact.load(folder, config, 1, 8)
