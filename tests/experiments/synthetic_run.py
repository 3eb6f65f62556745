"""Synthetic runs for the tests of run directory and report: invented numbers in the shapes of real ones."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from covr_jax.config import Config
from experiments import configuration
from experiments.run_directory import RunDirectory
from experiments.video import write_episode

REPEAT = 8
ENVIRONMENT = {
    "python": "3.11.9",
    "platform": "test",
    "packages": {"jax": "0.10.2", "torch": None},
    "git": None,
}


def config(
    method: str = "covr", seed: int = 1, steps: int = 100_000, task: str = "dmc/cartpole/swingup"
) -> Config:
    settings = [f"learner.method={method}", f"run.seed={seed}", f"run.steps={steps}", f"env.name={task}"]
    return configuration.resolve(
        configuration.build(settings=[*settings, f"env.action_repeat={REPEAT}"]).config
    )


def picture(rng: np.random.Generator, angle: float, size: int = 100) -> np.ndarray:
    """A pole on a cart, uint8 [size, size, 3]."""
    rows = np.mgrid[:size, :size][0]
    frame = np.zeros((size, size, 3), np.uint8)
    frame[:] = (62, 74, 96)
    frame[rows > 70] = (40, 46, 58)
    along = np.linspace(0, 40, 160)
    y, x = (68 - along * np.cos(angle)).astype(int), (50 + along * np.sin(angle)).astype(int)
    for shift in (-1, 0, 1):
        frame[np.clip(y, 0, 99), np.clip(x + shift, 0, 99)] = (236, 180, 80)
    frame[66:74, 40:60] = (90, 170, 220)
    return frame


def write(path: Path, method: str = "covr", seed: int = 1, steps: int = 100_000, final: float = 850.0,
          video: bool = True, task: str = "dmc/cartpole/swingup") -> Path:  # fmt: skip
    """A finished run with every stream filled in, as far as ``method`` fills it."""
    rng = np.random.default_rng(seed)
    asks, tunes = method != "none", method == "covr"
    run = RunDirectory.create(
        path, config(method, seed, steps, task), [f"learner.method={method}"], ENVIRONMENT
    )
    rounds = (
        [frames for frames in (5_000, 15_000, 30_000, 50_000, 75_000) if frames <= steps] if tunes else []
    )
    seconds, asked = 0.0, np.zeros(4, int)
    parts = dict.fromkeys(("env", "act", "sample", "update", "prior_wait", "round", "evaluation"), 0.0)
    with run:
        for frames in range(1000, steps + 1, 1000):
            progress = frames / steps
            level = final / (1 + math.exp(-9 * (progress - 0.42)))
            where = {"frames": frames, "decisions": frames // REPEAT}
            on = asks and (not tunes or frames > 50_000)
            if on:
                asked += rng.multinomial(
                    100, [0.86 + 0.1 * progress - 0.06, 0.06, 0.06 - 0.05 * progress, 0.02]
                )
            distance = 0.9 - 0.5 * progress + rng.normal(0, 0.03)
            record = where | {
                "episode_return": max(0.0, level + rng.normal(0, 60)), "episodes": frames // 1000,
                "updates": max(0, frames // REPEAT - 1000), "replay_size": frames // REPEAT,
                "round": sum(r < frames for r in rounds),
            }  # fmt: skip
            if frames // REPEAT > 1000:
                record |= {
                    "critic_loss": np.float32(0.02 + 2 * progress + rng.exponential(0.3)),
                    "actor_loss": -level / 12 + rng.normal(0, 1),
                    "alpha": 0.1 * math.exp(-5 * progress) + 1e-4,
                    "alpha_loss": rng.normal(0, 0.02), "entropy": 0.7 - 2.6 * progress + rng.normal(0, 0.08),
                    "q_mean": level / 12 + rng.normal(0, 0.8),
                    "guidance_loss": max(0, distance**2) if on else 0.0,
                    "prior_share": 0.7 if on else 0.0,
                }  # fmt: skip
            if frames == 40_000:
                record["alpha_loss"] = math.nan
            if asks:
                record |= {
                    f"labels_{s}": int(n)
                    for s, n in zip(("ok", "clipped", "malformed", "unavailable"), asked, strict=True)
                }
                record |= {"label_distance": distance if on else math.nan, "prior_available": 1}
            run.write("metrics", record)
            if frames in rounds:
                run.write("rounds", round_line(rng, where, rounds.index(frames), level))
                seconds += 90
                parts["round"] += 90
            spent = 12 + rng.exponential(1.0)
            seconds += spent
            for name, share in zip(
                ("env", "act", "sample", "update", "prior_wait"), (0.3, 0.1, 0.08, 0.4, 0.05), strict=True
            ):
                parts[name] += share * spent
            if frames % 10_000 == 0:
                returns = np.clip(level + rng.normal(0, 55, 10), 0, 1000)
                record = where | {"returns": returns, "return_mean": returns.mean(),
                                  "return_std": returns.std(),
                                  "length_mean": 125.0}  # fmt: skip
                if video:
                    record["video"] = f"videos/{frames:09d}.mp4"
                    film(path / record["video"], rng, on)
                run.write("evaluations", record)
                seconds += 20
                parts["evaluation"] += 20
                if on:
                    write_samples(run, rng, where)
            run.write("timings", where | {"seconds": seconds, "part_seconds": parts})
    return path


def round_line(rng: np.random.Generator, where: dict, index: int, level: float) -> dict:
    total = 600 + 900 * index
    returns = rng.gamma(2.0, level / 24 + 4, total)
    z = (returns - returns.mean()) / returns.std()
    entropy = 0.6 - 0.5 * index
    tau = 1 / (1 + math.exp(entropy))
    keep = z > tau
    edges = np.histogram_bin_edges(returns, 20)
    time = rng.integers(0, 125, total)
    time_edges = np.linspace(0, 125, 21)
    return where | {
        "round": index, "tau": tau, "entropy": entropy, "kept": keep.sum(), "total": total,
        "weight_mean": 0.4 + 0.02 * index,
        "weight_positive_share": 0.97, "train_loss_first": 2.4 - 0.3 * index,
        "train_loss_last": 1.9 - 0.3 * index,
        "holdout_loss_before": 2.45 - 0.3 * index, "holdout_loss_after": 2.0 - 0.3 * index,
        "adapter_version": f"v{index + 1}", "adapter_digest": "sha256:" + "0123456789abcdef" * 4,
        "vlm_returns_before": rng.normal(60 + 50 * index, 15, 4),
        "vlm_returns_after": rng.normal(105 + 55 * index, 18, 4),
        "vlm_return_before": 60 + 50 * index, "vlm_return_after": 105 + 55 * index,
        "return_hist_edges": edges, "return_hist_all": np.histogram(returns, edges)[0],
        "return_hist_kept": np.histogram(returns[keep], edges)[0],
        "kept_time_edges": time_edges, "kept_time_hist": np.histogram(time[keep], time_edges)[0],
    }  # fmt: skip


def write_samples(run: RunDirectory, rng: np.random.Generator, where: dict) -> None:
    replies = (("The pole leans right, so push right.\ncart force: 0.62", "ok", [0.62]),
               ("cart force: 1.40", "clipped", [1.0]),
               ("I am <not> sure.", "malformed", None))  # fmt: skip
    for text, status, action in replies[: 2 + (where["frames"] % 20_000 == 0)]:
        run.write_sample(
            picture(rng, rng.uniform(-3, 3)),
            where | {"prompt": "You control a cart with a pole on it.\nName the cart force in [-1, 1].",
                     "text": text,
                     "status": status, "version": "v3", "action": action,
                     "policy_action": [rng.uniform(-1, 1)]},
        )  # fmt: skip


def film(path: Path, rng: np.random.Generator, with_prior: bool) -> None:
    steps = 25
    frames = np.stack([picture(rng, math.pi * (1 - i / steps)) for i in range(steps)])
    policy = np.sin(np.linspace(0, 6, steps))[:, None]
    prior = np.where(np.arange(steps)[:, None] < 4, np.nan, 0.6 * policy) if with_prior else None
    write_episode(path, frames, policy, prior, ["cart force"], 15)


def with_config(run: Path, **learner: object) -> None:
    """Rewrites the run's configuration."""
    old = configuration.from_json((run / "config.json").read_text())
    new = dataclasses.replace(old, learner=dataclasses.replace(old.learner, **learner))
    (run / "config.json").write_text(configuration.to_json(new))
