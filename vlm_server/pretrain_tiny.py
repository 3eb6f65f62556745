"""Pre-trains the tiny Qwen2.5-VL on procedural pictures and writes the folder that is served as ``tiny``.

    python -m vlm_server.pretrain_tiny --out=vlm_server/tiny

One thread and a fixed number of steps: the same seed, machine and versions give the same weights.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from absl import app, flags

from vlm_server import pictures, tiny_batches, tiny_figures, tiny_model, tiny_training, vision_attention

_OUT = flags.DEFINE_string(
    "out", None, "Folder to write; files of the same names are replaced.", required=True
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights and of the pictures.", lower_bound=0)
_STEPS = flags.DEFINE_integer(
    "steps", 8000, "Steps of the optimiser; 8000 take about ten minutes.", lower_bound=2
)
_BATCH = flags.DEFINE_integer("batch", 32, "Pictures a step.", lower_bound=1)

# What the server uses with this model unless it is told otherwise.
SERVING = {
    "prompt_style": "short",
    "constrained": True,
    "max_new_tokens": 64,
    "tuning": {
        "rank": 16,
        "alpha": 32,
        "dropout": 0.0,
        "learning_rate": 0.001,
        "epochs": 10,
        "max_steps": 400,
        "batch_size": 16,
        "targets": "all",
    },
}
# With seed, steps and batch size these decide the weights. vision_attention only does the stock maths faster.
MODULES = pictures, tiny_batches, tiny_model, tiny_training


def sha256(*paths: Path) -> str:
    """Over the bytes of the files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def program_files() -> list[Path]:
    """The files whose digest goes into the record."""
    return [Path(module.__file__) for module in MODULES]


def save(model: torch.nn.Module, tokens: transformers.PreTrainedTokenizerFast, out: Path) -> None:
    """bfloat16 weights, tokenizer, processor and server defaults, in a released checkpoint's layout."""
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokens.save_pretrained(out)
    tiny_model.image_processor().save_pretrained(out)
    (out / "serving.json").write_text(json.dumps(SERVING, indent=2) + "\n")


def pretrain(out: Path, seed: int, steps: int, batch: int) -> dict:
    """The whole program; returns what it writes to PRETRAINING.json."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    tokens = tiny_model.tokenizer(pictures.corpus(np.random.default_rng(0)))
    model, encoder = tiny_model.build(tokens, seed), tiny_batches.Encoder(tokens)
    vision_attention.batch_vision_attention(model)
    wall, cpu, running = time.monotonic(), time.process_time(), {}

    def report(step: int, total: int, kind: str, loss: float) -> None:
        running[kind] = 0.9 * running.get(kind, loss) + 0.1 * loss
        if step % max(1, total // 25) == 0:
            shown = " ".join(f"{kind} {value:.3f}" for kind, value in sorted(running.items()))
            print(f"step {step}/{total}  {time.monotonic() - wall:.0f} s  {shown}", flush=True)
        if step == total - 1:
            running.clear()  # the next stage has another loss

    tiny_training.train(model, encoder, seed, steps, batch, report)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    figures = tiny_figures.measure(model, encoder)
    save(model, tokens, out)
    record = {
        "program": "python -m vlm_server.pretrain_tiny",
        "program_sha256": sha256(*program_files()),
        "weights_sha256": sha256(out / "model.safetensors"),
        "seed": seed,
        "steps": steps,
        "batch": batch,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "figures": figures,
    }
    (out / "PRETRAINING.json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].split(":", 1)[1].strip() if names else platform.processor()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}: this program takes flags only")
    print(json.dumps(pretrain(Path(_OUT.value), _SEED.value, _STEPS.value, _BATCH.value), indent=2))


if __name__ == "__main__":
    app.run(main)
