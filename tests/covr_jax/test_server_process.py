from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from covr_jax.priors.client import GrpcPrior
from covr_jax.priors.server_process import ServerProcess
from covr_jax.priors.source import PriorUnavailable
from covr_jax.types import Observation

LISTEN = """
import signal, sys, time
{setup}
port = next(a for a in sys.argv if a.startswith("--address=")).rpartition(":")[2]
print("127.0.0.1:" + (port if port != "0" else "4711"), flush=True)
print(*sys.argv[1:], flush=True)
print("x" * 200_000, flush=True)  # more than a pipe holds
time.sleep(60)
"""


@pytest.fixture
def server(tmp_path):
    """Builds a ServerProcess around a script that takes the server's place."""
    made = []

    def build(script: str, **kwargs) -> ServerProcess:
        path = tmp_path / "script.py"
        path.write_text(script)
        log = tmp_path / "logs" / "server.log"
        made.append(ServerProcess("tiny", tmp_path / "a", log, program=(sys.executable, str(path)), **kwargs))
        return made[-1]

    yield build
    for process in made:
        process.stop()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def read_until(path: Path, text: str) -> str:
    end = time.monotonic() + 10
    while text not in path.read_text():
        assert time.monotonic() < end, path.read_text()[-500:]
        time.sleep(0.02)
    return path.read_text()


def test_the_first_line_is_the_address_and_the_rest_goes_to_the_log(server, tmp_path):
    process = server(LISTEN.format(setup=""), arguments=["--device=cpu"])
    with process:
        assert process.address == "127.0.0.1:4711"
        assert process.running
        pid = process.pid
        log = read_until(process.log, "x" * 200_000)
        flags = f"--model=tiny --adapters={tmp_path / 'a'} --exit_with_parent --device=cpu"
        assert f"{flags} --address=127.0.0.1:0\n" in log
    assert not process.running and not alive(pid)


def test_restart_keeps_the_address(server):
    process = server(LISTEN.format(setup=""))
    assert process.start() == "127.0.0.1:4711"
    first = process.pid
    assert process.restart() == "127.0.0.1:4711"
    assert process.pid != first and not alive(first)
    assert "--address=127.0.0.1:4711" in read_until(process.log, "--address=127.0.0.1:4711")


def test_an_early_exit_is_one_line_with_the_end_of_the_log(server):
    process = server("import sys; print('no GPU\\nout of memory', file=sys.stderr); sys.exit(3)")
    line = r"ended with exit code 3 .*server\.log ends with: no GPU \| out of memory$"
    with pytest.raises(PriorUnavailable, match=line) as e:
        process.start()
    assert "\n" not in str(e.value) and process.pid is None


def test_a_missing_package_says_how_to_install_it(tmp_path):
    program = (sys.executable, "-m", "no_such_server_package")
    process = ServerProcess("tiny", tmp_path, tmp_path / "log", program=program)
    with pytest.raises(PriorUnavailable, match=r"pip install 'covr-jax\[server\]'.*no_such_server_package"):
        process.start()


def test_a_server_that_is_not_ready_in_time_is_stopped(server, monkeypatch):
    process = server("import time; time.sleep(60)", start_deadline_s=0.5)
    stopped = []
    monkeypatch.setattr(process, "stop", lambda stop=process.stop: (stopped.append(process.pid), stop()))
    start = time.monotonic()
    with pytest.raises(PriorUnavailable, match=r"not ready within 0\.5 s"):
        process.start()
    assert time.monotonic() - start < 5
    assert stopped and not alive(stopped[0])


def test_another_first_line_is_refused(server):
    process = server("import time; print('Loading weights ...', flush=True); time.sleep(60)")
    with pytest.raises(PriorUnavailable, match=r"printed 'Loading weights \.\.\.' where its address"):
        process.start()
    assert not process.running


def test_a_server_that_ignores_sigterm_is_killed_after_the_grace_period(server):
    process = server(LISTEN.format(setup="signal.signal(signal.SIGTERM, signal.SIG_IGN)"), stop_grace_s=0.3)
    process.start()
    pid, start = process.pid, time.monotonic()
    process.stop()
    assert 0.25 < time.monotonic() - start < 5
    assert not alive(pid)
    process.stop()  # safe to repeat


def test_starting_twice_is_a_mistake(server):
    process = server(LISTEN.format(setup=""))
    process.start()
    with pytest.raises(RuntimeError, match="already"):
        process.start()


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs covr-jax[server]")
def test_the_tiny_model_answers_a_question(tmp_path):
    with ServerProcess("tiny", tmp_path / "adapters", tmp_path / "log", start_deadline_s=120) as process:
        prior = GrpcPrior(process.address, "dmc/cartpole/swingup", run="r1", deadline_s=60)
        frame = np.zeros((100, 100, 3), np.uint8)
        labels = prior.predict([Observation(frame, frame, {"slider_position": 0.0})] * 2)
        assert [label.version for label in labels] == ["base", "base"]
        assert prior.version == "base"
        for label in labels:
            assert (label.action is None) == (label.status == "malformed")
        prior.close()


def test_a_server_has_ended_when_it_did_so_by_itself(server):
    process = server(LISTEN.format(setup=""))
    assert not process.ended()
    process.start()
    assert not process.ended(within_s=0.1)
    os.kill(process.pid, 9)
    assert process.ended(within_s=10)
    process.stop()
    assert not process.ended()  # by us
