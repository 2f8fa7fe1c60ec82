"""The page: one HTML file that needs nothing else. All text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import html
import json
import re
from string import Template
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import plotly.offline

from comparisons._report._style import Styles


class Figure(NamedTuple):
    """A figure and the words around it.

    Attributes:
        title: Above it; may be empty, as the caption.
        caption: Below it.
        plot: The figure.
        min_width: In pixels; on a narrower page it is moved sideways.
    """

    title: str
    caption: str
    plot: go.Figure
    min_width: int = 0


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; padding: 1rem;
  max-width: 64rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.35rem; margin: 3rem 0 0.5rem; border-bottom: 2px solid #222; }
h3 { font-size: 1.1rem; margin: 2rem 0 0.3rem; }
h4 { font-size: 1rem; margin: 1.5rem 0 0; }
a { color: #0060a0; }
figure { margin: 0 0 1.5rem; break-inside: avoid; }
figcaption, .note { color: #555; font-size: 0.9rem; }
.scroll { overflow-x: auto; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr));
  gap: 0 1rem; }
.multiples figure { min-width: 0; margin: 0 0 0.5rem; }
.multiples h4 { margin: 0.5rem 0 0; }
.key { display: flex; flex-wrap: wrap; gap: 0 1.2rem; padding: 0; margin: 0.5rem 0;
  list-style: none; font-size: 0.9rem; }
.key span { display: inline-block; width: 1.8rem; margin-right: 0.4rem; vertical-align: middle;
  border-top: 3px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem;
  margin: 0.5rem 0; }
th, td { padding: 0.3rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; }
th { vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: #fff; white-space: nowrap; }
details { border: 1px solid #ccc; border-radius: 0.4rem; padding: 0.4rem 0.8rem; margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 30rem) {
  dl { grid-template-columns: 1fr; }
  dt { margin-top: 0.3rem; }
  table { font-size: 0.75rem; }
  th, td { padding: 0.25rem 0.2rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  table { font-size: 7.5pt; }
  th, td { padding: 0.15rem 0.35rem; }
  tr { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; }
  .scroll { overflow: visible; }
  details:not([open]) { display: none; }
}
</style>
<script>$plotlyjs</script>
</head>
<body>
$body
<script>
const template = $template;
const drawn = [];
function draw(root) {
  for (const place of root.querySelectorAll(".plot:empty")) {
    // Plotly cannot measure what is not shown; a figure is drawn when its part is opened.
    if (place.closest("details:not([open])")) continue;
    const figure = JSON.parse(place.nextElementSibling.textContent);
    figure.layout.template = template;
    Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displayModeBar: false});
    drawn.push(place);
  }
}
draw(document);
for (const part of document.querySelectorAll("details"))
  part.addEventListener("toggle", () => draw(part));
// Paper has another width than the screen, and nothing else tells the figures.
addEventListener("beforeprint", () => {
  for (const place of drawn)
    Plotly.relayout(place, {width: place.closest(".multiples") ? 320 : 680});
});
addEventListener("afterprint", () => {
  for (const place of drawn) Plotly.relayout(place, {width: null, autosize: true});
});
</script>
</body>
</html>
""")


def page(title: str, body: Iterable[str]) -> str:
    """Return the whole page.

    Args:
        title: Of the browser's tab.
        body: Parts made by the functions below.
    """
    return _PAGE.substitute(
        title=html.escape(title),
        plotlyjs=plotly.offline.get_plotlyjs(),
        template=json.dumps(plotly.io.templates["plotly_white"].to_plotly_json()),
        body="\n".join(body),
    )


def heading(level: int, text: str, anchor: str | None = None) -> str:
    """Return a heading; ``anchor`` is what a link to it names."""
    identity = "" if anchor is None else f' id="{html.escape(anchor)}"'
    return f"<h{level}{identity}>{html.escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def note(text: str) -> str:
    """Return a paragraph in small print."""
    return f'<p class="note">{html.escape(text)}</p>'


def bullets(texts: Iterable[str]) -> str:
    """Return a list."""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"


def contents(links: Mapping[str, str]) -> str:
    """Return a list of links to headings: text by anchor."""
    items = (
        f'<a href="#{html.escape(anchor)}">{html.escape(text)}</a>'
        for anchor, text in links.items()
    )
    return f"<p>{' · '.join(items)}</p>"


def facts(values: Mapping[str, str]) -> str:
    """Return a list of terms and what they are."""
    rows = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in values.items())
    return f"<dl>{''.join(rows)}</dl>"


def table(frame: pd.DataFrame) -> str:
    """Return a table of text; on a narrow page a cell breaks before «[» and «/» alone."""

    def unbroken(cell: str) -> str:
        cell = re.sub(r" (?![/[])", "\u00a0", cell)
        return re.sub(r"(?<=\d)–(?=\d)", "\u2060–\u2060", cell)  # wins–ties–losses

    text = frame.astype(str).map(unbroken)
    return f'<div class="scroll">{text.to_html(index=False, border=0)}</div>'


def key(looks: Styles) -> str:
    """Return which line is which tuner's."""
    css = {"solid": "solid", "dash": "dashed", "dot": "dotted"}
    items = (
        f'<li><span style="border-top-style: {css[style.dash]}; border-color: {style.color}">'
        f"</span>{html.escape(tuner)}</li>"
        for tuner, style in looks.items()
    )
    return f'<ul class="key">{"".join(items)}</ul>'


def figure(content: Figure, level: int = 4) -> str:
    """Return a figure under its title, its caption below."""
    title = heading(level, content.title) if content.title else ""
    caption = f"<figcaption>{html.escape(content.caption)}</figcaption>" if content.caption else ""
    style = f"height: {int(content.plot.layout.height)}px; min-width: {content.min_width}px"
    # Within a script nothing is an entity; without «<» nothing is markup either.
    data = json.dumps(_light(content.plot), separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<figure>{title}<div class="scroll"><div class="plot" style="{style}"></div>'
        f'<script type="application/json">{data}</script></div>{caption}</figure>'
    )


def multiples(figures: Iterable[Figure]) -> str:
    """Return small figures, as many beside each other as the page is wide."""
    return f'<div class="multiples">{"".join(map(figure, figures))}</div>'


def details(summary: str, body: Iterable[str]) -> str:
    """Return parts that are shown when asked for."""
    return (
        f"<details><summary>{html.escape(summary)}</summary>\n" + "\n".join(body) + "\n</details>"
    )


def _light(plot: go.Figure) -> Any:
    """Return a figure's contents, its numbers in single precision: half the page's size."""
    for trace in plot.data:
        for axis in ("x", "y"):
            values = trace[axis] if axis in trace else None  # noqa: SIM401 - no dict
            if values is not None and len(values) and _are_numbers(values):
                trace[axis] = np.asarray(values, dtype=np.float32)
    contents = json.loads(plot.to_json())
    contents["layout"].pop("template", None)  # the page has it once for all
    return contents


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float, np.number)) for value in values)
