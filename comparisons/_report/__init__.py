"""The report: one self-contained page, and each of its tables as Markdown and CSV.

Data flows one way: studies (`comparisons._results`) and stopped searches
(`comparisons._equal_cost`) → numbers (`_statistics`, `_table`) → tables and figures (`_equal_cost`,
`_ranking`, `_best_search`, `_anytime`, `_sensitivity_maps`, `_facts`) → this module, which gives
them to the templates (`_page`). All other words of a page are in the templates.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from comparisons import _results
from comparisons._equal_cost import stopped_searches
from comparisons._files import replaced, write_rows
from comparisons._formatting import to_markdown
from comparisons._report import (
    _anytime,
    _best_search,
    _equal_cost,
    _facts,
    _ranking,
    _sensitivity_maps,
    _statistics,
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
    """Write ``report.html``, and each of its tables as Markdown and CSV; the page comes first.

    If the folder holds the runs of a sensitivity analysis, the report shows them too.
    """
    if stored.empty:
        raise ValueError("There is no result to report: run at least one study.")
    studies = _results.for_report(stored)
    looks = styles(studies["tuner"].cat.categories)
    tables: _Tables = {}
    equal_cost = _equal_cost.get_equal_cost(studies, stopped_searches(stored, out))
    costs = {} if equal_cost is None else equal_cost.spent["plain_runs"].to_dict()
    schedules = _table.schedule_table(studies)
    if len(schedules):
        tables["schedules"] = _Table(schedules)
    page = render(
        "report.html",
        equal_cost=_equal_cost_values(equal_cost, studies, tables),
        facts=_facts.facts(studies),
        problem_facts=_facts.problem_facts(studies),
        ranking=_ranking_values(studies, tables),
        looks=looks,
        curves=[
            _anytime.plot_anytime(str(label), group, looks, costs.get(str(label)))
            for label, group in studies.groupby("label", observed=True)
        ],
        problems=_problem_values(studies, tables),
        schedules=schedules,
        sensitivity=_sensitivity_values(out, tables),
        baseline=BASELINE,
        searches=", ".join(_best_search.SEARCHES),
        enough_pairs=_statistics.ENOUGH_PAIRS,
    )
    return _write(out / "report.html", page, tables)


def write_sensitivity(out: Path) -> list[Path]:
    """Write ``sensitivity.html`` and its table from the runs in a folder; the page comes first."""
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
        write_rows(values, text if numbers is None else numbers)
        written += [markdown, values]
    return written


# -- the variables of the templates; each function adds its tables to those that are written -------


def _equal_cost_values(
    info: _equal_cost.EqualCost | None, studies: pd.DataFrame, tables: _Tables
) -> dict[str, Any] | None:
    if info is None:
        return None
    losses, tests = _equal_cost.loss_table(info, studies), _equal_cost.test_table(info)
    text, tests_text = _equal_cost.formatted_losses(losses), _equal_cost.formatted_tests(tests)
    tables["equal_cost"] = _Table(text, losses)
    tables["equal_cost_tests"] = _Table(tests_text, tests)
    return {
        "answer": _equal_cost.answer(info, tests),
        "figures": _equal_cost.plot_answer(info, losses["problem"].tolist()),
        "losses": text,
        "tests": tests_text,
    }


def _ranking_values(studies: pd.DataFrame, tables: _Tables) -> dict[str, Any]:
    losses = {
        measure: table
        for measure, column in _ranking.MEASURES.items()
        if (table := _statistics.losses_of(studies, column)).notna().any(axis=None)
    }
    rankings = {measure: _statistics.rank(each) for measure, each in losses.items()}
    ranks = _ranking.rank_table(rankings)
    tables["ranks"] = _Table(ranks)
    best_search = _best_search.beside_best_search(studies)
    best_search_text = _best_search.formatted_best_search(best_search)
    if len(best_search):
        tables["best_search"] = _Table(best_search_text, best_search)
    against = {}
    for measure, each in losses.items():
        duels = _ranking.baseline_table(each)
        if len(duels):
            of_problems = [
                _ranking.baseline_table(group, str(problem))
                for problem, group in each.groupby("problem", sort=False)
            ]
            against[measure] = _ranking.formatted_baseline(duels)
            name = measure.replace(",", "").replace(" ", "_")
            numbers = pd.concat([duels, *of_problems])
            tables[f"against_{BASELINE}_{name}"] = _Table(against[measure], numbers)
    return {
        "ranks": ranks,
        "statements": [_ranking.rank_statement(*each) for each in rankings.items()],
        "best_search": best_search_text,
        "against": against,
    }


def _problem_values(studies: pd.DataFrame, tables: _Tables) -> Iterable[dict[str, Any]]:
    summary = _table.summarise(studies)
    text = _table.formatted(summary)
    tables["table"] = _Table(text, summary)
    return [
        {
            "name": label,
            "description": group["settings"].iloc[0]["description"],
            "table": text[text["problem"] == str(label)].drop(columns="problem"),
        }
        for label, group in studies.groupby("label", observed=True)
    ]


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
