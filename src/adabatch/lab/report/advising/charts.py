"""Charts of an advice: losses against time, and forecasts beside outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from adabatch.lab.advice import Advice
from adabatch.lab.report import look, plotting
from adabatch.lab.report.advising.words import ratio
from adabatch.lab.report.plotting import Chart
from adabatch.lab.report.scaling.charts import batch_name
from adabatch.lab.report.scaling.words import number
from adabatch.lab.scaling import Estimate

FORECAST, OUTCOME = "forecast", "outcome"
SCHEDULES: Final = {"early": look.COLOURS["adaptive"], "late": look.COLOURS["uncoupled"]}
PAINT: Final = {FORECAST: look.COLOURS["adaptive"], OUTCOME: look.COLOURS["fixed-small"]}
_ROW: Final = 28  # pixels of an interval
_MARGINS: Final = 70
_FURTHEST: Final = 32.0  # the ratio, up or down, at which the axis of ratios ends at the latest


def symbols(found: Advice) -> dict[str, str]:
    """The mark of each line of `losses`."""
    sizes = {batch_name(row.batch_size): "circle" for row in found.fixed}
    return sizes | {tried.name: look.symbol(1 + place) for place, tried in enumerate(found.growing)}


def losses(found: Advice) -> Chart:
    """Test loss against seconds: a cooled curve for each constant batch and seed, a mark for each end of a schedule."""
    traces: list[Chart] = []
    marks = symbols(found)
    for row in found.fixed:
        name = batch_name(row.batch_size)
        for curve in row.curves:
            points = [(point[2], point[4]) for point in curve.points if point[4] and point[2] > 0]
            head = f"<b>{name}</b>, seed {curve.seed}"
            text = [f"{head}<br>test loss {loss:.4g}<br>{number(at)} s" for at, loss in points]
            style: Chart = {"mode": "lines+markers", "line": {"width": 1.4}, "marker": {"size": 3.5}}
            traces.append(plotting.trace(name, [at for at, _ in points], [loss for _, loss in points], text) | style)
    for tried in found.growing:
        ends = [(at, loss) for at, loss in zip(tried.seconds, tried.test_losses, strict=True) if loss and at > 0]
        text = [f"<b>{tried.name}</b>, {tried.words}<br>test loss {loss:.4g}<br>{number(at)} s" for at, loss in ends]
        mark: Chart = {"mode": "markers", "marker": {"size": 10, "symbol": marks[tried.name]}, "cliponaxis": False}
        traces.append(plotting.trace(tried.name, [at for at, _ in ends], [loss for _, loss in ends], text) | mark)
    layout = plotting.layout("seconds of training")
    xs, ys = ([value for trace in traces for value in trace[key]] for key in ("x", "y"))
    if xs:
        layout["xaxis"] |= plotting.log_axis(xs, form=number)
        layout["yaxis"] |= plotting.log_axis(ys, form=number)
    return {"traces": traces, "layout": layout}


def forecasts(advices: Mapping[str, Advice]) -> Chart:
    """The ratio of times of each advice: its forecast with both intervals, and the outcome."""
    known = {name: found for name, found in advices.items() if found.choice is not None}
    values = [1.0]
    for found in known.values():
        assert found.choice is not None
        outcome = [found.outcome.ratio] if found.outcome else []
        for value in (found.choice.forecast.at_80, found.choice.forecast.at_95, *outcome):
            told = (value.low, value.estimate, value.high)
            values += [end for end in told if end and 1 / _FURTHEST < end < _FURTHEST]
    low, high = min(values) / 1.15, max(values) * 1.15
    traces: list[Chart] = []
    for name, found in known.items():
        assert found.choice is not None
        forecast = found.choice.forecast
        traces += _interval(name, FORECAST, forecast.at_95, (low, high), thickness=1.4, words="with 95 %")
        traces += _interval(name, FORECAST, forecast.at_80, (low, high), thickness=4, words="with 80 %")
        if found.outcome is not None:
            row = f"{name}, {OUTCOME}"
            traces += _interval(row, OUTCOME, found.outcome.ratio, (low, high), thickness=1.4, words="as it came out")
    rows = len(dict.fromkeys(trace["y"][0] for trace in traces))
    layout = plotting.layout("times as fast")
    layout["xaxis"] |= plotting.log_axis([low, high], room=0.02, form=number)
    layout["yaxis"] = {"type": "category", "range": [rows - 0.5, -0.5], "showgrid": False}
    layout["height"] = _MARGINS + _ROW * rows
    layout["shapes"] = [plotting.vertical(1.0, "dash")]
    return {"traces": traces, "layout": layout}


def _interval(
    row: str, arm: str, value: Estimate, ends: tuple[float, float], *, thickness: float, words: str
) -> list[Chart]:
    """A mark at a ratio with its interval, cut at the ends of the axis; of a bound an arrow."""
    if value.estimate is None and not value.low and value.high is None:
        return []
    low, high = (min(max(end, ends[0]), ends[1]) for end in value.interval)
    at, symbol = value.estimate, "circle" if arm == FORECAST else "diamond"
    if at is None:
        at, symbol = (low, "arrow-right") if value.low else (high, "arrow-left")
    at = min(max(at, ends[0]), ends[1])
    style: Chart = {
        "mode": "markers",
        "marker": {"size": 9, "symbol": symbol},
        "cliponaxis": False,
        "error_x": {
            "array": [max(high - at, 0.0)],
            "arrayminus": [max(at - low, 0.0)],
            "thickness": thickness,
            "width": 5,
        },
    }
    text = [f"<b>{row}</b><br>{ratio(value)} as fast, {words}"]
    return [plotting.trace(arm, [at], [row], text) | style]
