"""The frame of a chart: scales, grid, ticks and axis labels, as inline SVG in the colours of the page.

Sizes are in user units. Every chart scales to its container's width, so a chart that must stay legible on a
phone is drawn a second time with a narrow frame (``both_widths``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.report_page.html import escape
from experiments.report_page.numbers import exact, finite, log_ticks, short, ticks

Size = tuple[int, int]

WIDE, NARROW, SMALL, HALF = (960, 340), (360, 270), (320, 210), (480, 230)
LEFT, RIGHT, TOP = 40, 14, 34
CHARACTER = 7.4  # width of a tick label's character


@dataclass(frozen=True)
class Axis:
    """A range of values; ``log`` only for positive ranges."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Position of ``value`` in [0, 1] of the axis."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def axis_for(values: Sequence[float], zero: bool = False, log: bool = False, pad: float = 0.06) -> Axis:
    """An axis around ``values`` (non-finite ones aside), with some room; ``zero`` keeps 0 in it."""
    known = finite(values) or [0.0]
    low, high = min(known), max(known)
    if log:
        low = min(value for value in known if value > 0)
        return Axis(low / 1.3, high * 1.3, True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            return Axis(0.0, 1.0)
    span = high - low or abs(high) or 1.0
    lower = low if zero and low == 0 else low - pad * span
    return Axis(lower, high if zero and high == 0 else high + pad * span)


def wants_log(values: Sequence[float]) -> bool:
    known = finite(values)
    return bool(known) and min(known) > 0 and max(known) / min(known) > 50


class Plot:
    """A chart being drawn. ``x`` and ``y`` turn values into user units."""

    def __init__(self, size: Size, x_axis: Axis, y_axis: Axis, label: str, x_rows: int = 1) -> None:
        self.width, self.height = size
        self.x_axis, self.y_axis, self.label = x_axis, y_axis, label
        self.bottom = self.height - 22 - 17 * x_rows
        widest = max((len(short(t)) for t in y_axis.ticks(self._y_count)), default=0)
        self.left = max(LEFT, 16 + CHARACTER * widest)
        self.parts: list[str] = []

    @property
    def _y_count(self) -> int:
        return 5 if self.height > 250 else 4

    def x(self, value: float) -> float:
        return self.left + self.x_axis.place(value) * (self.width - RIGHT - self.left)

    def y(self, value: float) -> float:
        return self.bottom - self.y_axis.place(value) * (self.bottom - TOP)

    def add(self, markup: str) -> None:
        self.parts.append(markup)

    def y_grid(self, label: str) -> None:
        for value in self.y_axis.ticks(self._y_count):
            y = self.y(value)
            self.add(f'<path class="gridline" d="M{self.left:.1f} {y:.1f}H{self.width - RIGHT}"/>')
            self.add(f'<text x="{self.left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
        scale = " (log scale)" if self.y_axis.log else ""
        self.add(f'<text class="axis" x="4" y="13">{escape(label)}{scale}</text>')

    def x_ticks(
        self, rows: Sequence[tuple[str, Callable[[float], str]]], values: Sequence[float] | None = None
    ) -> None:
        """Tick marks and one row of labels below them per (unit, text of a tick)."""
        self.add(f'<path class="axisline" d="M{self.left:.1f} {self.bottom}H{self.width - RIGHT}"/>')
        at = self.x_axis.ticks(max(3, int(self.width // 110))) if values is None else values
        for row, (_, text) in enumerate(rows):
            baseline = self.bottom + 17 + 16 * row
            widest = max((len(text(value)) for value in at), default=1) * CHARACTER + 10
            room = abs(self.x(at[1]) - self.x(at[0])) if len(at) > 1 else widest
            stride = max(1, math.ceil(widest / room))
            for index, value in enumerate(at):
                x = self.x(value)
                if row == 0:
                    self.add(f'<path class="axisline" d="M{x:.1f} {self.bottom}v4"/>')
                if index % stride == 0:
                    half = len(text(value)) * CHARACTER / 2
                    anchor, place = ("end", self.width - 2) if x + half > self.width else ("middle", x)
                    kind = "" if row == 0 else ' class="second"'
                    self.add(
                        f'<text{kind} x="{place:.1f}" y="{baseline}" text-anchor="{anchor}">'
                        f"{text(value)}</text>"
                    )
        names = " / ".join(unit for unit, _ in rows)
        self.add(
            f'<text class="axis" x="{(self.left + self.width - RIGHT) / 2:.1f}" y="{self.height - 4}" '
            f'text-anchor="middle">{escape(names)}</text>'
        )

    def render(self) -> str:
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.label)}">'
            f"{''.join(self.parts)}</svg>"
        )


def step_rows(decisions_per_frame: float) -> list[tuple[str, Callable[[float], str]]]:
    """The two rows of a step axis: frames, and the decisions they amount to."""
    rows: list[tuple[str, Callable[[float], str]]] = [("simulator frames", short)]
    if math.isfinite(decisions_per_frame):
        rows.append(("decisions of the agent", lambda value: short(value * decisions_per_frame)))
    return rows


def both_widths(draw: Callable[[Size], str], wide: Size = WIDE, narrow: Size = NARROW) -> str:
    """The chart for wide screens and the one for phones; the page's style shows one of them."""
    return f'<div class="wide">{draw(wide)}</div><div class="narrow">{draw(narrow)}</div>'


def tip(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def value_tip(*pairs: tuple[str, float]) -> str:
    return tip("\n".join(f"{name}: {exact(value)}" for name, value in pairs))
