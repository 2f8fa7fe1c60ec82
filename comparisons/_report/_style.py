"""What all figures of the report share: colours, axes, and the fit to a narrow page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
import math
from typing import NamedTuple

import plotly.graph_objects as go

from comparisons._tuners import method_of
from optuna_dstn.visualization._comparison import COLORS


_DASHES = ("solid", "dash", "dot")


class Style(NamedTuple):
    """How a tuner's line looks, in every figure."""

    color: str
    dash: str


Styles = dict[str, Style]


def styles(tuners: Iterable[str]) -> Styles:
    """Give each tuner a look of its own; a method's starts share a colour and differ in dashes.

    When the colours are used up, they come dashed.
    """
    tuners = list(tuners)
    methods = list(dict.fromkeys(map(method_of, tuners)))
    lines: Counter[str] = Counter()  # by colour
    looks = {}
    for tuner in tuners:
        color = COLORS[methods.index(method_of(tuner)) % len(COLORS)]
        looks[tuner] = Style(color, _DASHES[lines[color] % len(_DASHES)])
        lines[color] += 1
    return looks


def with_log_axis(figure: go.Figure, axis: str) -> go.Figure:
    """Make an axis logarithmic, marked where a reader expects it.

    Losses are shown so: the good ones are close together.
    """
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    update(type="log", tickformat="~g")
    values = [x for t in figure.data if t[axis] is not None for x in t[axis]]
    shown = [x for x in values if x is not None and 0 < x < math.inf]
    # In a narrower range plotly marks round numbers itself; in a wider one its marks are crowded.
    if shown and max(shown) >= 10 * min(shown):
        update(tickvals=[step * 10.0**power for power in range(-4, 6) for step in (1, 2, 5)])
    return figure


def fitted(figure: go.Figure, height: int = 420) -> go.Figure:
    """Fit a figure to a page that says its title itself, down to the width of a phone."""
    figure.update_layout(
        title=None,
        height=height,
        autosize=True,
        margin={"l": 40, "r": 8, "t": 36, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 13},
        # At the figure's lower edge, below the axis's title however many lines the legend takes.
        legend={"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
