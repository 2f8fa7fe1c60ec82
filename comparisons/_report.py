"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
import html
from pathlib import Path
from string import Template

import pandas as pd
import plotly.graph_objects as go
import plotly.offline

from comparisons._figures import Figure, optuna_figures, plot_comparison
from comparisons._storage import Result
from comparisons._table import by_tuner, formatted, summarise, to_markdown


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; padding: 1rem;
  max-width: 60rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 2rem 0 0; }
figure { margin: 0 0 1.5rem; break-inside: avoid; }
figcaption, .note { color: #555; font-size: 0.9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
dt { font-weight: 600; float: left; clear: left; margin-right: 0.5rem; }
dd { margin: 0 0 0.2rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  .scroll { overflow: visible; }
}
</style>
<script>$plotlyjs</script>
</head>
<body>
$body
</body>
</html>
""")

_NOTES = """\
Mean ± standard deviation: over the tuner's seeds, and for «retrained» over all retrained runs.
«Validation loss» is the best that the search saw; the best of many noisy runs is partly luck, which
retraining takes away. «Own run» is the test loss of the very network that was selected, «retrained»
that of plain runs at the selected hyperparameters on fresh seeds, the same for every tuner.
Networks are taken at their best validation loss; test data are looked at only after selection.
«Less tpe's» is the retrained loss less TPE's at the same seed, on the same data and from the same
initial weights: mean over the seeds ± its standard error. A budget is the CPU time of all that a
tuner does, its evaluations included, divided by the median CPU time of plain runs measured beside
it in the same process; seconds are wall time. Retraining is not counted: it is the same for all."""


def write_report(results: Sequence[Result], out: Path) -> list[Path]:
    """Write the report of each problem into a folder of its own where there are several.

    Returns:
        The files that were written.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(f"{result.problem} {result.scale}", []).append(result)
    written = []
    for name, group in groups.items():
        folder = out / name if len(groups) > 1 else out
        folder.mkdir(exist_ok=True)
        summary = summarise(group)
        for file, text in {
            "table.csv": summary.to_csv(index=False),
            "table.md": to_markdown(formatted(summary)),
            "report.html": to_report(group),
            "comparison.html": to_comparison(group),
        }.items():
            (folder / file).write_text(text, encoding="utf-8")
            written.append(folder / file)
    return written


def to_report(results: Sequence[Result]) -> str:
    """Return the whole report."""
    problem = results[0].settings["problem"]
    title = f"Tuners compared on {problem}"
    comparison, figures = _comparison_figure(results), optuna_figures(results)
    body = [
        f"<h1>{html.escape(title)}</h1>",
        _statement(results),
        "<h2>Result</h2>",
        _table(formatted(summarise(results))),
        f'<p class="note">{html.escape(_NOTES)}</p>',
        f"<h2>{comparison.title}</h2>",
        _figure(comparison),
        "<h2>Studies</h2>",
        *(f"<h3>{html.escape(figure.title)}</h3>{_figure(figure)}" for figure in figures),
    ]
    return _page(title, body)


def to_comparison(results: Sequence[Result]) -> str:
    """Return the figure of loss against budget alone."""
    figure = _comparison_figure(results)
    return _page(figure.title, [f"<h2>{figure.title}</h2>", _figure(figure)])


def _page(title: str, body: Sequence[str]) -> str:
    return _PAGE.substitute(
        title=html.escape(title),
        plotlyjs=plotly.offline.get_plotlyjs(),
        body="\n".join(body),
    )


def _comparison_figure(results: Sequence[Result]) -> Figure:
    seeds = len({result.seed for result in results})
    band = "line: mean over the seeds, band: their range" if seeds > 1 else "one seed"
    retrained = sum(len(r.retrained) for r in results if r.tuner == results[0].tuner)
    return Figure(
        "Loss against budget",
        f"Above: {band}. Below: mean and standard deviation over {retrained} retrained runs.",
        plot_comparison(results),
    )


def _statement(results: Sequence[Result]) -> str:
    settings, machine = results[0].settings, results[0].machine
    seeds = sorted({result.seed for result in results})
    started = min(t.datetime_start for r in results for t in r.trials if t.datetime_start)
    versions = ("python", "torch", "optuna", "optuna-dstn")
    facts = {
        "Problem": settings["description"],
        "Tuners": ", ".join(by_tuner(results)),
        "Seeds": f"{len(seeds)} ({', '.join(map(str, seeds))})",
        "Trials": f"{settings['trials']} for each sampler; 1 for Δ-STN, which tunes within it",
        "Retraining": f"{settings['retrainings']} fresh seeds for each study",
        "Versions": ", ".join(f"{name} {settings[name]}" for name in versions),
        "Machine": f"{machine['cores']} cores, {machine['architecture']}, {machine['system']}; "
        "one thread per process",
        "Date": f"{started:%Y-%m-%d}",
    }
    rows = "".join(f"<dt>{k}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>"


def _table(table: pd.DataFrame) -> str:
    return f'<div class="scroll">{table.to_html(index=False, border=0)}</div>'


def _figure(figure: Figure) -> str:
    return (
        f"<figure>{_plot(figure.plot)}"
        f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
    )


def _plot(plot: go.Figure) -> str:
    markup: str = plot.to_html(
        full_html=False,
        include_plotlyjs=False,
        config={"responsive": True, "displayModeBar": False},
    )
    return markup
