"""Small pieces of HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple


class Swatch(NamedTuple):
    """One entry of a legend; ``colour`` is a CSS colour, ``shape``: classes of style.css (box, line, ...)."""

    label: str
    colour: str
    shape: str = "box"
    glyph: str = ""  # drawn instead of a shape


def escape(text: object) -> str:
    return html.escape(str(text))


def section(identifier: str, title: str, *parts: str, lead: str = "") -> str:
    intro = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{identifier}"><h2>{escape(title)}</h2>{intro}{"".join(parts)}</section>'


def figure(title: str, body: str, swatches: Sequence[Swatch] = (), caption: str = "") -> str:
    note = f"<figcaption>{caption}</figcaption>" if caption else ""
    head = f'<div class="figure-head"><h3>{escape(title)}</h3>{legend(swatches)}</div>'
    return f"<figure>{head}{body}{note}</figure>"


def legend(swatches: Sequence[Swatch]) -> str:
    items = "".join(f"<li>{_mark(swatch)}{escape(swatch.label)}</li>" for swatch in swatches)
    return f'<ul class="legend">{items}</ul>' if items else ""


def _mark(swatch: Swatch) -> str:
    kind = "glyph" if swatch.glyph else f"swatch {swatch.shape}"
    return f'<i class="{kind}" style="--colour:{swatch.colour}">{swatch.glyph}</i>'


def grid(*figures: str, pairs: bool = False) -> str:
    """Figures side by side: as many as fit, or with ``pairs`` at most two."""
    return f'<div class="grid{" pairs" if pairs else ""}">{"".join(figures)}</div>'


def switch(name: str, choices: Sequence[tuple[str, str]]) -> str:
    """Bodies of which one is shown, the first to begin with; radio buttons choose, without a script.

    Args:
        name: unlike any other switch of the page.
        choices: (title, body); style.css knows up to three.
    """
    buttons = "".join(
        f'<input type="radio" name="{name}" id="{name}-{i}"{" checked" if i == 0 else ""}/>'
        f'<label for="{name}-{i}">{escape(title)}</label>'
        for i, (title, _) in enumerate(choices)
    )
    return f'<div class="switch">{buttons}{"".join(f"<div class=choice>{body}</div>" for _, body in choices)}</div>'


def missing(text: str) -> str:
    return f'<p class="missing">{escape(text)}</p>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int] = (0,)) -> str:
    """A table that scrolls sideways on narrow screens. Cells are HTML; ``text_columns`` are flush left."""

    def cell(tag: str, index: int, content: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{scope}{' class=text' if index in text_columns else ''}>{content}</{tag}>"

    header = "".join(cell("th", index, content) for index, content in enumerate(head))
    body = "".join(
        f"<tr>{''.join(cell('td', i, content) for i, content in enumerate(row))}</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"
