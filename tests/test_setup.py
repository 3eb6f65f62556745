"""tools/setup.sh says in one line what is missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "tools" / "setup.sh"


def run(folder: Path, **programs: str) -> subprocess.CompletedProcess:
    """Runs the script where only the given programs (name -> shell body) and the system's own tools exist."""
    bin_ = folder / "bin"
    bin_.mkdir()
    for name, body in programs.items():
        (bin_ / name.replace("_", ".")).write_text(f"#!/bin/sh\n{body}\n")
        (bin_ / name.replace("_", ".")).chmod(0o755)
    for name in ("sh", "awk", "grep", "head", "touch", "rm"):
        (bin_ / name).symlink_to(next(p for d in ("/bin", "/usr/bin") if (p := Path(d) / name).exists()))
    return subprocess.run(
        ["sh", str(SCRIPT)], cwd=folder, env={"PATH": str(bin_), "VENV": "venv", "HOME": os.environ.get("HOME", "/")},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip


DISK = 'echo "Filesystem blocks Used Available"; echo "disk 1 1 {free} 1% /"'


def test_too_old_a_python(tmp_path):
    done = run(tmp_path, python3='[ "$1" = --version ] && echo Python 3.9.2 || exit 1', df=DISK.format(free=10**6))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "3.11 or 3.12 is needed, found Python 3.9.2" in done.stderr


def test_no_disk(tmp_path):
    done = run(tmp_path, python3="exit 0", df=DISK.format(free=100))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "100 MB are free" in done.stderr


def test_no_venv_module(tmp_path):
    done = run(tmp_path, python3='[ "$2" = venv ] && exit 1; exit 0', df=DISK.format(free=10**6))
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr.strip().splitlines()[-1]
