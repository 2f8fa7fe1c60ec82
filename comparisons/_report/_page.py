"""Fills the templates of the pages. Jinja escapes all text; tables and figures become HTML here."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path
import re
from typing import Any

import jinja2
from markupsafe import Markup
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import plotly.offline


def render(template: str, **values: Any) -> str:
    """Return a page: one HTML file that needs no other file.

    Args:
        template: Name of a file in ``templates``.
        **values: The variables of the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"table": table, "plot_json": plot_json}
    return environment.get_template(template).render(
        plotlyjs=Markup(plotly.offline.get_plotlyjs()),
        plotly_template=_json(plotly.io.templates["plotly_white"].to_plotly_json()),
        **values,
    )


def table(frame: pd.DataFrame) -> Markup:
    """Return a table of text; on a narrow page, a cell breaks before «[» and «/» only."""

    def unbroken(cell: str) -> str:
        cell = re.sub(r" (?![/[])", "\u00a0", cell)
        return re.sub(r"(?<=\d)–(?=\d)", "\u2060–\u2060", cell)  # wins–ties–losses

    text = frame.astype(str).map(unbroken)
    return Markup(f'<div class="scroll">{text.to_html(index=False, border=0)}</div>')


def plot_json(plot: go.Figure) -> Markup:
    """Return a figure as JSON with numbers in single precision, which halves the page's size."""
    for trace in plot.data:
        for axis in ("x", "y"):
            values = trace[axis] if axis in trace else None  # noqa: SIM401 - a trace is no dict
            if values is not None and len(values) and _are_numbers(values):
                trace[axis] = np.asarray(values, dtype=np.float32)
    contents = json.loads(plot.to_json())
    contents["layout"].pop("template", None)  # the page contains the template once for all figures
    return _json(contents)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float, np.number)) for value in values)


def _json(contents: Any) -> Markup:
    """Return JSON for a script element, in which only «<» could end the element."""
    return Markup(json.dumps(contents, separators=(",", ":")).replace("<", "\\u003c"))
