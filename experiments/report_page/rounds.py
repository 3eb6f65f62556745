"""COVR's rounds: what EDDF kept, how RALW weighted it, and what tuning did to the VLM."""

from __future__ import annotations

import math
from collections.abc import Sequence

from covr_jax.config import EddfConfig
from experiments.json_lines import number
from experiments.report_page.html import Swatch, details, escape, figure, grid, missing, section, table
from experiments.report_page.marks import Series, bars, dots, line, points
from experiments.report_page.numbers import DASH, exact, finite, percent, short, significant
from experiments.report_page.run_data import Line, RunData
from experiments.report_page.svg import HALF, SMALL, Axis, Plot, Size, axis_for, both_widths, tip, value_tip

KEPT, ALL = "var(--c2)", "var(--quiet)"
BEFORE, AFTER = "var(--c6)", "var(--c3)"
WEIGHTS = {"weight_mean": "var(--c1)", "weight_positive_share": "var(--c5)"}
RULES = {"intended": "+sigmoid(−entropy)", "literal": "+sigmoid(entropy)", "relaxed": "−sigmoid(entropy)"}


def rounds_section(run: RunData) -> str:
    rounds = run.lines["rounds"]
    if not rounds:
        return section(
            "rounds", "COVR rounds", missing("rounds.jsonl holds no round, so the VLM was never tuned.")
        )
    eddf = run.config.rounds.eddf
    lead = (
        f"Every round filters the agent's own steps: {_filter_words(eddf)} The "
        "VLM's adapter is then tuned on the steps that were kept, weighted by return "
        f"(RALW, <i>{escape(run.config.rounds.weights)}</i>)."
    )
    figures = [
        figure("VLM driving alone", *_before_after(rounds, "vlm_return_before", "vlm_return_after",
               "mean return", "vlm_returns_before", "vlm_returns_after")),
        figure("Loss on held-out samples", *_before_after(rounds, "holdout_loss_before", "holdout_loss_after",
               "RALW loss, nats per token")),
        figure("Threshold τ of EDDF", _per_round(rounds, {"tau": "var(--c1)"}, "τ", zero=False)),
        figure("Policy entropy that EDDF saw",
               _per_round(rounds, {"entropy": "var(--c4)"}, _entropy_unit(run), zero=False)),
        figure("Steps kept by EDDF", _kept(rounds), [Swatch("collected", ALL), Swatch("kept", KEPT)]),
        figure("Weights of RALW", _per_round(rounds, WEIGHTS, "weight, share", zero=True),
               [Swatch("mean weight", WEIGHTS["weight_mean"], "line"),
                Swatch("share with a weight above 0", WEIGHTS["weight_positive_share"], "line")]),
    ]  # fmt: skip
    return section(
        "rounds",
        "COVR rounds",
        _table(rounds),
        grid(*figures),
        *_errors(rounds),
        _histograms(rounds),
        lead=lead,
    )


def _filter_words(eddf: EddfConfig) -> str:
    """Which filter a round ran, as one sentence of the lead."""
    score = {"return": "return", "reward": "reward", "q": "Q value"}[eddf.score]
    if eddf.filter == "percentile":
        percentile = 100 - eddf.percentile if eddf.keep_top else eddf.percentile
        return f"a step is kept if its {score} exceeds τ, the {percentile:g}th percentile."
    what = f"z-score of its {score}" if eddf.compare == "z" and eddf.zscore else score
    rule = f"rule <i>{escape(eddf.rule)}</i>, {RULES[eddf.rule]}"
    if eddf.filter == "random":
        return f"a random choice, as many steps as EDDF ({rule}) would keep."
    return f"EDDF ({rule}) keeps a step if the {what} exceeds τ."


def _entropy_unit(run: RunData) -> str:
    return "nats per action dimension" if run.config.rounds.eddf.entropy == "per_dim" else "nats, joint"


def _table(rounds: Sequence[Line]) -> str:
    head = ["round", "frames", "decisions", "τ", "entropy", "kept", "train loss", "held-out loss",
            "weight mean", "VLM alone", "adapter"]  # fmt: skip
    rows = []
    for entry in rounds:
        kept, total = number(entry.get("kept")), number(entry.get("total"))
        digest = str(entry.get("adapter_digest") or "")
        version = escape(entry.get("adapter_version") or DASH)
        rows.append([
            str(entry.get("round", DASH)), exact(entry["frames"]), exact(entry["decisions"]),
            significant(number(entry.get("tau"))), significant(number(entry.get("entropy"))),
            f"{exact(kept)} <small>of {exact(total)}</small>",
            _arrow(entry, "train_loss_first", "train_loss_last"),
            _arrow(entry, "holdout_loss_before", "holdout_loss_after"),
            significant(number(entry.get("weight_mean"))),
            _arrow(entry, "vlm_return_before", "vlm_return_after"),
            f"{version} <small>{escape(digest.removeprefix('sha256:')[:8])}</small>",
        ])  # fmt: skip
    return table(head, rows)


