"""Learning: evaluation and training returns, the learner's scalars, and where the time went."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.json_lines import number
from experiments.report_page.html import Swatch, details, figure, grid, missing, section, table
from experiments.report_page.marks import Series, band, dots, line, points, small_curve, verticals
from experiments.report_page.numbers import exact, finite, percent
from experiments.report_page.run_data import RunData, elapsed
from experiments.report_page.svg import Axis, Plot, Size, axis_for, both_widths, step_rows, tip

EVALUATION, TRAINING = "var(--c1)", "var(--c6)"

# key of metrics.jsonl, title, unit, whether 0 belongs on the axis
SCALARS = (
    ("critic_loss", "Critic loss", "squared return units", False),
    ("actor_loss", "Actor loss", "return units", False),
    ("q_mean", "Mean Q value", "return units", False),
    ("entropy", "Policy entropy", "nats, joint over action dimensions", False),
    ("alpha", "Temperature alpha", "return units per nat", False),
    ("alpha_loss", "Temperature loss", "return units", False),
    ("actor_gradient_norm", "Gradient of the actor loss", "L2 norm", True),
    ("guidance_loss", "Guidance term", "weighted squared action distance", True),
    ("guidance_gradient_norm", "Gradient of the guidance term", "L2 norm", True),
    ("gate_mean", "Gate Q_f, mean", "scaled value difference, labelled samples", True),
    ("gate_open", "Gate Q_f, open", "share of the labelled samples", True),
    ("value_critic_bias", "Value critic against the online critic", "return units, replayed actions", True),
    ("confidence_p10", "Confidence G, 10 % quantile", "1 / latent distance", True),
    ("confidence_p50", "Confidence G, median", "1 / latent distance", True),
    ("confidence_p90", "Confidence G, 90 % quantile", "1 / latent distance", True),
    ("alpha_target_p10", "Temperature target, 10 % quantile", "return units per nat", True),
    ("alpha_target_p50", "Temperature target, median", "return units per nat", True),
    ("alpha_target_p90", "Temperature target, 90 % quantile", "return units per nat", True),
    ("prior_share", "Transitions with a label", "share of the batch", True),
    ("transition_loss", "Transition loss", "latent units", False),
    ("reward_loss", "Reward loss", "squared reward units", False),
)

PARTS = {
    "env": "environment", "act": "acting", "update": "gradient updates", "sample": "replay sampling",
    "prior_wait": "waiting for the VLM", "round": "COVR rounds", "evaluation": "evaluation",
    "checkpoint": "checkpoints",
}  # fmt: skip
PART_COLOURS = (*(f"var(--c{i})" for i in range(1, 8)), "var(--accent)")


def round_marks(run: RunData) -> list[tuple[float, str]]:
    """(frames, short name) of every COVR round."""
    return [(line["frames"], f"round {line.get('round', '?')}") for line in run.lines["rounds"]]


def right_end(run: RunData) -> float:
    """Where the frame axes of all charts of this run end."""
    return max(finite([run.reached[0]]), default=1.0)


def evaluation_section(run: RunData) -> str:
    parts = [_evaluation_curve(run), _training_curve(run)]
    return section("learning", "Learning curve", *parts)


def _evaluation_curve(run: RunData) -> str:
    lines = run.lines["evaluations"]
    if not lines:
        return missing("evaluations.jsonl holds no evaluation, so there is no learning curve.")
    x, mean = run.column("evaluations", "frames"), run.column("evaluations", "return_mean")
    episodes = [finite([number(value) for value in entry.get("returns") or []]) for entry in lines]
    low = [min(values, default=math.nan) for values in episodes]
    high = [max(values, default=math.nan) for values in episodes]
    told = [
        [("frames", a), ("decisions", number(entry["decisions"])), ("mean", m),
         ("std", number(entry.get("return_std"))),          ("episodes", len(values))]
        for a, m, entry, values in zip(x, mean, lines, episodes, strict=True)
    ]  # fmt: skip

    def draw(size: Size) -> str:
        y_axis = axis_for([*mean, *low, *high], zero=True)
        plot = Plot(size, Axis(0, right_end(run)), y_axis, "Evaluation return over simulator frames", 2)
        rows = step_rows(run.decisions_per_frame)
        plot.y_grid("return of an episode")
        verticals(plot, round_marks(run))
        plot.x_ticks(rows)
        band(plot, x, low, high, EVALUATION)
        for at, values in zip(x, episodes, strict=True):
            dots(plot, at, values, EVALUATION, "return of one episode")
        curve = Series("mean", EVALUATION, x, mean, width=2.6)
        line(plot, curve)
        points(plot, curve, told)
        return plot.render()

    count = {len(values) for values in episodes}
    per_point = f"{min(count)}" if len(count) == 1 else f"{min(count)} to {max(count)}"
    swatches = [Swatch("mean", EVALUATION, "line"), Swatch("one episode", EVALUATION, "dot pale"),
                Swatch("minimum to maximum", EVALUATION, "box pale")]  # fmt: skip
    if run.lines["rounds"]:
        swatches.append(Swatch("COVR round", "var(--c6)", "dash"))
    numbers = table(
        ["frames", "decisions", "mean", "std", "min", "max", "episodes", "length (decisions)"],
        [
            [exact(entry["frames"]), exact(entry["decisions"]), exact(m),
             exact(number(entry.get("return_std"))), exact(a), exact(b), str(len(values)),
             exact(number(entry.get("length_mean")))]
            for entry, m, a, b, values in zip(lines, mean, low, high, episodes, strict=True)
        ],
        text_columns=(),
    )  # fmt: skip
    caption = f"Mean action of the policy, {per_point} episodes a point. The VLM takes no part in evaluation."
    return figure("Evaluation return", both_widths(draw), swatches, caption) + details(
        "All evaluations as a table", numbers
    )


def _training_curve(run: RunData) -> str:
    if not run.has("metrics", "episode_return"):
        return missing("metrics.jsonl holds no finished training episode.")
    x, y = run.column("metrics", "frames"), run.column("metrics", "episode_return")
    window = max(3, len(y) // 20)
    curves = [
        Series("latest episode", TRAINING, x, y, width=1.2, opacity=0.65),
        Series(f"running mean ({window} lines)", "var(--c2)", x, running_mean(y, window), width=2.2),
    ]

    def draw(size: Size) -> str:
        return small_curve(
            "Training return", curves, "return of an episode", run.decisions_per_frame, right_end(run),
            zero=True, notes=round_marks(run), size=(size[0], size[1] - 60),
        )  # fmt: skip

    swatches = [
        Swatch("latest finished episode", TRAINING, "line"),
        Swatch(curves[1].label, "var(--c2)", "line"),
    ]
    return figure("Training return", both_widths(draw), swatches, "Sampled actions, as the agent explores.")


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last ``window`` finite values up to each place."""
    means = []
    for end in range(1, len(values) + 1):
        known = finite(values[max(0, end - window) : end])
        means.append(sum(known) / len(known) if known else math.nan)
    return means


