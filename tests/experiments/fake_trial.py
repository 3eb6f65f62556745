"""A trial of a second: a chain of digests with a checkpoint after each link, that can be resumed as a run can.

    python fake_trial.py FOLDER LINKS MISHAP

MISHAP befalls the first attempt, half-way: crash (exit 1), kill (SIGKILL), vanish (waits for its node to be taken away,
after it has written its process id to FOLDER/waiting), or none.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path


def main(folder: Path, links: int, mishap: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "attempts").open("a") as file:
        file.write("once\n")
    first = (folder / "attempts").read_text() == "once\n"
    checkpoint = folder / "checkpoint"
    done, digest = checkpoint.read_text().split() if checkpoint.exists() else ("0", "start")
    for link in range(int(done), links):
        if first and link == links // 2:
            befall(mishap, folder)
        digest = hashlib.sha256(f"{digest} {link}".encode()).hexdigest()
        part = folder / "checkpoint.part"
        part.write_text(f"{link + 1} {digest}")
        part.replace(checkpoint)
    (folder / "result").write_text(digest)


def befall(mishap: str, folder: Path) -> None:
    if mishap == "crash":
        sys.exit("error: crashed")
    if mishap == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mishap == "vanish":
        (folder / "waiting.part").write_text(str(os.getpid()))
        (folder / "waiting.part").replace(folder / "waiting")
        time.sleep(120)
        sys.exit("error: nobody took the node away")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
