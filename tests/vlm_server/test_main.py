"""The programs as a user starts them: python -m vlm_server and python -m vlm_server.ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc
from PIL import Image

from vlm_server.addresses import checked

ROOT = Path(__file__).resolve().parents[2]
PATHS = {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
ENV = os.environ | PATHS | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
SERVER = [sys.executable, "-m", "vlm_server"]
TASK = "dmc/cartpole/swingup"


def run(*arguments, module="vlm_server"):
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120)


@pytest.fixture
def serve(tmp_path):
    """Starts servers as processes; returns (process, address)."""
    started = []

    def start(*arguments):
        with (tmp_path / "stderr.txt").open("w") as log:
            process = subprocess.Popen(
                [*SERVER, *arguments], env=ENV, stdout=subprocess.PIPE, stderr=log, text=True, cwd=tmp_path
            )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait(30)
        process.stdout.close()


def head(answer):
    """Status, action, prompt and text of a printed answer."""
    return answer.stdout.splitlines()[:4]


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("picture") / "f.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)).save(file)
    return file


def ask(address, picture, *arguments):
    return run(f"--address={address}", f"--image={picture}", *arguments, module="vlm_server.ask")


def test_serve_ask_tune_activate_ask_again_and_stop(serve, picture, tmp_path):
    process, address = serve("--model=tiny", f"--adapters={tmp_path / 'adapters'}")
    assert address.startswith("127.0.0.1:")
    before = ask(address, picture)
    assert before.returncode == 0 and before.stderr == ""
    lines = dict(line.split(None, 1) for line in before.stdout.splitlines())
    assert lines["status"] == "ok" and -1 <= float(lines["slide"]) <= 1
    assert lines["adapter"].startswith("base ")

    pixels = Image.open(picture).tobytes()
    observation = pb.Observation(frame=pb.Frame(height=90, width=110, channels=3, data=pixels))
    with grpc.insecure_channel(address) as channel:
        tuning = pb_grpc.TuningServiceStub(channel)
        target = -0.77
        samples = [pb.Sample(observation=observation, action=[target], return_to_go=1.0)] * 8
        upload = [
            pb.UploadSamplesRequest(header=pb.UploadHeader(task=TASK, run="demo")),
            pb.UploadSamplesRequest(chunk=pb.SampleChunk(samples=samples)),
        ]
        dataset = tuning.UploadSamples(iter(upload), timeout=30).dataset
        config = pb.TuningConfig(rank=8, alpha=16, epochs=40, batch_size=8, learning_rate=1e-2, holdout=0.0)
        request = pb.StartTuningRequest(run="demo", dataset=dataset, config=config, activate=True)
        job = tuning.StartTuning(request, timeout=30).job
        *_, last = tuning.WatchTuning(pb.WatchTuningRequest(job=job), timeout=120)
    assert last.state == pb.JOB_STATE_DONE, last.error
    assert last.result.train_loss_last < last.result.train_loss_first

    after = ask(address, picture, "--run=demo")
    assert f"slide    {target:+.2f}" in after.stdout and "adapter  v1 " in after.stdout
    assert head(ask(address, picture, "--run=demo", "--adapter=base")) == head(before)

    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert process.stdout.read() == ""  # the address was the only line

    _, address = serve("--model=tiny", f"--adapters={tmp_path / 'adapters'}")
    assert head(ask(address, picture, "--run=demo")) == head(after)


def test_interrupt_ends_with_status_zero_and_unix_sockets_work(serve, picture, tmp_path):
    process, address = serve("--address=unix:s")
    assert address == "unix:s"
    options = ["--constraint=template", "--task=carla/highway", "--state=speed=3"]
    answer = ask(f"unix:{tmp_path / 's'}", picture, *options)
    assert answer.returncode == 0 and "throttle" in answer.stdout
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_a_server_does_not_outlive_its_killed_parent(tmp_path):
    command = [*SERVER, "--exit_with_parent"]
    child = f"import subprocess; p = subprocess.Popen({command!r}, stdout=subprocess.PIPE); "
    child += "print(p.pid, flush=True); print(p.stdout.readline(), flush=True); p.wait()"
    parent = subprocess.Popen(
        [sys.executable, "-c", child], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pid = int(parent.stdout.readline())
    assert "127.0.0.1" in parent.stdout.readline()
    parent.kill()
    parent.wait(30)
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid)


def test_a_server_whose_parent_ended_before_it_looked_ends_too():
    command = [*SERVER, "--exit_with_parent"]
    child = f"import os, subprocess; p = subprocess.Popen({command!r}, stdout=-1, start_new_session=True); "
    child += "print(p.pid, flush=True); os._exit(0)"
    parent = subprocess.run([sys.executable, "-c", child], env=ENV, stdout=subprocess.PIPE, text=True, timeout=30)
    pid = int(parent.stdout)
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid)


def alive(pid):
    try:
        # A zombie that nobody reaps has ended all the same.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--address=0.0.0.0:1"], "127.0.0.1"),
        (["--model=/nowhere"], "no folder '/nowhere'"),
        (["--modell=tiny"], "modell"),
        (["--threads=0"], "threads"),
        (["--max_queue=0"], "max_queue"),
        (["--min_side=64", "--max_side=32"], "min_side: must be at most max_side"),
        (["--tokens=/nowhere.json"], "/nowhere.json"),
        (["--inject_faults", "--address=0.0.0.0:1", "--insecure_let_anybody_in"], "loopback"),
        (["--tls_cert=/nowhere.pem"], "belong together"),
        (["tiny"], "--flag=value"),
    ],
)
def test_wrong_values_end_in_one_line_and_status_two(arguments, words):
    result = run(*arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("vlm_server: error: ") and result.stderr.count("\n") == 1
    assert words in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image=/nowhere.png", "--address=127.0.0.1:1"], "cannot read '/nowhere.png'"),
        (["--address=127.0.0.1:1"], "--image"),
        (["--image={picture}", "--address=127.0.0.1:1", "--timeout_s=2"], "UNAVAILABLE"),
        (["--image={picture}", "--address=127.0.0.1:1", "--state=speed"], "name=number"),
        (["--image={picture}", "--address=127.0.0.1:1", "--constraint=some"], "constraint"),
    ],
)
def test_ask_fails_in_one_line(arguments, words, picture):
    result = run(*(a.format(picture=picture) for a in arguments), module="vlm_server.ask")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and words in result.stderr


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("localhost:50051", "127.0.0.1:50051"),
        ("[::1]:1", "[::1]:1"),
        ("unix:/tmp/x", "unix:/tmp/x"),
    ],
)
def test_addresses_of_this_machine_are_taken(text, bound):
    assert checked(text) == bound


@pytest.mark.parametrize(
    "text",
    ["", "50051", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "127.0.0.1", "127.0.0.1:99999", "example.org:1",
     "127.0.0.1:1,0.0.0.0:1", "unix:", "unix:/nowhere/s", "unix:" + "/tmp/" + "x" * 110, "localhost:1\n"],
)  # fmt: skip
def test_other_addresses_are_refused(text):
    with pytest.raises(ValueError, match=r"^address: ") as caught:
        checked(text)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:50051", "10.0.0.1:0", "example.org:1"])
def test_other_machines_are_let_in_past_a_guard_or_on_request(text):
    with pytest.raises(ValueError, match="needs --tokens, --tls_cert and --tls_key"):
        checked(text)
    assert checked(text, guarded=True) == checked(text, insecure=True) == text


@pytest.mark.parametrize(("module", "flags"), [("vlm_server", "model adapters"), ("vlm_server.ask", "image")])
def test_help_lists_the_flags(module, flags):
    text = run("--help", module=module).stdout
    assert all(f"--{name}: " in text for name in ["address", *flags.split()])
