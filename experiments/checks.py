"""What ``experiments.doctor`` looks at. A check gives findings; one that breaks is a finding too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from packaging.requirements import Requirement
from packaging.version import Version

from covr_jax.config import CarlaConfig, Config
from covr_jax.envs import gl
from covr_jax.methods import METHODS
from covr_jax.priors.client import GrpcPrior
from covr_jax.priors.source import PriorUnavailable
from covr_jax.replay import ReplayBuffer
from covr_jax.types import Observation
from experiments.environment_info import jax_devices, version
from experiments.policy import environment

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
LEARNER = ("jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy", "gymnasium", "dm_control", "mujoco",
           "grpcio", "protobuf", "pillow", "scipy", "tensorboardX", "ImageIO", "imageio-ffmpeg")  # fmt: skip
SERVER = (
    "torch", "transformers", "peft", "accelerate", "safetensors", "grpcio-health-checking", "grpcio-reflection",
    "prometheus_client",
)  # fmt: skip
CARLA = "0.9.16"
DISK_MB = 500  # a run's records, videos and parameters
# Resident memory besides replay, measured with the cpu preset; a server with the tiny VLM as much again.
LEARNER_MB, TINY_SERVER_MB = 1700, 1500
RENDERED = 50  # frames
SERVER_DEADLINE_S = 20.0

Status = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """One line of the doctor. ``advice`` says what to do; empty where nothing is to be done."""

    item: str
    status: Status
    text: str
    advice: str = ""

    def line(self) -> str:
        status = "FAIL" if self.status == "fail" else self.status
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{status:<5} {self.item:<15} {' '.join(self.text.split())}{advice}"


def python() -> Iterator[Finding]:
    found = sys.version_info[:2]
    told = ".".join(map(str, sys.version_info[:3]))
    if found < (3, 11):
        yield Finding("python", "fail", told, "use Python 3.11 or 3.12")
    elif found > (3, 12):
        yield Finding("python", "warn", f"{told}, not tested", "use Python 3.11 or 3.12")
    else:
        yield Finding("python", "ok", told)


def packages(config: Config, installed: Callable[[str], str | None] = version) -> Iterator[Finding]:
    """Installed versions against constraints.txt, the versions that were tested together."""
    tested = tested_versions()
    own_server = starts_server(config)
    for group, names, needed, extra in (
        ("packages", LEARNER, True, "learner"), ("server packages", SERVER, own_server, "server")
    ):  # fmt: skip
        found = {name: installed(name) for name in names}
        absent = [name for name, now in found.items() if now is None]
        if absent and not needed:
            yield Finding(group, "ok", f"not installed ({', '.join(absent)}); this preset starts no server of its own")
            continue
        if absent:
            yield Finding(group, "fail", f"{', '.join(absent)} not installed", f'pip install -e ".[{extra}]"')
        elif not tested:
            yield Finding(group, "warn", f"{len(names)} packages, nothing to compare with: no {CONSTRAINTS.name} here")
        other = [
            f"{name} {now} (tested: {tested[name]})" for name, now in found.items()
            if now and name in tested and Version(Version(now).public) != tested[name]
        ]  # fmt: skip
        if other:
            yield Finding(group, "warn", ", ".join(other), f'pip install -c {CONSTRAINTS.name} -e ".[{extra}]"')
        elif not absent and tested:
            yield Finding(group, "ok", f"{len(names)} packages as tested")
    mujoco = installed("mujoco")
    if mujoco and Version(mujoco) >= Version("4"):
        yield Finding("mujoco", "fail", f"{mujoco} loads no task of dm_control", 'pip install "mujoco>=3.17,<4"')


def tested_versions(path: Path = CONSTRAINTS) -> dict[str, Version]:
    """Package -> version of constraints.txt, as far as its lines hold for this Python; {} without the file."""
    if not path.is_file():
        return {}
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pinned = [requirement for requirement in map(Requirement, lines)
              if requirement.marker is None or requirement.marker.evaluate()]  # fmt: skip
    return {each.name: Version(next(iter(each.specifier)).version) for each in pinned}


def starts_server(config: Config) -> bool:
    """Whether a run of this configuration starts a prior server of its own."""
    source = config.prior.source
    return METHODS[config.learner.method].asks_prior and not source.startswith(("teacher:", "grpc://", "grpcs://"))


def devices() -> Iterator[Finding]:
    found = jax_devices()
    gpu = Path("/dev/nvidia0").exists()
    if not found:
        yield Finding("jax devices", "fail", "JAX finds no device", "python -c 'import jax; jax.devices()' says why")
    elif gpu and all(device.startswith("cpu") for device in found):
        told = f"{', '.join(found)}, although there is a GPU"
        yield Finding("jax devices", "warn", told, 'pip install -e ".[cuda12]"')
    else:
        yield Finding("jax devices", "ok", f"{', '.join(found)}; {len(os.sched_getaffinity(0))} cores")
    yield from _torch_devices(gpu)


_TORCH = (
    "import json, torch; cuda = torch.cuda.is_available(); "
    "print(json.dumps([cuda, torch.cuda.get_device_name(0) if cuda else 'cpu']))"
)


def _torch_devices(gpu: bool) -> Iterator[Finding]:
    if version("torch") is None:
        return
    # In a process of its own: learner and torch do not share one.
    done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Finding("torch devices", "fail", reason, "reinstall torch")
        return
    cuda, name = json.loads(done.stdout.splitlines()[-1])
    if gpu and not cuda:
        yield Finding("torch devices", "warn", "cpu, although there is a GPU", "install a CUDA build of torch")
    else:
        yield Finding("torch devices", "ok", name)


def rendering(config: Config) -> Iterator[Finding]:
    """Renders some frames of the preset's environment."""
    opengl = config.env.name.startswith("dmc/")  # the others draw in software of their own
    try:
        backend = gl.choose() if opengl else "no OpenGL"
        with environment(config) as env:
            frame, _ = env.reset(seed=0)
            action = np.zeros(env.action_space.shape, np.float32)
            env.step(action)
            start = time.perf_counter()
            for _ in range(RENDERED):
                frame, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    frame, _ = env.reset(seed=0)
            each = (time.perf_counter() - start) / RENDERED
    except (gl.GlError, ValueError) as error:
        yield Finding("rendering", "fail", str(error), f"on Debian: apt install {gl.PACKAGES}" if opengl else "")
        return
    name = gl.renderer(backend) if opengl else None
    drawn = f"{backend}, {name}" if name else backend
    told = f"{drawn}; {config.env.name} at {frame.shape[0]} pixels: {1000 * each:.1f} ms a decision"
    if frame.min() == frame.max():
        yield Finding("rendering", "fail", f"{told}; the frame is blank", "try MUJOCO_GL=osmesa or another driver")
    elif Path("/dev/nvidia0").exists() and "llvmpipe" in (name or ""):
        yield Finding("rendering", "warn", f"{told}, in software despite a GPU", "install NVIDIA's EGL library")
    else:
        yield Finding("rendering", "ok", told)


