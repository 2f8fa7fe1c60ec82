"""What all figures of a page share: words, colours, axes, and the fit to a narrow page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import plotly.graph_objects as go

from comparisons._tuners import method_of
from optuna_dstn.visualization._comparison import COLORS


Array = NDArray[np.float64]
_DASHES = ("solid", "dash", "dot")


class Figure(NamedTuple):
    """A plot with a title above and a caption below; both may be empty."""

    title: str
    caption: str
    plot: go.Figure


class Style(NamedTuple):
    """The look of a tuner's line in every figure."""

    color: str
    dash: str


Styles = dict[str, Style]


def styles(tuners: Iterable[str]) -> Styles:
    """Return a look for each tuner.

    The starts of a method share a colour and differ in their dashes. If there are more methods than
    colours, the colours are used again with other dashes.
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
    """Make an axis logarithmic with round numbers as marks: good losses are close together."""
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    update(type="log", tickformat="~g")
    values = [x for t in figure.data if t[axis] is not None for x in t[axis]]
    shown = [x for x in values if x is not None and 0 < x < math.inf]
    # Over a narrow range, plotly marks round numbers itself; over a wide range, it marks too many.
    if shown and max(shown) >= 10 * min(shown):
        update(tickvals=[step * 10.0**power for power in range(-4, 6) for step in (1, 2, 5)])
    return figure


def fitted(figure: go.Figure, height: int = 420) -> go.Figure:
    """Fit a figure without a title to a page, down to the width of a phone."""
    figure.update_layout(
        title=None,
        height=height,
        autosize=True,
        margin={"l": 40, "r": 8, "t": 36, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 13},
        # At the lower edge of the figure, so that a high legend does not cover the axis title.
        legend={"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
