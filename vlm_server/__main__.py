"""Serves one vision-language model over gRPC, on this machine only.

Example:
  python -m vlm_server --model=tiny --address=127.0.0.1:0

The first line on standard output is the address it listens on, printed when questions can be asked. SIGTERM
or SIGINT ends it: calls that run may finish within --grace_s seconds, and the exit status is 0.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
import threading
from pathlib import Path

from absl import flags

from vlm_server import command_line, task_files
from vlm_server.limits import Limits

_MODEL = flags.DEFINE_string(
    "model", "tiny", "tiny (comes with the package), a folder in save_pretrained layout or a Hugging Face id."
)
_ADDRESS = flags.DEFINE_string(
    "address",
    "127.0.0.1:0",
    "Where to listen: 127.0.0.1:<port>, localhost:<port>, [::1]:<port> (port 0: any free one) or unix:<path>."
    " There is no authentication, so other addresses are refused; use an SSH tunnel between machines.",
)
_ADAPTERS = flags.DEFINE_string(
    "adapters", "", "Folder that keeps adapter versions, found again after a restart; empty: a temporary one."
)
_ADAPTERS_WAIT = flags.DEFINE_float(
    "adapters_wait_s", 0.0, "How long another server, which is ending, may take to leave --adapters.", lower_bound=0.0
)
_TASK_FILE = flags.DEFINE_multi_string(
    "task_file", [], "A task of your own in TOML, as docs/environments.md describes; repeatable."
)
_DEVICE = flags.DEFINE_string("device", "auto", "auto (a GPU if there is one), cpu, cuda or cuda:<n>.")
_DTYPE = flags.DEFINE_string(
    "dtype", "auto", "auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16."
)
_THREADS = flags.DEFINE_integer("threads", 1, "CPU threads of one torch operation.", lower_bound=1)
_MAX_BATCH = flags.DEFINE_integer("max_batch", 16, "Frames that are answered together.", lower_bound=1)
_MAX_DELAY = flags.DEFINE_float(
    "max_delay_ms", 2.0, "How long a question waits for others to share its batch.", lower_bound=0.0
)
_MAX_QUEUE = flags.DEFINE_integer("max_queue", Limits.max_queue, "Frames that may wait.", lower_bound=1)
_MAX_MESSAGE = flags.DEFINE_integer(
    "max_message_mib", Limits.max_message_bytes >> 20, "Largest message, MiB.", lower_bound=4, upper_bound=512
)
_MAX_RESIDENT = flags.DEFINE_integer(
    "max_resident_adapters", 4, "Adapters kept in memory; others are read when asked for.", lower_bound=1
)
_REFLECTION = flags.DEFINE_boolean("reflection", True, "Answer gRPC reflection, as grpcurl asks for it.")
_GRACE = flags.DEFINE_float("grace_s", 10.0, "How long calls may go on after a signal.", lower_bound=0.0)
_EXIT_WITH_PARENT = flags.DEFINE_boolean(
    "exit_with_parent", False, "End when the process that started this one is gone, whatever ended it."
)

_PARENT = os.getppid()  # before the slow imports and the model, during which the parent may end
_LOOPBACK = re.compile(r"(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost|\[::1\]):(\d{1,5})")


def checked_address(text: str) -> str:
    """The address to bind, "localhost" written as 127.0.0.1.

    Raises:
        ValueError: not an address of this machine's own.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        # The kernel's limit on socket paths.
        length = len(os.fsencode(path))
        if not 1 <= length <= 107:
            raise ValueError(f"address: the path of a unix socket has 1 to 107 bytes, not {length}")
        if not Path(path).resolve().parent.is_dir():
            raise ValueError(f"address: the folder of {path!r} does not exist")
        return text
    match = _LOOPBACK.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"address: must be 127.0.0.1:<port>, [::1]:<port> or unix:<path>, not {text!r}")
    return text.replace("localhost", "127.0.0.1")


def main() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    address = checked_address(_ADDRESS.value)
    for path in _TASK_FILE.value:
        task_files.add(Path(path))
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if _MODEL.value == "tiny" or Path(_MODEL.value).expanduser().is_dir():
        os.environ["HF_HUB_OFFLINE"] = "1"

    # gRPC's core would print its own lines beside ours when an address is taken.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    # Heavy imports after the flags are known to be right.
    import torch

    from vlm_server import models
    from vlm_server.server import Server

    torch.set_num_threads(_THREADS.value)
    vlm = models.load(_MODEL.value, _DEVICE.value, _DTYPE.value)
    limits = Limits(max_message_bytes=_MAX_MESSAGE.value << 20, max_queue=_MAX_QUEUE.value)
    with tempfile.TemporaryDirectory(prefix="vlm_server_") as scratch:
        server = Server(
            vlm,
            _ADAPTERS.value or scratch,
            limits,
            max_batch=_MAX_BATCH.value,
            max_delay_ms=_MAX_DELAY.value,
            max_resident=_MAX_RESIDENT.value,
            reflect=_REFLECTION.value,
            adapters_wait_s=_ADAPTERS_WAIT.value,
        )
        try:
            print(server.start(address), flush=True)
        except BrokenPipeError:  # a parent that ended before _PARENT was noted has left nobody who reads this
            stop.set()
        while not stop.wait(0.5):
            if _EXIT_WITH_PARENT.value and os.getppid() != _PARENT:
                break
        server.stop(_GRACE.value)
    logging.shutdown()
    # Not by way of the interpreter's teardown, which aborts if a step of a cancelled tuning job still runs.
    os._exit(0)


if __name__ == "__main__":
    command_line.run(main, "vlm_server")
