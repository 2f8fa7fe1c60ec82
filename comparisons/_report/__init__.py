"""The report: one self-contained page, and each of its tables as Markdown and CSV.

Data flows one way: studies (`comparisons._results`) → numbers (`_statistics`, `_table`) → tables
and figures (`_papers`, `_ranking`, `_best_search`, `_anytime`, `_schedules`, `_sensitivity_maps`)
and sentences (`_summary`, `_facts`) → this module, which gives them to the templates (`_page`). All
other words of a page are in the templates.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from comparisons import _results
from comparisons._files import replaced, write_rows
from comparisons._formatting import for_spreadsheets, to_markdown
from comparisons._report import (
    _anytime,
    _best_search,
    _facts,
    _papers,
    _ranking,
    _schedules,
    _sensitivity_maps,
    _statistics,
    _summary,
    _table,
)
from comparisons._report._figure import styles
from comparisons._report._page import render
from comparisons._sensitivity import read
from comparisons._tuners import BASELINE


SENSITIVITY_RUNS = "sensitivity_runs.csv"


class _Table(NamedTuple):
    """A table that is written as files: text for people and, if they differ, numbers."""

    text: pd.DataFrame
    numbers: pd.DataFrame | None = None


_Tables = dict[str, _Table]


def write_report(stored: pd.DataFrame, out: Path) -> list[Path]:
    """Write ``report.html``, and each of its tables as Markdown and CSV.

    If the folder holds the runs of a sensitivity analysis, the report shows them too.

    Args:
        stored: Studies of any problems, tuners and seeds, as ``_results`` reads them.
        out: The folder; it is created if it does not exist.

    Returns:
        The written files, the page first.

    Raises:
        ValueError: If there is no study.
    """
    if stored.empty:
        raise ValueError("There is no result to report: run at least one study.")
    studies = _results.for_report(stored)
    looks = styles(studies["tuner"].cat.categories)
    tables: _Tables = {}
    curves = {
        str(label): _anytime.get_anytime_info(group)
        for label, group in studies.groupby("label", observed=True)
    }
    page = render(
        "report.html",
        sentences=_summary.sentences(studies),
        facts=_facts.facts(studies),
        papers=_papers_values(studies, tables),
        ranking=_ranking_values(studies, tables),
        looks=looks,
        curves=[_anytime.plot_small_anytime(*each, looks) for each in curves.items()],
        problems=_problem_values(studies, curves, tables),
        schedules=_schedule_values(studies, tables),
        sensitivity=_sensitivity_values(out, tables),
        baseline=BASELINE,
        searches=", ".join(_best_search.SEARCHES),
        level=_statistics.LEVEL,
        enough_pairs=_statistics.ENOUGH_PAIRS,
    )
    return _write(out / "report.html", page, tables)


def write_sensitivity(out: Path) -> list[Path]:
    """Write ``sensitivity.html`` and its table from the runs in a folder.

    Returns:
        The written files, the page first.

    Raises:
        FileNotFoundError: If the folder holds no runs.
    """
    tables: _Tables = {}
    values = _sensitivity_values(out, tables)
    if values is None:
        raise FileNotFoundError(f"There are no runs: {out / SENSITIVITY_RUNS} is not there.")
    return _write(out / "sensitivity.html", render("sensitivity.html", sensitivity=values), tables)


def _write(path: Path, page: str, tables: _Tables) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path]
    with replaced(path) as file:
        file.write_text(page, encoding="utf-8")
    for name, (text, numbers) in tables.items():
        markdown, values = path.with_name(f"{name}.md"), path.with_name(f"{name}.csv")
        with replaced(markdown) as file:
            file.write_text(to_markdown(text), encoding="utf-8")
        write_rows(values, for_spreadsheets(text if numbers is None else numbers))
        written += [markdown, values]
    return written


# -- the variables of the templates; each function adds its tables to those that are written -------


def _papers_values(studies: pd.DataFrame, tables: _Tables) -> dict[str, Any] | None:
    table, differences = _papers.paper_table(studies), _papers.differences(studies)
    if table.empty and not differences:
        return None
    tables["papers"] = _Table(table)
    return {"table": table, "differences": differences}


def _ranking_values(studies: pd.DataFrame, tables: _Tables) -> dict[str, Any]:
    losses = _ranking.losses_by_measure(studies)
    losses = {name: each for name, each in losses.items() if each.notna().any(axis=None)}
    rankings = {name: _statistics.rank(each) for name, each in losses.items()}
    ranks = _ranking.rank_table(rankings)
    tables["ranks"] = _Table(ranks)
    best_search = _best_search.beside_best_search(studies)
    best_search_text = _best_search.formatted_best_search(best_search)
    if len(best_search):
        tables["best_search"] = _Table(best_search_text, best_search)
    measures = []
    for measure, each in losses.items():
        name = measure.replace(",", "").replace(" ", "_")
        against = _ranking.baseline_table(each)
        against_text = _ranking.formatted_baseline(against)
        if len(against):
            of_problems = [
                _ranking.baseline_table(group, str(problem))
                for problem, group in each.groupby("problem", sort=False)
            ]
            numbers = pd.concat([against, *of_problems])
            tables[f"against_{BASELINE}_{name}"] = _Table(against_text, numbers)
        duels = _ranking.duel_table(each)
        tables[f"duels_{name}"] = _Table(duels)
        measures.append({"name": measure, "against": against_text, "duels": duels})
    return {
        "ranks": ranks,
        "statements": _ranking.rank_statements(rankings),
        "best_search": best_search_text,
        "measures": measures,
    }


def _problem_values(
    studies: pd.DataFrame, curves: dict[str, _anytime.AnytimeInfo], tables: _Tables
) -> Iterable[dict[str, Any]]:
    tuners = list(studies["tuner"].cat.categories)
    looks = styles(tuners)
    summary, selected = _table.summarise(studies), _table.selected(studies)
    tables["table"] = _Table(_table.formatted(summary), summary)
    tables["selected"] = _Table(_table.formatted_selected(selected, tuners), selected)
    values = []
    for label, group in studies.groupby("label", observed=True):
        own = [tuner for tuner in tuners if tuner in set(group["tuner"])]
        losses = _statistics.losses_of(group, "retrained_test_loss")
        tested = _ranking.baseline_table(losses, str(label))
        is_tested = len(tested) and tested["p"].notna().any()
        values.append(
            {
                "name": label,
                "description": group["settings"].iloc[0]["description"],
                "table": _table.formatted(summary[summary["problem"] == label]).drop(
                    columns="problem"
                ),
                "against": _ranking.formatted_baseline(tested if is_tested else tested.iloc[:0]),
                "curve": _anytime.plot_anytime(curves[str(label)], looks),
                "selected": _table.formatted_selected(
                    selected[selected["problem"] == label], own
                ).drop(columns="problem"),
            }
        )
    return values


def _schedule_values(studies: pd.DataFrame, tables: _Tables) -> dict[str, Any] | None:
    losses = _schedules.get_schedule_losses(studies)
    if not losses:
        return None
    table = _schedules.schedule_table(losses)
    tables["schedules"] = _Table(table)
    return {"table": table, "figures": _schedules.plot_schedules(losses)}


def _sensitivity_values(folder: Path, tables: _Tables) -> dict[str, Any] | None:
    path = folder / SENSITIVITY_RUNS
    if not path.is_file():
        return None
    rows = read(path)
    maps = _sensitivity_maps.get_maps(rows)
    numbers = _sensitivity_maps.sensitivity_table(maps)
    text = _sensitivity_maps.formatted_sensitivity(numbers)
    tables["sensitivity"] = _Table(text, numbers)
    problems = []
    for name, methods in maps.items():
        of_problem = rows[rows["problem"] == name]
        seeds = of_problem.groupby(["method", "start", "initial_scale"])["seed"].nunique()
        problems.append(
            {
                "name": name,
                "seeds": _facts.span(seeds),
                "epochs": _facts.span(of_problem["epochs"]),
                "diverged": of_problem["validation_loss"].isna().sum(),
                "runs": len(of_problem),
                "figures": _sensitivity_maps.plot_sensitivity(name, methods),
            }
        )
    return {
        "table": text,
        "problems": problems,
        "versions": _facts.versions(rows.to_dict("records")),
        "sources": ", ".join(rows["source"].unique()),
        "color_span": f"{_sensitivity_maps.COLOR_SPAN:g}",
    }
