"""Fills the templates of the pages. Jinja escapes all text; tables and figures become HTML here."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import plotly.offline


def render(template: str, **values: Any) -> str:
    """Return a page from a file in ``templates``: one HTML file that needs no other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"table": table, "plot_json": plot_json}
    # Compressed, the page has a third of its size; the browser unpacks the library.
    compressed = gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)
    return environment.get_template(template).render(
        plotlyjs=base64.b64encode(compressed).decode(),
        plotly_template=_json(plotly.io.templates["plotly_white"].to_plotly_json()),
        **values,
    )


def table(frame: pd.DataFrame) -> Markup:
    """Return a table of text; on a narrow page, a cell breaks before «[» only."""
    text = frame.astype(str).replace(r" (?!\[)", "\u00a0", regex=True)
    return Markup(f'<div class="scroll">{text.to_html(index=False, border=0)}</div>')


def plot_json(plot: go.Figure) -> Markup:
    """Return a figure as JSON without its template, which the page holds once for all figures."""
    contents = json.loads(plot.to_json())
    contents["layout"].pop("template", None)
    return _json(contents)


def _json(contents: Any) -> Markup:
    """Return JSON for a script element, in which only «<» could end the element."""
    return Markup(json.dumps(contents, separators=(",", ":")).replace("<", "\\u003c"))
