"""The doctor: each check on made-up machines, and the program on this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from covr_jax.priors.server_process import ServerProcess
from experiments import checks, configuration

ROOT = Path(__file__).parents[2]


def config(*settings, preset="cpu"):
    return configuration.resolve(configuration.build(preset, settings=settings).config)


def as_tested(name):
    found = checks.tested_versions()[name]
    return f"{found}+cpu" if name == "torch" else str(found)


def packages(installed, *settings):
    return {one.item: one for one in checks.packages(config(*settings), installed)}


def test_versions_as_in_the_lock():
    tested = checks.tested_versions()
    assert tested["mujoco"] == Version("3.17.0") and set(checks.LEARNER + checks.SERVER) <= set(tested)
    found = packages(as_tested)
    assert {name: one.status for name, one in found.items()} == {"packages": "ok", "server packages": "ok"}


def test_a_line_of_the_lock_holds_for_its_python(tmp_path):
    lock = tmp_path / "constraints.txt"
    lock.write_text('# words\na==1.0; python_version < "3"\na==2.0; python_version >= "3"\nb==3.1\n')
    assert checks.tested_versions(lock) == {"a": Version("2.0"), "b": Version("3.1")}
    assert checks.tested_versions(tmp_path / "none") == {}


def test_other_and_missing_packages():
    other = packages(lambda name: "9.9" if name == "optax" else as_tested(name))["packages"]
    assert other.status == "warn" and other.text.startswith("optax 9.9 (tested: ")
    assert packages(lambda name: None if name == "flax" else as_tested(name))["packages"].status == "fail"
    broken = packages(lambda name: "4.0.0" if name == "mujoco" else as_tested(name))
    assert broken["mujoco"].status == "fail" and "3.17" in broken["mujoco"].advice


@pytest.mark.parametrize("settings, status", [
    ([], "ok"), (["learner.method=covr"], "fail"), (["learner.method=covr", "prior.source=grpc://a:1"], "ok"),
    (["learner.method=dpl", "prior.source=teacher:zeros"], "ok"),
])  # fmt: skip
def test_the_server_is_needed_where_one_is_started(settings, status):
    found = packages(lambda name: None if name == "torch" else as_tested(name), *settings)
    assert found["server packages"].status == status and "torch" in found["server packages"].text


def test_replay_by_hand():
    # 100,000 frames at repeat 8: 12,500 transitions; 3 more slots. A frame of 50 x 50 x 3 and one action: 4 bytes each
    # for action, label, reward, not_done, version and age, 8 for the episode, 3 flags; and 4 + 2 indices of windows.
    found = checks.replay_bytes(config("run.steps=100000"))
    assert found == (12_500 + 3) * (7500 + 6 * 4 + 8 + 3) + 6 * 8
    assert checks.replay_bytes(config("run.steps=100000", "replay.capacity=100")) == 103 * 7535 + 48
    assert checks.replay_bytes(config("run.steps=12500", "run.step_unit=decisions")) == found


def test_memory_and_disk(tmp_path, monkeypatch):
    def memory(available, *settings):
        return next(one for one in checks.room(config(*settings), tmp_path / "new", available) if one.item == "memory")

    assert memory(8000).status == "ok" and memory(1000).status == "warn" and memory(50).status == "fail"
    assert memory(2000).status == "ok" and memory(2000, "learner.method=covr").status == "warn"
    assert "Qwen/x comes on top" in memory(8000, "learner.method=covr", "prior.source=Qwen/x").text
    disk = next(checks.room(config(), tmp_path / "new", 8000))
    assert (disk.item, disk.status) == ("disk", "ok") and str(tmp_path) in disk.text
    usage = type("Usage", (), {"free": 100 * 2**20})
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage)
    assert next(checks.room(config(), tmp_path, 8000)).status == "fail"


def test_available_memory_knows_the_control_group(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4096000 kB\n")
    assert checks.available_memory_mb(tmp_path) == 4000
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text(f"{500 * 2**20}\n")
    (group / "memory.max").write_text("max\n")
    assert checks.available_memory_mb(tmp_path) == 4000
    (group / "memory.max").write_text(f"{2000 * 2**20}\n")
    assert checks.available_memory_mb(tmp_path) == 1500


def test_rendering_tells_backend_and_speed(monkeypatch):
    (found,) = checks.rendering(config())
    assert found.status in ("ok", "warn") and "at 50 pixels" in found.text and "ms a decision" in found.text
    monkeypatch.setenv("MUJOCO_GL", "disable")
    (found,) = checks.rendering(config())
    assert found.status == "fail" and "apt install" in found.advice


def test_environments_that_need_no_opengl(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    (found,) = checks.rendering(config(preset="toy_driving"))
    assert found.status == "ok" and found.text.startswith("no OpenGL; toy/highway at 48 pixels")
    (found,) = checks.rendering(config("env.name=gym/Nothing-v0", preset="toy_driving"))
    assert found.status == "fail" and "gym/Nothing-v0" in found.text and not found.advice


def test_a_server_that_is_away():
    (found,) = checks.server("127.0.0.1:9", config())
    assert found.status == "fail" and "127.0.0.1:9" in found.text and "vlm_server" in found.advice


@pytest.mark.slow
def test_a_server_that_answers(tmp_path):
    with ServerProcess("tiny", tmp_path / "adapters", tmp_path / "log", start_deadline_s=200) as process:
        (found,) = checks.server(process.address, config())
    assert found.status == "ok", found
    assert found.text.startswith("tiny (qwen2_5_vl, 1,896,672 parameters), protocol 1.")
    assert "an answer in" in found.text


def test_what_breaks_a_check_is_a_finding():
    def broken():
        yield checks.Finding("x", "ok", "fine")
        raise RuntimeError("two\nlines")

    (found,) = checks.guarded("x", broken)
    assert found.status == "fail" and found.text == "RuntimeError: two"
    assert found.line() == "FAIL  x               RuntimeError: two -> please report this"


def carla(installed, *settings):
    return {one.item: one for one in checks.carla(config(*settings), lambda name: installed)}


def test_carlas_client_is_needed_where_its_environments_are_chosen():
    assert carla(None)["carla"].status == "ok" and carla(None, "env.name=carla/highway")["carla"].status == "fail"
    assert carla("0.9.15")["carla"].status == "warn" and carla("0.9.16")["carla"].status == "ok"
    started = carla("0.9.16", "env.name=carla/highway", "env.carla.server=/opt/carla/CarlaUE4.sh")
    assert list(started) == ["carla"], "one that a run starts itself need not be there"


@pytest.mark.parametrize("answer, status, says", [
    ("print('0.9.16')", "ok", "server 0.9.16"), ("print('0.9.13')", "fail", "server 0.9.13, client 0.9.16"),
    ("raise RuntimeError", "fail", "no CARLA server answers at 127.0.0.1:2010"),
])  # fmt: skip
def test_carlas_servers_are_asked_for_their_version(monkeypatch, answer, status, says):
    monkeypatch.setattr(checks, "_CARLA_VERSION", answer)
    found = carla("0.9.16", "env.name=carla/jaywalk")
    assert set(found) == {"carla", "carla 2000", "carla 2010"}
    assert found["carla 2010"].status == status and says in found["carla 2010"].text


def test_no_server_of_carlas_is_told():
    pytest.importorskip("carla", reason="needs CARLA's client: pip install carla==0.9.16")
    found = carla("0.9.16", "env.name=carla/jaywalk", "env.carla.ports=9")
    assert found["carla 9"].status == "fail" and "docs/carla.md" in found["carla 9"].advice


def program(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.doctor", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"},
    )  # fmt: skip


def test_the_program(tmp_path):
    done = program("--preset=cpu,tiny", "--json", f"--out={tmp_path}", "--server=127.0.0.1:9")
    found = {one["item"]: one for one in json.loads(done.stdout)}
    expected = {"python", "packages", "server packages", "jax devices", "rendering", "carla", "disk", "memory"}
    assert expected <= set(found)
    assert found["rendering"]["status"] in ("ok", "warn") and found["server"]["status"] == "fail"
    assert done.returncode == 1
