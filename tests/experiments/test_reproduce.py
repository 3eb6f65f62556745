"""Every table of the papers becomes commands that a run accepts; a run is compared with its twin."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from covr_jax.learner import Learner
from covr_jax.methods import BASES
from experiments import configuration, paper_results
from experiments.reproduction import here, identical, kills, plan, tables
from experiments.reproduction.cost import Load, flops, load
from experiments.reproduction.here import Site
from experiments.reproduction.plan import Choices
from experiments.run_directory import RunDirectory
from experiments.trials import Sweep
from tests.experiments.test_train import program

TIMEOUT_S = 1500  # of tests that train


def made(key: str, out: Path = Path("out"), repeat: int = 4, **choices) -> plan.Plan:
    return plan.make(tables.find(key), Choices(out, **({"seeds": (1,)} | choices)), lambda config: repeat)


def test_every_printed_row_has_its_entry():
    entries = {(table.paper, table.printed): table for table in tables.read().values()}
    for result in paper_results.read():
        table = entries[result.paper, result.table]
        (row,) = [row for row in table.rows if row.printed == result.printed_method]
        assert result.task in table.tasks, result
        if result.base:  # the report holds the row against runs of these
            assert (row.base or table.base, row.method) == (result.base, result.method), result


def test_every_table_of_both_papers_is_there():
    numbers = {paper: {table.number for table in tables.read().values() if table.paper == paper} for paper in
               ("COVR", "ERPv")}  # fmt: skip
    assert {str(number) for number in range(1, 6)} <= numbers["COVR"]
    assert numbers["ERPv"] == {str(number) for number in range(1, 19)}
    with pytest.raises(ValueError, match=r"^--table=covr/99: must be one of covr/1, covr/2"):
        tables.find("covr/99")


CASES = [(key, False) for key in tables.read()] + [("covr/1", True), ("erpv/17", True)]


@pytest.mark.parametrize(("key", "toy"), CASES)
def test_every_command_is_a_valid_configuration(key, toy):
    found = made(key, toy=toy)
    table = found.table
    for row in table.rows:
        assert row.printed in found.absent or any(item.row == row for item in found.items)
        assert row.base in BASES if row.base else (row.absent or table.base), row
    outs = [item.trial.out for item in found.items]
    assert len(set(outs)) == len(outs)
    for trial in [item.trial for item in found.items] + found.policies:
        config = trial.config
        Learner(config.learner, 2, config.env.frame_stack)  # refuses what does not go together
        assert config.env.name.startswith("carla/") <= (not toy)
        flags = dict(part[2:].split("=", 1) for part in trial.command[3:-1] if not part.startswith("--set"))
        assert (config.env.name, config.learner.base, config.learner.method) == (
            flags["env"], flags["base"], flags["method"],
        )  # fmt: skip
    for item in found.items:
        needs = Learner(item.trial.config.learner, 2, 3).needs_value_critic
        assert needs == (item.critic is not None)
        if needs:
            assert item.trial.config.prior.value_critic == str(item.critic.out)
            assert f"--policy={item.critic.policy.out}" in item.critic.command


def test_rows_say_what_the_papers_say():
    covr = {item.row.printed: item.trial.config for item in made("covr/5").items}
    assert len(covr) == 12 and covr["COVR-M3"].rounds.eddf.percentile == 90
    assert covr["COVR"].learner.guidance.weight == 2.0 and covr["COVR"].run.step_unit == "decisions"
    erpv = {item.row.printed: item.trial.config for item in made("erpv/3").items}
    assert erpv["ERPv-M6"].learner.alpha_zero_after == 50_000 - 1000
    assert erpv["ERPv"].env.driving.vehicles == 4 and erpv["ERPv"].prior.source == "Qwen/Qwen2-VL-7B-Instruct"
    assert not erpv["ERPv-M9"].prior.value_critic and erpv["ERPv-M8"].prior.value_critic
    (cartpole,) = [i for i in made("covr/4", repeat=8).items if i.row.printed == "APL" and "cartpole" in i.task]
    assert cartpole.trial.config.learner.guidance.phase == (100_000 // 8 - 1000) // 2
    crops = {item.task: item.trial.config.learner for item in made("erpv/2").items if item.row.printed == "RAD"}
    assert crops["dmc/walker/walk"].augmentation == "crop" and crops["dmc/cheetah/run"].critic_lr == 2e-4
    assert crops["dmc/reacher/easy"].augmentation == "translate" and crops["dmc/reacher/easy"].critic_lr == 1e-3
    masked = {item.task: item.trial.config.learner for item in made("covr/4").items if item.row.printed == "MLR"}
    assert {learner.batch_size for learner in masked.values()} == {512}
    assert masked["dmc/cartpole/swingup"].mask_block == 4 and masked["dmc/walker/walk"].encoder_tau == 0.1
    assert masked["dmc/cheetah/run"].critic_lr == 2e-4 and masked["dmc/finger/spin"].mask_block == 8


def test_absent_rows_are_named_and_choices_come_on_top():
    found = made("covr/4", preset="cpu,tiny", prior="tiny", steps=2000, settings=("learner.batch_size=8",))
    assert {"PSRL", "Dreamer", "PlaNet", "VPF"} <= set(found.absent)
    for item in found.items:
        config = item.trial.config
        assert (config.env.render_size, config.learner.batch_size, config.run.steps) == (50, 8, 2000)
        assert config.prior.source == "tiny"
    worst = [item for item in made("erpv/4", prior="tiny").items if "Worst" in item.row.printed]
    assert {item.trial.config.prior.source for item in worst} == {"teacher:zeros"}


def test_critics_are_shared_and_stages_wait_for_them(tmp_path):
    found = made("erpv/7", tmp_path)
    assert [critic.command[5].split("=")[1] for critic in found.critics] == ["vlm", "rl", "rae"]
    assert len(found.policies) == 1
    commands = [shlex.join(command) for command in found.commands()]
    assert len(commands) == 1 + 3 + 4 == len(set(commands))
    first, *rest = found.stages()
    assert [job.name for job in first] == ["policies/carla_highway/deepmdp_none/seed_1",
                                           "rae_m3/carla_highway/deepmdp_erpv/seed_1"]  # fmt: skip
    assert rest == [[], [], []] and found.unfinished() == 4  # nothing ran: what needs it waits
    rainy = made("erpv/16", tmp_path).items[0]
    assert rainy.then[2:5] == [
        "experiments.evaluate", f"--run={rainy.trial.out}", "--set=env.driving.weather=hard_rain_noon"
    ]  # fmt: skip
    assert "--env=toy/ghost_pedestrian" in made("erpv/17", tmp_path, toy=True).items[0].then


def finish(trial) -> None:
    with RunDirectory.create(trial.out, trial.config, [], {}) as run:
        run.write("evaluations", {"frames": 4 * trial.config.run.steps, "decisions": trial.config.run.steps})


def test_each_stage_finds_what_the_one_before_has_made(tmp_path):
    found = made("erpv/16", tmp_path)
    plain, gated = found.items
    stages = found.stages()
    assert [job.command for job in next(stages)] == [found.policies[0].command, plain.trial.command]
    finish(found.policies[0])
    finish(plain.trial)
    assert [job.command for job in next(stages)] == [found.critics[0].command]
    found.critics[0].out.mkdir(parents=True)
    (found.critics[0].out / "manifest.json").write_text("{}")
    assert [job.command for job in next(stages)] == [gated.trial.command]
    finish(gated.trial)
    assert [job.command for job in next(stages)] == [plain.then, gated.then] and found.unfinished() == 0
    assert [len(jobs) for jobs in found.stages()] == [0, 0, 0, 2]  # the same command goes on where it was


def test_what_a_trial_does_is_counted():
    flags = {"learner.base": "rad", "learner.method": "covr"}
    config = configuration.resolve(configuration.build("", flags).config)
    # 100k frames by 8; ten evaluations of ten episodes; rounds at 5k, 15k, 30k, 50k, 75k, asking from the fourth on.
    assert load(config, Site(8, 125, 1.0)) == Load(12_500, 11_500, 200_000, 5000, 5)


def test_second_critics_have_half_the_budget_in_its_unit():
    for key, wanted in (("erpv/2", 50_000), ("erpv/1", 4 * 50_000)):  # frames; decisions of four frames
        commands = [critic.command for critic in made(key).critics]
        assert commands and all(f"--frames={wanted}" in command for command in commands)
    assert f"--frames={4 * 150}" in made("erpv/16", steps=300).critics[0].command


def test_the_work_of_any_base_is_counted():
    small = ["learner.batch_size=4", "learner.filters=4,4", "learner.kernels=3,3", "learner.strides=2,2"]
    per_update = [
        flops(configuration.resolve(configuration.build("", {"learner.base": base}, small).config))
        for base in ("rad", "deepmdp", "madi")
    ]
    assert per_update == sorted(per_update) and per_update[0] > 0


def test_what_is_missing_here_is_named(monkeypatch, tmp_path):
    assert here.missing_prior("teacher:zeros") == here.missing_prior("grpc://a:1") == ""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "weights are not on this machine" in here.missing_prior("Qwen/Qwen2-VL-7B-Instruct")
    (tmp_path / "models--Qwen--Qwen2-VL-7B-Instruct" / "snapshots" / "abc").mkdir(parents=True)
    assert "weights" not in here.missing_prior("Qwen/Qwen2-VL-7B-Instruct")
    config = configuration.resolve(configuration.build("", {"env.name": "carla/highway"}).config)
    monkeypatch.setattr(here, "version", lambda package: None)
    assert here.site(config).missing.startswith('CARLA: pip install -e ".[carla]"')
    monkeypatch.undo()
    toy = dataclasses.replace(config, env=dataclasses.replace(config.env, name="toy/highway", render_size=32))
    measured = here.site(toy)
    assert measured.repeat == 4 and measured.frames_per_second > 0 and not measured.missing


# --- twins -----------------------------------------------------------------------------------------------------------


def lines(*records: dict) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_the_first_difference_of_records_is_named():
    one = lines({"frames": 8, "loss": 0.1}, {"frames": 16, "loss": 0.2})
    assert identical.lines_difference(one, one) is None
    other = lines({"frames": 8, "loss": 0.1}, {"frames": 16, "loss": 0.20000000000000004})
    assert identical.lines_difference(one, other) == "line 2, field loss: 0.2 and 0.20000000000000004"
    assert identical.lines_difference(one, lines({"frames": 8, "loss": 0.1})) == "line 2, which only the first run has"
    assert identical.lines_difference(lines({"a": 1}), lines({"a": 1, "b": 2})) == (
        "line 1, field b: only in the second run"
    )
    assert identical.lines_difference(b'{"a": 1}\n', b'{"a":1}\n') == "line 1, which differs in its spelling alone"


def test_the_first_difference_of_parameters_is_named():
    one = {"actor": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "log_alpha": np.float32(0.0)}
    assert identical.params_difference(one, one) is None
    kernel = one["actor"]["kernel"].copy()
    kernel[1, 1] = np.nextafter(np.float32(4), np.float32(5))
    assert "['actor']['kernel']: np.float32(4.0) and np.float32(4.0000005) at index 4 of 6" == (
        identical.params_difference(one, one | {"actor": {"kernel": kernel}})
    )
    assert "log_alpha" in identical.params_difference(one, one | {"log_alpha": np.float32(-0.0)})
    assert "only in the first" in identical.params_difference(one, {"actor": one["actor"]})


def test_a_wrong_value_is_refused_in_one_line():
    done = program("experiments.reproduce", "--table=covr/0")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: --table=covr/0: must be one of covr/1, covr/2")


MORTAL = """
import json, pathlib, sys, time
records = pathlib.Path(sys.argv[1])
lines = records.read_text().splitlines()[:-1] if records.exists() else []
lines = lines[: len(lines) // 4 * 4]  # its checkpoints
records.write_text("".join(line + "\\n" for line in lines))
with open(sys.argv[2], "a") as starts:
    starts.write(f"{len(lines)}\\n")
for step in range(len(lines), 20):
    time.sleep(0.05)
    with records.open("a") as file:
        file.write(json.dumps({"frames": 5 * step + 5}) + "\\n")
sys.exit(7)
"""


def test_a_run_is_killed_at_random_moments_and_started_again_until_it_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "DELAY_S", 0.05)
    monkeypatch.setattr(kills, "POLL_S", 0.01)
    records, starts, told = tmp_path / "timings.jsonl", tmp_path / "starts", []

    def share() -> float:
        lines = records.read_text().splitlines()
        return json.loads(lines[-1])["frames"] / 100 if lines and lines[-1].endswith("}") else 0.0

    trial = SimpleNamespace(
        command=[sys.executable, "-c", MORTAL, str(records), str(starts)], out=tmp_path, seed=3, share=share
    )
    assert kills.run(trial, os.environ, 3, told.append) == (7, 3)
    begun = [int(line) for line in starts.read_text().split()]
    assert len(begun) == 4 and begun == sorted(begun) and begun[0] == 0 < begun[-1]
    assert [line.split(" after ")[0] for line in told] == [f"killed ({n} of 3)" for n in (1, 2, 3)]
    assert len(records.read_text().splitlines()) == 20
    starts.unlink()
    assert kills.run(trial, os.environ, 0, told.append) == (7, 0) and len(starts.read_text().split()) == 1


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_a_run_equals_its_twin_and_a_changed_twin_does_not(tmp_path):
    small = ["--method=none", "--steps=1600", "--set=run.eval_every=800", "--set=run.video=false"]
    small += ["--kills=2", "--set=run.log_every=200", "--set=run.checkpoint_every=400"]
    done = program("experiments.reproduce", "--check", *small, f"--out={tmp_path / 'check'}", timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "killed (2 of 2) after" in done.stdout
    assert "equal, byte for byte: metrics.jsonl (" in done.stdout
    one, other = (
        Sweep(tmp_path / "check" / name, (None,), (None,), ("none",), (1,)).trials()[0].out
        for name in ("first", "second")
    )
    assert identical.first_difference(one, other) is None
    records = other / "evaluations.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"frames": 1600', b'"frames": 1608'))
    assert identical.first_difference(one, other) == "evaluations.jsonl, line 2, field frames: 1600 and 1608"
    assert program("experiments.reproduce", "--check", f"--out={tmp_path / 'check'}").returncode == 2


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_a_table_runs(tmp_path):
    """Table 16's chain in the toy world: policy, data in turns, second critic, gated run, evaluation in rain."""
    small = ["--preset=smoke", "--toy", "--prior=teacher:random", "--steps=300", "--set=run.step_unit=decisions",
             "--set=run.random_decisions=20", "--set=run.eval_every=300", "--set=run.video=false",
             "--set=env.render_size=40", "--set=prior.lag=2"]  # fmt: skip
    command = ["experiments.reproduce", "--table=erpv/16", "--seeds=1", *small, f"--out={tmp_path / 'table'}"]
    printed = program(*command, "--nomeasure")
    assert printed.returncode == 0, printed.stderr[-2000:]
    wanted = [line for line in printed.stdout.splitlines() if not line.startswith("#")]
    assert [line.split()[2] for line in wanted] == ["experiments.train", "experiments.pretrain_critic",
        "experiments.train", "experiments.train", "experiments.evaluate", "experiments.evaluate"]  # fmt: skip
    assert all(line.startswith(sys.executable) for line in wanted)
    done = program(*command, "--go", timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    logs = list((tmp_path / "table").rglob("*.then.log"))
    assert len(logs) == 2 and all("mean " in log.read_text() for log in logs)
