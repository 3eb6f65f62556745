"""Starts the processes of one tuning job with torch's elastic launcher, which is torchrun's, and waits for them.

    python -m vlm_server.tuning_launcher FOLDER PROCESSES

Started by ``tuning_processes`` alone. If one process fails, the others are ended. They end as well when the server
is gone, however it ended: standard input, whose other end it holds, is theirs, too. Imports little, since the
processes start after it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from vlm_server import end_of_input
from vlm_server.tuning_reports import TuningReports

PATIENCE_S = 5  # of the launcher with processes that it has told to end
# Other machines are not asked and cannot reach what is between the processes: no store of torch's listens, and what
# carries the gradients does on loopback alone.
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def main() -> int:
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    end_of_input.then(lambda: os.kill(os.getpid(), signal.SIGTERM))
    os.environ |= ENVIRONMENT
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),  # none are written, but for a folder
        run_id="tuning",
        rdzv_backend="c10d",
        rdzv_endpoint=str(folder / "rendezvous"),
        rdzv_configs={"store_type": "file"},
        max_restarts=0,
        local_addr="localhost",
        shutdown_timeout=PATIENCE_S,
    )
    (folder / "rendezvous").touch()
    try:
        elastic_launch(config, sys.executable)("-m", "vlm_server.tuning_worker", str(folder))
    except SignalException:
        return 1
    except ChildFailedError as error:
        TuningReports(folder).fail("_launcher", reason({rank: each.exitcode for rank, each in error.failures.items()}))
        return 1
    return 0


def reason(ended: dict[int, int]) -> str:
    """What to say of processes that ended without a word.

    Args:
        ended: rank -> exit status, negative for a signal. One that was killed comes before those that lost it, and
            those before the ones that the launcher then ended.
    """
    rank, status = min(ended.items(), key=lambda item: (item[1] == -signal.SIGTERM, item[1] >= 0, item[0]))
    return f"tuning process {rank} {how_it_ended(status)}"


def how_it_ended(status: int) -> str:
    """In words; a negative status is a signal's."""
    if status >= 0:
        return f"ended with status {status}; the server's log has the details"
    hint = "; is there too little memory?" if -status == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-status).name}{hint}"


if __name__ == "__main__":
    sys.exit(main())
