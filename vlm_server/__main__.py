"""Serves one vision-language model over gRPC: on this machine, or guarded by tokens and TLS.

Examples:
  python -m vlm_server --model=tiny --address=127.0.0.1:0
  python -m vlm_server --address=0.0.0.0:50051 --tokens=server_tokens.json --tls_cert=cert.pem --tls_key=key.pem

docs/server.md says how to make tokens and certificates. The first line on standard output is the address it
listens on, printed when questions can be asked. SIGTERM or SIGINT ends it: calls that run may finish within
--grace_s seconds, and the exit status is 0.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from absl import flags

from vlm_server import access, addresses, backends, command_line, task_files
from vlm_server.limits import Limits

_MODEL = flags.DEFINE_string(
    "model", "tiny", "tiny (comes with the package), a folder in save_pretrained layout or a Hugging Face id."
)
_BACKEND = flags.DEFINE_enum(
    "backend", "transformers", backends.NAMES, "What computes answers. vllm is for many clients of a large model on a"
    " GPU and needs pip install 'covr-jax[server,vllm]'; it writes without constraints and serves adapters that were"
    " tuned with targets=language, which is the default then. Never tried with vLLM itself (docs/server.md).",
)  # fmt: skip
_VLLM_MEMORY = flags.DEFINE_float(
    "vllm_memory", 0.5, "Share of the GPU's memory for vLLM; tuning, with its own weights, has the rest.", 0.05, 0.95
)
_ADDRESS = flags.DEFINE_string(
    "address",
    "127.0.0.1:0",
    "Where to listen: 127.0.0.1:<port>, localhost:<port>, [::1]:<port> (port 0: any free one) or unix:<path>."
    " Addresses that other machines reach need --tokens, --tls_cert and --tls_key.",
)
_TOKENS = flags.DEFINE_string(
    "tokens", "", "File of python -m vlm_server.tokens: who may ask, tune and administer; empty: whoever gets here."
)
_TLS_CERT = flags.DEFINE_string("tls_cert", "", "PEM file with the certificate chain of this server.")
_TLS_KEY = flags.DEFINE_string("tls_key", "", "PEM file with its private key, mode 0600.")
_INSECURE = flags.DEFINE_boolean(
    "insecure_let_anybody_in", False, "Listen where other machines reach it without tokens and TLS. Never do that."
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
_MICRO_BATCH = flags.DEFINE_integer(
    "tuning_micro_batch", None, "Samples that a tuning step takes through the model at a time, to save memory; their"
    " gradients are added up. 0: the whole batch. Not given: as the model's serving.json says.", 0, 4096,
)  # fmt: skip
_CHECKPOINTING = flags.DEFINE_boolean(
    "tuning_checkpointing", None, "Keep little of a tuning step's forward pass and compute it again on the way back:"
    " less memory, a third more time. Not given: as the model's serving.json says.",
)  # fmt: skip
_TUNING_PROCESSES = flags.DEFINE_integer(
    "tuning_processes", 1, "Processes that a tuning job runs in, each with the model and its share of every batch; on"
    " GPUs one a GPU, from cuda:0 on. 1: the server's own. What is learnt differs by rounding, and by dropout's masks.",
    1, 64,
)  # fmt: skip
_MAX_BATCH = flags.DEFINE_integer("max_batch", 16, "Frames that are answered together.", lower_bound=1)
_MAX_DELAY = flags.DEFINE_float(
    "max_delay_ms", 2.0, "How long a question waits for others to share its batch.", lower_bound=0.0
)
_MAX_RESIDENT = flags.DEFINE_integer(
    "max_resident_adapters", 4, "Adapters kept in memory; others are read when asked for.", lower_bound=1
)
_PREFIX_CACHE = flags.DEFINE_boolean(
    "prefix_cache", False, "Read a prompt's text before the picture once for each adapter, and go on from there. For"
    " models that read the text first; logits, compared at the start, may differ by rounding.",
)  # fmt: skip
_LIMITS = {
    each.name: (flags.DEFINE_float if isinstance(each.default, float) else flags.DEFINE_integer)(
        each.name, each.default, each.metadata["help"], each.metadata["low"], each.metadata["high"]
    )
    for each in dataclasses.fields(Limits)
}
_REFLECTION = flags.DEFINE_boolean("reflection", True, "Answer gRPC reflection, as grpcurl asks for it.")
_FAULTS = flags.DEFINE_boolean(
    "inject_faults", False, "Spoil answers of calls with x-fault metadata, for tests; on loopback and sockets alone."
)
_METRICS = flags.DEFINE_integer(
    "metrics_port", 0, "Port of 127.0.0.1 with metrics as Prometheus text; 0: none.", lower_bound=0, upper_bound=65535
)
_GRACE = flags.DEFINE_float("grace_s", 10.0, "How long calls may go on after a signal.", lower_bound=0.0)
_EXIT_WITH_PARENT = flags.DEFINE_boolean(
    "exit_with_parent", False, "End when the process that started this one is gone, whatever ended it."
)

_PARENT = os.getppid()  # before the slow imports and the model, during which the parent may end


def main() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for path in _TASK_FILE.value:
        task_files.add(Path(path))
    credentials = addresses.credentials(_TLS_CERT.value, _TLS_KEY.value)
    tokens = access.read(Path(_TOKENS.value)) if _TOKENS.value else ()
    guarded = bool(tokens) and credentials is not None
    if _FAULTS.value and not addresses.is_local(_ADDRESS.value):
        raise ValueError("--inject_faults is for loopback addresses and unix sockets alone")
    address = addresses.checked(_ADDRESS.value, guarded, _INSECURE.value)
    backends.check(_BACKEND.value, _MODEL.value, _PREFIX_CACHE.value)
    limits = Limits(**{name: flag.value for name, flag in _LIMITS.items()})
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if not (guarded or addresses.is_local(address)):
        logging.warning("whoever reaches %s may use this server, read its traffic and tune its model", address)
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
    chosen = {"micro_batch": _MICRO_BATCH.value, "checkpointing": _CHECKPOINTING.value}
    vlm = vlm.tuned_with({name: value for name, value in chosen.items() if value is not None})
    backend = None
    if _BACKEND.value == "vllm":
        from vlm_server.vllm_engine import VllmEngine

        vlm = vlm.tuned_with({"targets": "language"})
        backend = VllmEngine(vlm, _MAX_BATCH.value, _MAX_RESIDENT.value, _VLLM_MEMORY.value)
        limits = dataclasses.replace(limits, max_tuning_rank=min(limits.max_tuning_rank, backend.max_rank))
    with tempfile.TemporaryDirectory(prefix="vlm_server_") as scratch:
        server = Server(
            vlm,
            _ADAPTERS.value or scratch,
            limits,
            tokens=tokens,
            inject_faults=_FAULTS.value,
            max_batch=_MAX_BATCH.value,
            max_delay_ms=_MAX_DELAY.value,
            max_resident=_MAX_RESIDENT.value,
            reflect=_REFLECTION.value,
            keep_prefixes=_PREFIX_CACHE.value,
            adapters_wait_s=_ADAPTERS_WAIT.value,
            tuning_processes=_TUNING_PROCESSES.value,
            backend=backend,
        )
        if _METRICS.value:
            server.metrics.serve(_METRICS.value)
        try:
            bound = server.start(address, credentials)
            # What has been loaded stays: a full collection over it stops every answer for a quarter of a second.
            gc.collect()
            gc.freeze()
            print(bound, flush=True)
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