def _arrow(entry: Line, before: str, after: str) -> str:
    values = number(entry.get(before)), number(entry.get(after))
    return DASH if not finite(values) else f"{significant(values[0])} → {significant(values[1])}"


def _errors(rounds: Sequence[Line]) -> list[str]:
    return [
        missing(f"Round {entry.get('round')}: {entry['error']}") for entry in rounds if entry.get("error")
    ]


def _names(rounds: Sequence[Line]) -> list[str]:
    return [str(entry.get("round", index)) for index, entry in enumerate(rounds)]


def _frame(rounds: Sequence[Line], y_axis: Axis, y_label: str, label: str) -> Plot:
    """A chart with one place per round."""
    plot = Plot(SMALL, Axis(-0.6, len(rounds) - 0.4), y_axis, label)
    plot.y_grid(y_label)
    names = _names(rounds)
    plot.x_ticks([("round", lambda value: names[round(value)])], list(range(len(rounds))))
    return plot


def _before_after(
    rounds: Sequence[Line], before: str, after: str, y_label: str, each_before: str = "", each_after: str = ""
) -> tuple[str, list[Swatch], str]:
    """Chart, legend and caption: an open ring before and a filled dot after, one pair a round."""
    pairs = [(number(entry.get(before)), number(entry.get(after))) for entry in rounds]
    if not finite([value for pair in pairs for value in pair]):
        return missing(f"rounds.jsonl does not tell {before} and {after}."), [], ""
    episodes = [
        [finite([number(value) for value in entry.get(key) or []]) for key in (each_before, each_after)]
        for entry in rounds
    ]
    everything = [v for pair in pairs for v in pair] + [
        v for both in episodes for values in both for v in values
    ]
    plot = _frame(
        rounds,
        axis_for(everything, zero=bool(each_before)),
        y_label,
        f"{y_label} before and after each round",
    )
    for index, (pair, both) in enumerate(zip(pairs, episodes, strict=True)):
        left, right = plot.x(index - 0.16), plot.x(index + 0.16)
        for place, values, colour in zip((index - 0.16, index + 0.16), both, (BEFORE, AFTER), strict=True):
            dots(plot, place, values, colour, "return of one episode")
        if math.isfinite(pair[0]) and math.isfinite(pair[1]):
            plot.add(
                f'<path class="curve" d="M{left:.1f} {plot.y(pair[0]):.1f}'
                f'L{right:.1f} {plot.y(pair[1]):.1f}" style="stroke:var(--c6);stroke-width:1.5"/>'
            )
        told = value_tip(("before", pair[0]), ("after", pair[1]))
        if math.isfinite(pair[0]):
            plot.add(
                f'<circle cx="{left:.1f}" cy="{plot.y(pair[0]):.1f}" r="4.2" '
                f'style="fill:var(--card);stroke:{BEFORE};stroke-width:2">{told}</circle>'
            )
        if math.isfinite(pair[1]):
            plot.add(
                f'<circle cx="{right:.1f}" cy="{plot.y(pair[1]):.1f}" r="4.6" style="fill:{AFTER}">'
                f"{told}</circle>"
            )
    many = {len(values) for both in episodes for values in both if values}
    caption = f"Small dots: single episodes ({max(many)} a point)." if many else ""
    return plot.render(), [Swatch("before", BEFORE, "ring"), Swatch("after", AFTER, "dot")], caption


def _per_round(rounds: Sequence[Line], colours: dict[str, str], y_label: str, zero: bool) -> str:
    values = {key: [number(entry.get(key)) for entry in rounds] for key in colours}
    if not finite([value for column in values.values() for value in column]):
        return missing(f"rounds.jsonl does not tell {' or '.join(colours)}.")
    everything = [value for column in values.values() for value in column]
    plot = _frame(rounds, axis_for(everything, zero=zero), y_label, f"{y_label} per round")
    for key, colour in colours.items():
        series = Series(key.replace("_", " "), colour, range(len(rounds)), values[key])
        line(plot, series)
        points(plot, series, [[(key.replace("_", " "), value)] for value in values[key]])
    return plot.render()


