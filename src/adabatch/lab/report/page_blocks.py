"""Blocks of a page as HTML: head, key figures, controls, charts, sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from adabatch.lab.report import page_plot as plot
from adabatch.lab.report import page_tables
from adabatch.lab.report import page_words as words
from adabatch.lab.report.page_data import Json
from adabatch.lab.report.page_words import Headline

FOOTER = "<footer>Written by <b>adabatch report</b>. The page holds all that it shows and loads nothing.</footer>"
_NEAR = 0.2  # of the width of an interval: closer than that two ticks have no room side by side
_SIGNS = {"good": "✓", "open": "?", "bad": "✗"}


def main(blocks: Sequence[str]) -> str:
    """The body of a page."""
    needs = "<noscript><p class='lead'>The charts need JavaScript; the tables do not.</p></noscript>"
    return f"<main>{needs}{''.join(blocks)}</main>\n"


def header(facts: Sequence[str], headline: Headline) -> str:
    """What was done, and what it showed."""
    eyebrow = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    sign = f'<i class="sign {headline.sign}" aria-hidden="true">{_SIGNS[headline.sign]}</i>' if headline.sign else ""
    title = _marked(headline.title)
    lead = f'<p class="lead">{sign}{words.html(headline.lead)}</p>'
    return f'<header><p class="eyebrow">{eyebrow}</p><h1>{title}</h1>{lead}</header>'


def cards(found: Sequence[str]) -> str:
    """Key figures side by side."""
    return f'<section class="cards" aria-label="Key figures">{"".join(found)}</section>'


def card(label: str, value: str, note: str = "", *, below: str = "") -> str:
    """One key figure.

    Args:
        label: what it is.
        value: the figure.
        note: its interval or where it comes from.
        below: HTML.
    """
    small = f'<p class="note">{words.html(note)}</p>' if note else ""
    kind = "value" if any(letter.isdigit() for letter in value) else "value text"
    figure = f'<p class="label">{escape(label)}</p><p class="{kind}">{escape(value)}</p>'
    return f'<div class="card figure">{figure}{below}{small}</div>'


def bars(values: Mapping[str, float], text: Mapping[str, str]) -> str:
    """A bar for each arm, in proportion.

    Args:
        values: their lengths.
        text: what stands beside each bar.
    """
    longest = max(values.values()) or 1.0
    rows = ""
    for name, value in values.items():
        width = f"{100 * value / longest:.1f}%"
        rows += (
            f'<div data-arm="{escape(name)}"><span>{escape(name)}</span><em>{escape(text[name])}</em>'
            f'<b style="width:{width}"></b></div>'
        )
    return f'<div class="bars">{rows}</div>'


def interval(arm: str, found: Mapping[str, float | None], *, margin: float) -> str:
    """A difference of accuracies as a little picture: its interval, zero and the margin.

    Args:
        arm: whose difference.
        found: mean, low and high as fractions.
        margin: as a fraction.
    """
    mean = found["mean"] or 0.0
    low = mean if found["low"] is None else found["low"]
    high = mean if found["high"] is None else found["high"]
    left, right = min(low, -margin, 0.0), max(high, 0.0)
    room = 0.12 * (right - left)
    left, right = left - room, right + room

    def at(value: float) -> str:
        return f"{100 * (value - left) / (right - left):.1f}%"

    marks = f'<s style="left:{at(-margin)}" class="margin"></s><s style="left:{at(0)}"></s>'
    bar = f'<b style="left:{at(low)};right:calc(100% - {at(high)})"></b><i style="left:{at(mean)}"></i>'
    before, after = ("before", "after") if margin < _NEAR * (right - left) else ("", "")
    ends = (
        f'<span class="{before}" style="left:{at(-margin)}">{words.MINUS}{100 * margin:g}</span>'
        f'<span class="{after}" style="left:{at(0)}">0</span>'
    )
    return f'<div class="interval" data-arm="{escape(arm)}" aria-hidden="true">{marks}{bar}{ends}</div>'


def controls(arms: Mapping[str, str], axes: Mapping[str, str]) -> str:
    """The legend of all charts and the switch of the x axis.

    Args:
        arms: for each arm what stands beside its name; empty for no legend.
        axes: what can stand on the x axis; empty for no switch.
    """
    chips = "".join(
        f'<button type="button" class="chip" aria-pressed="true" data-arm="{escape(name)}" '
        f'title="{escape(name)}" data-dash="{plot.dash(name, arms)}" data-symbol="{plot.symbol(place)}">'
        f"<span>{escape(name)}</span><b>{escape(note)}</b></button>"
        for place, (name, note) in enumerate(arms.items())
    )
    legend = f'<div class="legend" role="group" aria-label="Arms shown">{chips}</div>' if chips else ""
    choices = "".join(
        f'<label><input type="radio" name="axis" value="{key}"{" checked" if key == "samples" else ""}>'
        f"<span>{escape(key if key != 'seconds' else 'time')}</span></label>"
        for key in axes
    )
    switch = f'<fieldset class="switch"><legend>against</legend>{choices}</fieldset>' if choices else ""
    return f'<div class="controls">{legend}{switch}</div>'


def chart(name: str, title: str, note: str, *, size: str = "") -> str:
    """A place for a chart.

    Args:
        name: its id.
        title: above it; empty for none.
        note: below it.
        size: a class of the style that gives its height.
    """
    head = f"<h2>{escape(title)}</h2>" if title else ""
    label = escape(title or "Accuracy, batch size and learning rate")
    return (
        f'<section class="card">{head}<div class="chart {size}" id="{name}" tabindex="0" role="group" '
        f'aria-roledescription="chart" aria-label="{label}; arrow keys read it"></div>'
        f'<p class="note">{words.html(note)}</p></section>'
    )


def section(title: str, content: str) -> str:
    """A titled block."""
    return f'<section class="card"><h2>{escape(title)}</h2>{content}</section>'


def details(title: str, content: str) -> str:
    """A titled block that is closed at first."""
    return f'<details class="card"><summary>{escape(title)}</summary>{content}</details>'


def sentences(found: Mapping[str, str]) -> str:
    """A sentence for each arm."""
    items = "".join(f"<li>{page_tables.mark(name)}{words.html(text)}</li>" for name, text in found.items())
    return f'<ul class="sentences">{items}</ul>'


def settings(found: Mapping[str, Json], versions: Json) -> str:
    """Settings of all arms and versions, closed at first."""
    differ, shared = page_tables.settings_tables(found)
    return details("Settings", differ + shared) + details("Versions", page_tables.versions_list(versions))


def _marked(title: str) -> str:
    """The title with its figures set off: `3.4x fewer updates`, `97.4 %`."""
    made = []
    for word in words.html(title).split(" "):
        made.append(f"<em>{word}</em>" if word.endswith(words.TIMES) else word)
    return " ".join(made)