def server(address: str, config: Config) -> Iterator[Finding]:
    """Asks the server at ``address`` who it is, and one question."""
    try:
        files = {"token_file": config.prior.token_file, "ca_file": config.prior.ca_file}
        prior = GrpcPrior(address, config.env.name, deadline_s=SERVER_DEADLINE_S, **files)
    except (PriorUnavailable, ValueError) as error:
        yield Finding("server", "fail", str(error), f"python -m vlm_server --address={address.removeprefix('grpc://')}")
        return
    try:
        info = prior.info()
        with environment(config) as env:
            frame, about = env.reset(seed=0)
            seen = Observation(frame, np.concatenate([frame] * config.env.frame_stack, axis=-1), about["state"])
            start = time.perf_counter()
            (label,) = prior.predict([seen])
            took = time.perf_counter() - start
        told = f"{info.model} ({info.model_type}, {info.parameters:,} parameters), protocol {info.protocol_version}"
        told += f"; an answer in {took:.2f} s, {label.status}"
        if label.status == "malformed":
            yield Finding("server", "warn", f"{told}: {label.text[:80]!r}", "try --set=prior.constraint=template")
        else:
            yield Finding("server", "ok", told)
    except (PriorUnavailable, gl.GlError, ValueError) as error:
        yield Finding("server", "fail", str(error), "see the server's log")
    finally:
        prior.close()


