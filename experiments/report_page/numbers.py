"""Axis ticks and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.statistics import Interval

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


def finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """At most about ``count`` round numbers (1, 2, 2.5 or 5 times a power of ten) that span [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high], with 2 and 5 between them where the range is short."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if math.log10(high / low) > 2 else (1, 2, 5)
    inside = [
        f * 10.0**p for p in powers for f in factors if low * (1 - 1e-9) <= f * 10.0**p <= high * (1 + 1e-9)
    ]
    stride = -(-len(inside) // 6) or 1
    return inside[::stride]


def short(value: float) -> str:
    """A tick label: 1200000 as 1.2M, 0.00012 as 1.2e-4."""
    if not math.isfinite(value):
        return DASH
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{_trim(mantissa)}e{int(exponent)}".replace("-", MINUS)
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{_trim(f'{value / unit:.2f}')}{suffix}".replace("-", MINUS)
    return _trim(f"{value:.3f}" if size < 10 else f"{value:.1f}").replace("-", MINUS)


def exact(value: float, digits: int = 4) -> str:
    """A number in a table: about ``digits`` significant digits, thousands separated by commas."""
    if not math.isfinite(value):
        return DASH
    if value == 0 or (float(value).is_integer() and abs(value) < 1e15):
        return f"{value:,.0f}".replace("-", MINUS)
    if abs(value) < 1e-3 or abs(value) >= 1e15:
        return short(value)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}".replace("-", MINUS)


def significant(value: float, digits: int = 3) -> str:
    """A measured number in a table, with ``digits`` significant digits even where they are zeros."""
    if not math.isfinite(value) or 0 < abs(value) < 1e-3 or abs(value) >= 10**digits:
        return exact(value, digits)
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value else digits - 1
    return f"{value:.{max(decimals, 0)}f}".replace("-", MINUS)


def interval(found: Interval, sign: bool = False) -> str:
    """An estimate and its interval as HTML; ``sign``: a plus before what is positive, as for a difference."""

    def told(value: float) -> str:
        return ("+" if sign and value > 0 else "") + significant(value)

    if not math.isfinite(found.estimate):
        return DASH
    if not math.isfinite(found.low):
        return f"{told(found.estimate)} <small>one seed</small>"
    return f"{told(found.estimate)} <small>[{told(found.low)}, {told(found.high)}]</small>"


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def percent(share: float) -> str:
    return f"{_trim(f'{100 * share:.1f}')} %" if math.isfinite(share) else DASH


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
