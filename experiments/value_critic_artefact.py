"""The folder of a pre-trained value critic: parameters, and a manifest that says what they are for.

params/         Orbax: conv, critic_head, critic
manifest.json   ``fits``: what a learner must share with it; ``made``: how it was made; ``digest``: of the parameters
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from covr_jax.agent import Agent, pick
from covr_jax.checkpoint import load_params, save_params
from covr_jax.config import Config
from covr_jax.methods import BASES
from covr_jax.networks import PLAIN
from covr_jax.types import Params
from experiments.run_directory import write_json

SIZES = ("augmentation", "image_size", "filters", "kernels", "strides", "feature_dim", "hidden_dim", "discount")


def fits(config: Config, action_dim: int, action_repeat: int) -> dict[str, Any]:
    """What learner and value critic must have in common, by the names that the user knows them by."""
    env, learner = config.env, config.learner
    shared = {
        "env.name": env.name,
        "env.render_size": env.render_size,
        "env.render_quality": env.render_quality,
        "env.camera": env.camera,
        "env.frame_stack": env.frame_stack,
        "action size": action_dim,
        "env.action_repeat": action_repeat,
    }
    sizes = {f"learner.{name}": getattr(learner, name) for name in SIZES}
    if BASES[learner.base].networks != PLAIN:  # the others' critics are alike
        shared["learner.base"] = learner.base
    return shared | {name: list(size) if isinstance(size, tuple) else size for name, size in sizes.items()}


def save(folder: Path, params: Params, fitting: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Writes the folder; the manifest last, so that a folder with one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_params(folder / "params", params)
    write_json(folder / "manifest.json", {"fits": fitting, "made": made, "digest": digest(params)})


def load(folder: Path, config: Config, action_dim: int, action_repeat: int) -> tuple[Params, dict[str, Any]]:
    """The frozen parameters and ``made``.

    Raises ValueError, in one line, if there is no value critic, if it was made for another task or other sizes, or if
    its parameters are not the ones that were written.
    """
    manifest = _manifest(folder)
    wanted = fits(config, action_dim, action_repeat)
    for name, value in wanted.items():
        made_for = manifest["fits"].get(name)
        if made_for != value:
            raise ValueError(f"{folder} was made for {name}={made_for}, this run has {value}")
    base = BASES[config.learner.base]
    agent = Agent(config.learner, action_dim, config.env.frame_stack, {}, base.networks, base.sight.pictures)
    like = jax.eval_shape(lambda: pick(agent.create(jax.random.PRNGKey(0)), agent.critic_parts))
    try:
        params = load_params(folder / "params", like)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{folder} holds no readable value critic: {str(error).splitlines()[0]}") from None
    if digest(params) != manifest["digest"]:
        raise ValueError(f"{folder} is damaged: its parameters are not those that its manifest names")
    return params, manifest["made"]


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if not all(isinstance(manifest[name], dict) for name in ("fits", "made")) or "digest" not in manifest:
            raise ValueError("fits, made or digest is missing")
    except FileNotFoundError:
        raise ValueError(
            f"{folder} holds no value critic (no manifest.json); make one with python -m experiments.pretrain_critic"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'manifest.json'} cannot be read: {error}") from None
    return manifest


def digest(params: Params) -> str:
    """SHA-256 over names, shapes and values, in a fixed order."""
    total = hashlib.sha256()
    for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(params)):
        array = np.ascontiguousarray(leaf, np.float32)
        total.update(f"{path} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()
