"""What all figures of the report share: colours, axes, and the fit to a narrow page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import plotly.graph_objects as go

from optuna_dstn.visualization._comparison import COLORS


_DASHES = ("solid", "dash", "dot")
_LEGEND_BELOW = 90  # pixels, for the axis's labels and title


class Style(NamedTuple):
    """How a tuner's line looks, in every figure."""

    color: str
    dash: str


Styles = dict[str, Style]


def styles(tuners: Iterable[str]) -> Styles:
    """Give each tuner a look of its own; when the colours are used up, they come dashed."""
    return {
        tuner: Style(COLORS[index % len(COLORS)], _DASHES[index // len(COLORS) % len(_DASHES)])
        for index, tuner in enumerate(tuners)
    }


def ticks(*steps: int) -> list[float]:
    """Return steps × powers of ten: what a reader expects on a logarithmic axis."""
    return [step * 10.0**power for power in range(-4, 6) for step in steps]


def with_log_losses(figure: go.Figure, axis: str) -> go.Figure:
    """Show losses on a logarithmic axis: the good ones are close together."""
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    update(type="log", tickvals=ticks(1, 2, 5), tickformat="~g")
    return figure


def fitted(figure: go.Figure, height: int = 420) -> go.Figure:
    """Fit a figure to a page that says its title itself, down to the width of a phone."""
    figure.update_layout(
        title=None,
        height=height,
        autosize=True,
        margin={"l": 40, "r": 8, "t": 36, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "x": 0, "y": -_LEGEND_BELOW / height, "yanchor": "top"},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