def scalars_section(run: RunData) -> str:
    figures, broken = [], []
    for key, title, unit, zero in SCALARS:
        if not run.has("metrics", key):
            continue
        values = run.column("metrics", key)
        if len(finite(values)) < len(values) and any(key in entry for entry in run.lines["metrics"]):
            bad = sum(
                1 for entry in run.lines["metrics"] if key in entry and not math.isfinite(number(entry[key]))
            )
            broken += [f"{bad} of {len(values)} values of {key} are not finite"] if bad else []
        curve = Series(title, "var(--c1)", run.column("metrics", "frames"), values, width=1.8)
        body = small_curve(title, [curve], unit, math.nan, right_end(run), zero=zero, notes=round_marks(run))
        figures.append(figure(title, body))
    if not figures:
        return section(
            "scalars", "Inside the learner", missing("metrics.jsonl holds none of the learner's scalars.")
        )
    notes = [missing("; ".join(broken) + ".")] if broken else []
    lead = "Numbered dashed lines: COVR rounds." if run.lines["rounds"] else ""
    return section("scalars", "Inside the learner", grid(*figures), *notes, lead=lead)


def timing_section(run: RunData) -> str:
    lines = run.lines["timings"]
    if not lines:
        return section(
            "time", "Speed", missing("timings.jsonl holds no line, so wall-clock figures are unknown.")
        )
    frames = run.column("timings", "frames")
    seconds = elapsed(run.column("timings", "seconds"))
    told = run.column("timings", "frames_per_second")
    rate = []
    for i in range(len(lines)):
        spent = seconds[i] - (seconds[i - 1] if i else 0)
        done = frames[i] - (frames[i - 1] if i else 0)
        rate.append(told[i] if math.isfinite(told[i]) else done / spent if spent > 0 else math.nan)
    curve = Series("frames per second", "var(--c3)", frames, rate)

    def draw(size: Size) -> str:
        return small_curve(
            "Speed", [curve], "simulator frames per second", run.decisions_per_frame, right_end(run),
            zero=True, notes=round_marks(run), size=(size[0], size[1] - 80),
        )  # fmt: skip

    speed = figure(
        "Speed",
        both_widths(draw),
        (),
        "Wall-clock, everything included: rounds and evaluations show as dips.",
    )
    return section("time", "Speed", speed, _parts(run))


def part_totals(run: RunData) -> dict[str, float]:
    """Seconds in each part over all sessions; ``part_seconds`` counts up and starts anew with a session."""
    names = dict.fromkeys(name for entry in run.lines["timings"] for name in entry.get("part_seconds") or {})
    return {
        name: elapsed(
            [number((entry.get("part_seconds") or {}).get(name)) for entry in run.lines["timings"]]
        )[-1]
        for name in names
    }


def _parts(run: RunData) -> str:
    totals = part_totals(run)
    if not totals:
        return missing("timings.jsonl does not say in which part the time was spent.")
    rest = run.seconds - sum(totals.values())
    shown = sorted(((name, value) for name, value in totals.items() if value > 0), key=lambda item: -item[1])
    entries = [
        (PARTS.get(name, name), value, PART_COLOURS[i % len(PART_COLOURS)])
        for i, (name, value) in enumerate(shown)
    ]
    if rest > 0:
        entries.append(("everything else", rest, "var(--quiet)"))
    whole = sum(value for _, value, _ in entries) or 1.0
    left, boxes = 0.0, []
    for name, value, colour in entries:
        width = 1000 * value / whole
        boxes.append(
            f'<rect x="{left:.2f}" y="0" width="{max(width - 1.5, 0.5):.2f}" height="26" '
            f'style="fill:{colour}">'
            f"{tip(f'{name}: {percent(value / whole)}')}</rect>"
        )
        left += width
    svg = (
        f'<svg viewBox="0 0 1000 26" preserveAspectRatio="none" style="height:26px" role="img" '
        f'aria-label="Share of wall-clock time by part">{"".join(boxes)}</svg>'
    )
    swatches = [Swatch(f"{name} {percent(value / whole)}", colour) for name, value, colour in entries]
    return figure("Where the time went", svg, swatches)