def carla(config: Config, installed: Callable[[str], str | None] = version) -> Iterator[Finding]:
    """The client's version and, where the environment needs them, those of the servers at its ports."""
    found, needed = installed("carla"), config.env.name.startswith("carla/")
    if found is None:
        told = "not installed; only its own environments need it"
        yield Finding("carla", "fail" if needed else "ok", told, 'pip install -e ".[carla]"' if needed else "")
        return
    if found != CARLA:
        yield Finding("carla", "warn", f"client {found}, tested with {CARLA}", f"pip install carla=={CARLA}")
    else:
        yield Finding("carla", "ok", f"client {found}; the simulator must be {CARLA} too")
    settings = config.env.carla
    if needed and settings.server is None:
        for port in settings.ports:
            yield _carla_server(settings, port, found)


def _carla_server(settings: CarlaConfig, port: int, client: str) -> Finding:
    host = settings.host
    # In a process of its own: a library that does not fit its server may crash.
    done = subprocess.run(
        [sys.executable, "-c", _CARLA_VERSION, host, str(port)], capture_output=True, text=True, timeout=60, check=False
    )
    item, server = f"carla {port}", done.stdout.strip()
    if done.returncode or not server:
        return Finding(item, "fail", f"no CARLA server answers at {host}:{port}", "start one, see docs/carla.md")
    if server != client:
        level = "warn" if settings.any_version else "fail"
        return Finding(item, level, f"server {server}, client {client}", f"start a server of version {client}")
    return Finding(item, "ok", f"server {server}")


_CARLA_VERSION = (
    "import sys, carla; client = carla.Client(sys.argv[1], int(sys.argv[2])); client.set_timeout(5.0); "
    "print(client.get_server_version())"
)


def room(config: Config, out: Path, available_mb: float | None = None) -> Iterator[Finding]:
    """Free disk at ``out`` and free memory (MB, by default asked of the system) against what the preset needs."""
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free / 2**20
    told = f"{free / 1024:,.1f} GiB free at {folder}"
    if free < DISK_MB:
        yield Finding("disk", "fail", f"{told}, a run needs {DISK_MB} MB", "free some, or choose another --out")
    else:
        yield Finding("disk", "ok", told)
    available = available_memory_mb() if available_mb is None else available_mb
    replay = replay_bytes(config) / 2**20
    need = replay + LEARNER_MB + TINY_SERVER_MB * (starts_server(config) and config.prior.source == "tiny")
    told = f"{available / 1024:,.1f} GiB free; a run takes some {need / 1024:.1f} GiB, {replay / 1024:.2f} of it replay"
    if starts_server(config) and config.prior.source != "tiny":
        told += f", and {config.prior.source} comes on top"
    if replay > available:
        yield Finding("memory", "fail", told, "lower replay.capacity or env.render_size")
    elif need > available:
        yield Finding("memory", "warn", told, "lower replay.capacity or env.render_size, or end other programs")
    else:
        yield Finding("memory", "ok", told)


def replay_bytes(config: Config) -> int:
    """Bytes of replay when the budget is spent: a slot for each transition that is kept."""
    with environment(config) as env:
        action_dim, repeat = env.action_space.shape[0], env.action_repeat
    size, stack = config.env.render_size, config.env.frame_stack
    decisions = config.run.steps // config.run.steps_per_decision(repeat)
    kept = min(config.replay.capacity, decisions)
    return ReplayBuffer(kept, (size, size, 3), action_dim, stack).nbytes


def available_memory_mb(root: Path = Path("/")) -> float:
    """What may still be used, by the kernel's estimate and the control group's limit."""
    lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    free = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))
    group = root / "sys/fs/cgroup"
    try:
        limit, used = ((group / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, (int(limit) - int(used)) / 2**20)


def guarded(item: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of a check; an error that ends it is a finding."""
    try:
        return list(check())
    except (gl.GlError, ValueError, OSError) as error:
        return [Finding(item, "fail", str(error))]
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return [Finding(item, "fail", f"{type(error).__name__}: {first}", "please report this")]
