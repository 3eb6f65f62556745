"""Whether two runs are one and the same: their records and their parameters, byte for byte."""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path

import jax
import numpy as np

from covr_jax.types import Params
from experiments.policy import environment, load_policy
from experiments.run_directory import read_config

RECORDS = ("metrics.jsonl", "evaluations.jsonl", "rounds.jsonl", "samples.jsonl")


def first_difference(one: Path, other: Path) -> str | None:
    """File, line and field of the first difference between two run directories, in one line; None: there is none."""
    for name in RECORDS:
        if difference := lines_difference((one / name).read_bytes(), (other / name).read_bytes()):
            return f"{name}, {difference}"
    if difference := params_difference(params(one), params(other)):
        return f"final parameters, {difference}"
    return None


def params(run: Path) -> Params:
    """The run's final parameters. Raises ValueError, GlError."""
    with environment(read_config(run)) as env:
        return load_policy(run, env.action_space.shape[0])[1]


def lines_difference(one: bytes, other: bytes) -> str | None:
    """Line and field where two JSONL files part; None if every byte is the same."""
    if one == other:
        return None
    for number, (left, right) in enumerate(zip_longest(one.split(b"\n"), other.split(b"\n")), 1):
        if left != right:
            return f"line {number}, {_field(left, right)}"
    raise AssertionError("unequal bytes have an unequal line")


def _field(left: bytes | None, right: bytes | None) -> str:
    """The first field, in the order of the file, that two unequal lines do not share."""
    if not left or not right:
        return f"which only the {'second' if not left else 'first'} run has"
    try:
        a, b = json.loads(left), json.loads(right)
    except ValueError:
        return "which is no valid JSON in both"
    for name in dict.fromkeys((*a, *b)):
        if name not in a or name not in b:
            return f"field {name}: only in the {'second' if name not in a else 'first'} run"
        if json.dumps(a[name]) != json.dumps(b[name]):
            return f"field {name}: {json.dumps(a[name])[:80]} and {json.dumps(b[name])[:80]}"
    return "which differs in its spelling alone"


def params_difference(one: Params, other: Params) -> str | None:
    """Name and place of the first array whose bytes differ (signs of zero and NaNs included)."""
    left, right = (
        {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (one, other)
    )
    for name in dict.fromkeys((*left, *right)):
        if name not in left or name not in right:
            return f"{name}: only in the {'second' if name not in left else 'first'} run"
        a, b = left[name], right[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"{name}: {a.dtype} {a.shape} and {b.dtype} {b.shape}"
        if a.tobytes() != b.tobytes():
            unequal = np.frombuffer(a.tobytes(), np.uint8) != np.frombuffer(b.tobytes(), np.uint8)
            where = int(np.argmax(unequal)) // a.itemsize
            return f"{name}: {a.flat[where]!r} and {b.flat[where]!r} at index {where} of {a.size}"
    return None