def _kept(rounds: Sequence[Line]) -> str:
    totals = [number(entry.get("total")) for entry in rounds]
    plot = _frame(rounds, axis_for([*totals, 0], zero=True), "steps", "Steps collected and kept per round")
    for index, entry in enumerate(rounds):
        kept, total = number(entry.get("kept")), totals[index]
        told = tip(f"kept {exact(kept)} of {exact(total)}")
        for value, colour in ((total, ALL), (kept, KEPT)):
            if math.isfinite(value):
                left, right, top = plot.x(index - 0.3), plot.x(index + 0.3), plot.y(value)
                plot.add(
                    f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                    f'height="{plot.bottom - top:.1f}" style="fill:{colour}">{told}</rect>'
                )
        if total > 0 and len(rounds) <= 10:
            plot.add(
                f'<text x="{plot.x(index):.1f}" y="{plot.y(total) - 5:.1f}" text-anchor="middle">'
                f"{100 * kept / total:.0f} %</text>"
            )
    return plot.render()


def _histograms(rounds: Sequence[Line]) -> str:
    shown = [entry for entry in rounds if entry.get("return_hist_edges")]
    if not shown:
        return missing("rounds.jsonl holds no histogram of returns.")
    lowest = min(entry["return_hist_edges"][0] for entry in shown)
    highest = max(entry["return_hist_edges"][-1] for entry in shown)
    room = 0.02 * (highest - lowest) or 1.0
    figures = []
    for entry in shown:
        name = f"Round {entry.get('round', '?')}, {short(entry['frames'])} frames"
        figures.append(figure(f"{name}: returns", _returns(entry, Axis(lowest - room, highest + room)),
                              [Swatch("collected", ALL), Swatch("kept", KEPT)],
                              _kept_words(entry)))  # fmt: skip
        if entry.get("kept_time_hist"):
            figures.append(figure(f"{name}: time", _times(entry), [Swatch("kept", KEPT)], _time_words(entry)))
    body = grid(*figures, pairs=True)
    heading = "Which steps were kept, round by round"
    # The last round first is what one looks for; the older ones fold away when there are many.
    if len(shown) > 3:
        recent, older = figures[-4:], figures[:-4]
        older_body = grid(*older, pairs=True)
        body = grid(*recent, pairs=True) + details(f"Earlier rounds ({len(shown) - 2})", older_body)
    return f"<h3 class='aside'>{heading}</h3>{body}"


def _kept_words(entry: Line) -> str:
    kept, total, tau = (number(entry.get(key)) for key in ("kept", "total", "tau"))
    return f"Kept {exact(kept)} of {exact(total)}; τ = {significant(tau)}."


def _time_words(entry: Line) -> str:
    counts = [number(value) for value in entry["kept_time_hist"]]
    half = sum(counts[: len(counts) // 2]) / (sum(counts) or 1)
    return f"{percent(half)} of the kept steps come from the first half of the episode."


def _returns(entry: Line, x_axis: Axis) -> str:
    edges = entry["return_hist_edges"]
    everything, kept = entry.get("return_hist_all") or [], entry.get("return_hist_kept") or []

    def draw(size: Size) -> str:
        plot = Plot(
            size, x_axis, axis_for([*everything, *kept, 0], zero=True), "Returns of the collected steps"
        )
        plot.y_grid("steps")
        plot.x_ticks([("discounted return-to-go g, reward units", short)])
        bars(plot, edges, everything, ALL, "steps collected")
        bars(plot, edges, kept, KEPT, "steps kept")
        return plot.render()

    return both_widths(draw, HALF, SMALL)


def _times(entry: Line) -> str:
    counts = entry["kept_time_hist"]
    edges = entry.get("kept_time_edges")
    unit = "decision within the episode"
    if not edges or len(edges) != len(counts) + 1:
        edges, unit = list(range(len(counts) + 1)), "time within the episode, bin"

    def draw(size: Size) -> str:
        plot = Plot(
            size, Axis(edges[0], edges[-1]), axis_for([*counts, 0], zero=True), "When the kept steps happened"
        )
        plot.y_grid("steps")
        plot.x_ticks([(unit, short)])
        bars(plot, edges, counts, KEPT, "steps kept")
        return plot.render()

    return both_widths(draw, HALF, SMALL)
