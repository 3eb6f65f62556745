"""What a run's numbers may depend on besides its configuration: versions, machine, devices, GL, git."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "covr-jax", "jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy", "gymnasium",
    "dm_control", "mujoco", "carla", "torch", "transformers", "peft", "safetensors", "grpcio", "protobuf", "pillow",
    "imageio-ffmpeg",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """A JSON-ready dictionary; what cannot be found out is None. Starts the JAX backend, imports no torch."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_model": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": memory_gib(),
        "packages": {name: version(name) for name in PACKAGES},
        "jax_devices": jax_devices(),
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "mujoco_gl": os.environ.get("MUJOCO_GL"),
        "gl": gl(),
        "git": git(Path(__file__).parent),
    }


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or None


def memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def jax_devices() -> list[str] | None:
    try:
        import jax

        return [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]
    except (ImportError, RuntimeError):
        return None


def gl() -> Any:
    try:
        from covr_jax.envs import gl as backend

        return backend.describe()
    except (ImportError, AttributeError, RuntimeError, ValueError):
        return None


def git(folder: Path) -> dict[str, Any] | None:
    """Commit and whether tracked files differ from it; None outside of a git checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
