"""Blocks of a page as HTML: head, key figures, controls, charts, sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from adabatch.lab.comparison import Difference
from adabatch.lab.report import figures, look, words
from adabatch.lab.report.figures import Table
from adabatch.lab.report.headline import Headline
from adabatch.lab.shapes import Json

FOOTER = "<footer>Written by <b>adabatch report</b>. The page holds all that it shows and loads nothing.</footer>"
_NEAR = 0.2  # share of an interval's width below which two ticks have no room side by side
_LONG = 30  # letters of a column's head that get a wider column
_LONGEST = 10  # letters of a key figure that its card has room for in large type
_SIGNS = {"good": "✓", "open": "?", "bad": "✗"}


def main(blocks: Sequence[str]) -> str:
    """The body of a page."""
    needs = "<noscript><p class='lead'>The charts need JavaScript; the tables do not.</p></noscript>"
    return f"<main>{needs}{''.join(blocks)}</main>\n"


def header(facts: Sequence[str], headline: Headline) -> str:
    """The head of a page: facts, title and lead."""
    eyebrow = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    sign = f'<i class="sign {headline.sign}" aria-hidden="true">{_SIGNS[headline.sign]}</i>' if headline.sign else ""
    title = _with_figures(headline.title)
    lead = f'<p class="lead">{sign}{words.html(headline.lead)}</p>'
    return f'<header><p class="eyebrow">{eyebrow}</p><h1>{title}</h1>{lead}</header>'


def cards(found: Sequence[str]) -> str:
    """Key figures side by side."""
    return f'<section class="cards" aria-label="Key figures">{"".join(found)}</section>'


def card(label: str, value: str, note: str = "", *, below: str = "") -> str:
    """A key figure: its label, its value, HTML `below`, and a note on its interval or source."""
    small = f'<p class="note">{words.html(note)}</p>' if note else ""
    is_short = len(value) <= _LONGEST and any(letter.isdigit() for letter in value)
    kind = "value" if is_short else "value text"
    figure = f'<p class="label">{escape(label)}</p><p class="{kind}">{escape(value)}</p>'
    return f'<div class="card figure">{figure}{below}{small}</div>'


def bars(values: Mapping[str, float], text: Mapping[str, str]) -> str:
    """A bar for each arm, in proportion to its value, with a text beside it."""
    longest = max(values.values()) or 1.0
    rows = ""
    for name, value in values.items():
        width = f"{100 * value / longest:.1f}%"
        rows += (
            f'<div data-arm="{escape(name)}"><span>{escape(name)}</span><em>{escape(text[name])}</em>'
            f'<b style="width:{width}"></b></div>'
        )
    return f'<div class="bars">{rows}</div>'


def interval(arm: str, found: Difference, *, margin: float) -> str:
    """A small picture of a difference of accuracies: its interval, zero and the margin, a fraction."""
    mean = found.mean
    low, high = found.interval or (mean, mean)
    left, right = min(low, -margin, 0.0), max(high, 0.0)
    room = 0.12 * (right - left)
    left, right = left - room, right + room

    def at(value: float) -> str:
        return f"{100 * (value - left) / (right - left):.1f}%"

    ticks = f'<s style="left:{at(-margin)}" class="margin"></s><s style="left:{at(0)}"></s>'
    bar = f'<b style="left:{at(low)};right:calc(100% - {at(high)})"></b><i style="left:{at(mean)}"></i>'
    before, after = ("before", "after") if margin < _NEAR * (right - left) else ("", "")
    ends = (
        f'<span class="{before}" style="left:{at(-margin)}">{words.MINUS}{100 * margin:g}</span>'
        f'<span class="{after}" style="left:{at(0)}">0</span>'
    )
    return f'<div class="interval" data-arm="{escape(arm)}" aria-hidden="true">{ticks}{bar}{ends}</div>'


def controls(arms: Mapping[str, str], axes: Mapping[str, str]) -> str:
    """The legend of all charts, with a note on each arm, and the switch of the x axis; an empty one is left out."""
    choices = {key: key if key != "seconds" else "time" for key in axes}
    return bar(legend(arms), switch("axis", "against", choices, "samples"))


def bar(*parts: str, still: bool = False) -> str:
    """Legends and switches side by side; they stay in sight when the page is scrolled, unless `still`."""
    return f'<div class="controls{" still" if still else ""}">{"".join(parts)}</div>'


def legend(
    arms: Mapping[str, str], *, seen: Mapping[str, str] | None = None, symbols: Mapping[str, str] | None = None
) -> str:
    """The legend of all charts, with a note on each arm; empty without one.

    Args:
        arms: notes by name.
        seen: the choices, with spaces between, in which an arm is seen; None: in all.
        symbols: of arms whose lines have no dashes; None: symbols and dashes of `look`.
    """
    chips = "".join(
        f'<button type="button" class="chip" aria-pressed="true" data-arm="{escape(name)}" '
        f"{seen_in(seen[name]) if seen else ''}"
        f'title="{escape(name)}" data-dash="{"solid" if symbols else look.dash(name, arms)}" '
        f'data-symbol="{symbols[name] if symbols else look.symbol(place)}">'
        f"<span>{escape(name)}</span><b>{escape(note)}</b></button>"
        for place, (name, note) in enumerate(arms.items())
    )
    return f'<div class="legend" role="group" aria-label="Arms shown">{chips}</div>' if chips else ""


def switch(name: str, before: str, choices: Mapping[str, str], chosen: str, *, style: str = "") -> str:
    """A switch between values, each with its label, one of them `chosen`; empty without any."""
    inputs = "".join(
        f'<label><input type="radio" name="{name}" value="{key}"{" checked" if key == chosen else ""}>'
        f"<span>{escape(label)}</span></label>"
        for key, label in choices.items()
    )
    kind = f"switch {style}".strip()
    return f'<fieldset class="{kind}"><legend>{escape(before)}</legend>{inputs}</fieldset>' if inputs else ""


def menu(name: str, before: str, choices: Mapping[str, str]) -> str:
    """A menu of the choices of the page, the first one chosen; with a single one it is not seen."""
    options = "".join(f'<option value="{key}">{escape(label)}</option>' for key, label in choices.items())
    unseen = " hidden" if len(choices) == 1 else ""
    label = f'<legend>{escape(before)}</legend><select class="choice" name="{name}" aria-label="{escape(before)}">'
    return f'<fieldset class="switch"{unseen}>{label}{options}</select></fieldset>'


def seen_in(choices: str) -> str:
    """The attribute of what is seen only under these choices, which have spaces between."""
    return f'data-in="{escape(choices)}" '


def chart(name: str, title: str, note: str, *, size: str = "", inside: str = "") -> str:
    """The element for the chart `name`: a title above, if any, a note below; `size` is a class of the style sheet.

    It is seen only under the choices `inside`, if there are any.
    """
    head = f"<h2>{escape(title)}</h2>" if title else ""
    label = escape(title or "Accuracy, batch size and learning rate")
    seen = seen_in(inside) if inside else ""
    return (
        f'<section {seen}class="card">{head}<div class="chart {size}" id="{name}" tabindex="0" role="group" '
        f'aria-roledescription="chart" aria-label="{label}; arrow keys read it"></div>'
        f'<p class="note">{words.html(note)}</p></section>'
    )


def section(title: str, content: str) -> str:
    """A titled block."""
    return f'<section class="card"><h2>{escape(title)}</h2>{content}</section>'


def details(title: str, content: str) -> str:
    """A titled block, closed at first."""
    return f'<details class="card"><summary>{escape(title)}</summary>{content}</details>'


def sentences(found: Mapping[str, str]) -> str:
    """A sentence for each arm."""
    items = "".join(f"<li>{spot(name)}{words.html(text)}</li>" for name, text in found.items())
    return f'<ul class="sentences">{items}</ul>'


def settings(found: Mapping[str, Json], versions: Json) -> str:
    """Settings of all arms and versions, closed at first."""
    differ, shared = figures.settings(found)
    return details("Settings", table(differ) + facts(shared)) + details("Versions", facts(figures.versions(versions)))


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values as a list."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{items}</dl>'


def table(found: Table | None) -> str:
    """A table that scrolls sideways if it is too wide; empty for None."""
    if found is None:
        return ""
    columns = found.columns
    wide = {name: ' class="long"' if len(name) > _LONG else "" for name in columns}  # keeps heads low
    heads = "".join(
        f'<th scope="col"{wide[name]}>{spot(name) if found.arms else ""}{escape(name)}</th>' for name in columns
    )
    body = ""
    for title, rows in found.groups:
        if title:
            span = f'scope="rowgroup" colspan="{len(columns) + 1}"'
            body += f'<tr class="group"><th {span}><span>{escape(title)}</span></th></tr>'
        for label, cells in rows:
            row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            body += f'<tr><th scope="row">{words.html(label)}</th>{row}</tr>'
    head = f'<thead><tr><th scope="col">{escape(found.corner)}</th>{heads}</tr></thead>'
    return f'<div class="scroll {found.style}" tabindex="0"><table>{head}<tbody>{body}</tbody></table></div>'


def spot(arm: str) -> str:
    """A spot in the colour of an arm; the colours are in the page's style."""
    return f'<i class="spot" data-arm="{escape(arm)}"></i>'


def _with_figures(title: str) -> str:
    """The title with its ratios emphasised, such as `3.4x`."""
    return " ".join(f"<em>{w}</em>" if w.endswith(words.TIMES) else w for w in words.html(title).split(" "))
