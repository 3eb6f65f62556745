"""The top of a run's page: what was run, how it ended, and the figures that matter first."""

from __future__ import annotations

import math

from covr_jax import methods
from experiments.json_lines import number
from experiments.report_page.html import escape
from experiments.report_page.numbers import DASH, duration, exact, percent, significant
from experiments.report_page.run_data import RunData

REPLIES = ("ok", "clipped", "malformed", "unavailable")


def header(run: RunData) -> str:
    config = run.config
    state = run.status.get("state", "unknown")
    reason = run.status.get("reason", "")
    lineage = f"<b>{escape(config.learner.base)}</b> base learner, "
    lineage += (
        "no VLM"
        if config.learner.method == "none"
        else f"method <b>{escape(config.learner.method)}</b>, prior <b>{escape(config.prior.source)}</b>"
    )
    return (
        f'<header><div class="eyebrow"><span>Training run {escape(run.path.resolve().name)}</span>'
        f'<span class="pill {escape(state)}">{escape(state)}</span></div>'
        f"<h1>{escape(config.env.name)}</h1>"
        f'<p class="subtitle">{lineage}, seed <b>{config.run.seed}</b></p>'
        + (f'<p class="missing">{escape(state)}: {escape(reason)}</p>' if reason else "")
        + f'<dl class="tiles">{"".join(_tiles(run))}</dl></header>'
    )


def _tiles(run: RunData) -> list[str]:
    tiles = [_final(run), _budget(run), _clock(run)]
    method = methods.METHODS[run.config.learner.method]
    if method.asks_prior:
        tiles.append(_replies(run))
    if method.tunes_prior:
        rounds = run.lines["rounds"]
        versions = [str(line["adapter_version"]) for line in rounds if line.get("adapter_version")]
        tiles.append(
            _tile(
                "COVR rounds",
                str(len(rounds)),
                f"latest adapter {versions[-1]}" if versions else "no adapter",
            )
        )
    return tiles


def _final(run: RunData) -> str:
    if not run.lines["evaluations"]:
        return _tile("Final evaluation", DASH, "no evaluation yet")
    last = run.lines["evaluations"][-1]
    episodes = len(last.get("returns") or [])
    spread = significant(number(last.get("return_std")))
    value = f"{exact(number(last.get('return_mean')))} <small>± {spread}</small>"
    return _tile(
        "Final evaluation return",
        value,
        f"mean ± std over {episodes} episodes, at {exact(last['frames'])} frames",
    )


def _budget(run: RunData) -> str:
    frames, decisions = run.budget.values()
    reached, _ = run.reached
    value = f"{exact(frames)} <small>frames</small>"
    if math.isnan(decisions) or math.isnan(frames):
        value = f"{exact(run.config.run.steps)} <small>{escape(run.config.run.step_unit)}</small>"
        note = "action repeat not known yet"
    else:
        note = f"= {exact(decisions)} decisions"
    share = "" if math.isnan(reached) or not frames > 0 else f"; {percent(min(reached / frames, 1))} reached"
    own, policy = (run.value_critic.get(name, 0) for name in ("frames", "policy_frames"))
    extra = f"; {exact(own + policy)} frames more went into the value critic and its policy" if own else ""
    return _tile("Budget", value, note + share + extra)


def _clock(run: RunData) -> str:
    reached, _ = run.reached
    seconds = run.seconds
    rate = f"{exact(reached / seconds, 3)} frames/s on average" if seconds > 0 else "no timings"
    return _tile("Wall-clock", duration(seconds), rate)


def _replies(run: RunData) -> str:
    last = run.lines["metrics"][-1] if run.lines["metrics"] else {}
    counts = [number(last.get(f"labels_{status}")) for status in REPLIES]
    total = sum(count for count in counts if math.isfinite(count))
    if not total:
        return _tile("VLM replies parsed", DASH, "no reply counted")
    return _tile("VLM replies parsed", percent(sum(counts[:2]) / total), f"of {exact(total)} replies")


def _tile(term: str, value: str, note: str) -> str:
    return (
        f'<div class="tile"><dt>{escape(term)}</dt><dd><div class="value">{value}</div>'
        f'<div class="note">{escape(note)}</div></dd></div>'
    )
