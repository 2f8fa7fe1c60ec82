"""Writes the report's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comparisons._files import replaced
from comparisons._report import _page, _sections
from comparisons._report._sections import Section, Table
from comparisons._storage import Result
from comparisons._table import to_markdown


SENSITIVITY_RUNS = "sensitivity_runs.csv"


def write_report(results: Sequence[Result], out: Path) -> list[Path]:
    """Write ``report.html``, and each of its tables as Markdown and CSV.

    If the folder holds the runs of a sensitivity analysis, they are a part of the report.

    Args:
        results: Of any problems, tuners and seeds; at least one.
        out: The folder, made if it is not there.

    Returns:
        What was written, the page first.

    Raises:
        ValueError: If there is no result.
    """
    if not results:
        raise ValueError("There is no result to report: run at least one study.")
    results = sorted(results, key=lambda result: result.seed)
    sections = [
        _sections.head(results),
        _sections.papers(results),
        _sections.comparison(results),
        _sections.budget(results),
        _sections.problems(results),
        _sections.schedules(results),
        *_sensitivity(out),
    ]
    return _write("Tuners compared", "report", sections, out)


def write_sensitivity(out: Path) -> list[Path]:
    """Write ``sensitivity.html`` and its table from the runs that a folder holds.

    Args:
        out: The folder.

    Returns:
        What was written, the page first.

    Raises:
        FileNotFoundError: If the folder holds no runs.
    """
    sections = _sensitivity(out)
    if not sections:
        raise FileNotFoundError(f"There are no runs: {out / SENSITIVITY_RUNS} is not there.")
    return _write("Sensitivity to the start", "sensitivity", sections, out)


def _sensitivity(out: Path) -> list[Section]:
    runs = out / SENSITIVITY_RUNS
    return [_sections.sensitivity(runs)] if runs.is_file() else []


def _write(title: str, name: str, sections: Sequence[Section], out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    shown = [section for section in sections if section.body]
    tables = [table for section in shown for table in section.tables]
    page = out / f"{name}.html"
    with replaced(page) as new:
        new.write_text(_page.page(title, _body(shown)), encoding="utf-8")
    return [page, *(path for table in tables for path in _write_table(table, out))]


def _body(sections: Sequence[Section]) -> list[str]:
    titles = {f"part-{n}": section.title for n, section in enumerate(sections) if section.title}
    body = []
    for n, section in enumerate(sections):
        if section.title:
            body.append(_page.heading(2, section.title, anchor=f"part-{n}"))
        body += section.body
        if not section.title:
            body.append(_page.contents(titles))
    return body


def _write_table(table: Table, out: Path) -> list[Path]:
    markdown, numbers = out / f"{table.name}.md", out / f"{table.name}.csv"
    with replaced(markdown) as new:
        new.write_text(to_markdown(table.text), encoding="utf-8")
    with replaced(numbers) as new:
        (table.text if table.numbers is None else table.numbers).to_csv(new, index=False)
    return [markdown, numbers]
