"""The parts of the report: each is HTML, and the tables that are written as files too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from comparisons._provenance import VERSIONS
from comparisons._report import (
    _anytime,
    _best_search,
    _page,
    _papers,
    _ranking,
    _schedules,
    _selected,
    _sensitivity_maps,
    _statistics,
    _studies,
    _style,
    _summary,
)
from comparisons._sensitivity import read
from comparisons._storage import Result
from comparisons._table import BASELINE, by_problem, by_tuner, formatted, summarise
from comparisons._tuners import TUNERS


class Table(NamedTuple):
    """A table that is written as files.

    Attributes:
        name: Of the files.
        text: For people.
        numbers: For programs; ``None`` where the text is all there is.
    """

    name: str
    text: pd.DataFrame
    numbers: pd.DataFrame | None = None


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        title: Its heading; empty for the head of the page, which has its own.
        body: HTML; empty if there is nothing to show.
        tables: Those in it.
    """

    title: str
    body: list[str]
    tables: list[Table]


def head(results: list[Result]) -> Section:
    """What was compared, how and where, and the result in plain sentences."""
    problems = by_problem(results)
    starts = [t.datetime_start for r in results for t in r.trials if t.datetime_start]
    budgeted = [r for r in results if r.tuner not in TUNERS or TUNERS[r.tuner].takes_budget]
    facts = {
        "Problems": ", ".join(problems),
        "Tuners": ", ".join(by_tuner(results)),
        "Studies": f"{len(results)}; seeds per problem: {_per_problem(results, _seeds)}",
        "Budget": f"{_per_problem(budgeted or results, _setting('budget'))} of each search; a "
        "self-tuning network by itself is one run, whatever the budget",
        "Epochs": _per_problem(results, _setting("epochs")),
        "Scale": _per_problem(results, _setting("scale")),
        "Retraining": f"{_per_problem(results, _setting('retrainings'))} fresh seeds per study",
        "Versions": _versions([result.settings for result in results]) + _sources(results),
        "Machine": "; ".join(_distinct(_machine(result) for result in results)),
        "Dates": " to ".join(_distinct(f"{start:%Y-%m-%d}" for start in _ends(starts))),
    }
    body = [
        _page.heading(1, "Tuners compared"),
        _page.heading(2, "In short"),
        _page.bullets(_summary.sentences(results)),
        _page.heading(2, "What was compared"),
        _page.facts(facts),
    ]
    return Section("", body, [])


def papers(results: list[Result]) -> Section:
    """The papers' table, and what differs from them."""
    table = _papers.paper_table(results)
    differences = _papers.differences(results)
    body = []
    if len(table):
        body += [_page.table(table), _page.note(_papers.NOTE)]
    if differences:
        body += [
            _page.heading(3, "What differs from the papers"),
            _page.facts(differences),
        ]
    return Section("Beside the papers' figures", body, [Table("papers", table)])


def comparison(results: list[Result]) -> Section:
    """Ranks, duels and tests over all problems."""
    losses = _ranking.losses_by_measure(results)
    rankings = {
        measure: _statistics.rank(table)
        for measure, table in losses.items()
        if table.notna().any(axis=None)
    }
    ranks = _ranking.rank_table(rankings)
    body = [
        _page.heading(3, "Average ranks"),
        _page.table(ranks),
        _page.note(
            "1 is best. On each problem the tuners are ranked by their medians over the seeds that "
            "all of them have; a problem counts once, however many seeds it has."
        ),
        _page.bullets(_ranking.rank_statements(rankings)),
    ]
    tables = [Table("ranks", ranks)]
    beside = _best_search.beside_best_search(results)
    if len(beside):
        text = _best_search.formatted_best_search(beside)
        shown = [_page.table(text), _page.note(_best_search.NOTE)]
        body.append(_page.details("Self-tuning beside the best search", shown))
        tables.append(Table("best_search", text, beside))
    for measure in rankings:
        against = _ranking.baseline_table(losses[measure])
        duels = _ranking.duel_table(losses[measure])
        name = measure.replace(",", "").replace(" ", "_")
        if len(against):
            text = _ranking.formatted_baseline(against)
            body += [_page.heading(3, f"Against {BASELINE}: {measure}"), _page.table(text)]
            each = [
                _ranking.baseline_table(of_problem, str(problem))
                for problem, of_problem in losses[measure].groupby("problem", sort=False)
            ]
            tables.append(Table(f"against_{BASELINE}_{name}", text, pd.concat([against, *each])))
        body += [
            _page.details(
                f"Each against each: {measure}",
                [
                    _page.table(duels),
                    _page.note(
                        "Wins–ties–losses of the row against the column, over problems and seeds."
                    ),
                ],
            )
        ]
        tables.append(Table(f"duels_{name}", duels))
    body.append(_page.note(_ranking.BASELINE_NOTE))
    return Section("Who beats whom", body, tables)


def budget(results: list[Result]) -> Section:
    """All problems' curves of loss against budget, side by side."""
    looks = _style.styles(by_tuner(results))
    figures = [
        _anytime.plot_small_anytime(problem, group, looks)
        for problem, group in by_problem(results).items()
    ]
    text = (
        "Best validation loss so far against the budget in plain training runs; medians over the "
        "seeds, both axes logarithmic. A budget is the CPU time of all that a tuner does, divided "
        "by the median CPU time of the plain runs beside and after it; on a GPU, wall time. Grey, "
        "with dots: the optimum, where it is known."
    )
    body = [_page.note(text), _page.key(looks), _page.multiples(figures)]
    return Section("What a budget buys", body, [])


def problems(results: list[Result]) -> Section:
    """Each problem by itself: table, curves, what was selected, and Optuna's figures."""
    looks = _style.styles(by_tuner(results))
    summary = summarise(results)
    selected = _selected.selected(results)
    body = [_page.note(_TABLE_NOTE)]
    for problem, group in by_problem(results).items():
        own = {tuner: looks[tuner] for tuner in by_tuner(group)}
        body += [
            _page.heading(3, problem),
            _page.note(str(group[0].settings["description"])),
            *_problem_tables(problem, summary[summary["problem"] == problem], group),
            _page.figure(_anytime.plot_anytime(group, own)),
            *_selection(problem, selected[selected["problem"] == problem], own),
            _page.details(
                f"Optuna's figures: {problem}",
                map(_page.figure, _studies.optuna_figures(group, own)),
            ),
        ]
    tables = [
        Table("table", formatted(summary), summary),
        Table("selected", _selected.formatted_selected(selected, looks), selected),
    ]
    return Section("Problem by problem", body, tables)


_TABLE_NOTE = """\
Median over the seeds [quartiles, of fewer than five seeds the range]. «Validation loss» is the best
that the search saw; the best of many noisy runs is partly luck, which retraining takes away. «Own
run» is the test loss of the very network that was selected, «retrained» the mean of plain runs at
the selected hyperparameters on fresh seeds, the same for every tuner. Retrained validation losses
show what each tuner made of what it was to minimise, test losses what that was worth. Networks are
taken at their best validation loss; test data are looked at only after selection. «Less tpe's» is
the retrained test loss less TPE's at the same seed, on the same data and from the same initial
weights. Plain runs are the tuner's CPU time, on a GPU its wall time, over that of a plain training
run; seconds are wall time. Retraining is not counted: it is the same for all."""


def _problem_tables(problem: str, summary: pd.DataFrame, results: list[Result]) -> Iterable[str]:
    yield _page.table(formatted(summary).drop(columns="problem"))
    losses = _ranking.losses_by_measure(results)["test loss, retrained"]
    tested = _ranking.baseline_table(losses, problem)
    if len(tested) and tested["p"].notna().any():
        yield _page.heading(4, f"Against {BASELINE}, seed by seed: test loss, retrained")
        yield _page.table(_ranking.formatted_baseline(tested))


def _selection(problem: str, selected: pd.DataFrame, tuners: Iterable[str]) -> Iterable[str]:
    table = _selected.formatted_selected(selected, tuners).drop(columns="problem")
    if len(table):
        body = [_page.table(table), _page.note(_selected.NOTE)]
        yield _page.details(f"Hyperparameters selected: {problem}", body)


def schedules(results: list[Result]) -> Section:
    """Whether the schedule matters, or only where it ends."""
    info = _schedules.get_schedules_info(results)
    table = _schedules.schedule_table(info)
    body = []
    if len(table):
        body = [
            _page.note(_schedules.NOTE),
            _page.table(table),
            _page.multiples(_schedules.plot_schedules(info)),
        ]
    return Section("The schedule or its end", body, [Table("schedules", table)])


def sensitivity(runs: Path) -> Section:
    """Heat maps over starts and first scales."""
    rows = read(runs)
    infos = _sensitivity_maps.get_sensitivity_info(rows)
    numbers = _sensitivity_maps.sensitivity_table(infos)
    table = _sensitivity_maps.formatted_sensitivity(numbers)
    body = [_page.note(_sensitivity_maps.NOTE), _page.table(table)]
    for problem, info in infos.items():
        of_problem = rows[rows["problem"] == problem]
        seeds = of_problem.groupby(["method", "start", "initial_scale"])["seed"].nunique()
        body += [
            _page.heading(3, problem),
            _page.note(
                f"Seeds a cell: {_range(seeds)}; epochs: {_range(of_problem['epochs'])}; "
                f"{of_problem['validation_loss'].isna().sum()} of {len(of_problem)} runs diverged."
            ),
            _page.multiples(_sensitivity_maps.plot_sensitivity(problem, info)),
        ]
    versions = _versions(rows.to_dict("records"))
    sources = ", ".join(rows["source"].unique())
    body.append(_page.note(f"Versions: {versions}; source {sources}."))
    return Section("Sensitivity to the start", body, [Table("sensitivity", table, numbers)])


# -- words ---------------------------------------------------------------------------------------


def _per_problem(results: list[Result], value: Callable[[list[Result]], str]) -> str:
    """Return a value that all problems share, or each problem's own."""
    values = {problem: value(group) for problem, group in by_problem(results).items()}
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{problem} {text}" for problem, text in values.items())


def _setting(name: str) -> Callable[[list[Result]], str]:
    def value(group: list[Result]) -> str:
        return " or ".join(_distinct(str(r.settings.get(name, "unknown")) for r in group))

    return value


def _seeds(group: list[Result]) -> str:
    return _range(pd.Series([len(results) for results in by_tuner(group).values()]))


def _range(counts: pd.Series[int]) -> str:
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _versions(rows: Iterable[Mapping[Any, Any]]) -> str:
    """Return the versions of the libraries: all, where several took part."""
    rows = list(rows)
    texts = []
    for name in VERSIONS:
        found = _distinct(str(row[name]) for row in rows if name in row)
        if found:
            texts.append(f"{name} {' or '.join(found)}")
    return ", ".join(texts)


def _sources(results: list[Result]) -> str:
    """Return a warning where the studies of a problem were not all run by the same source code."""
    mixed = [
        problem
        for problem, group in by_problem(results).items()
        if len({result.settings.get("source") for result in group}) > 1
    ]
    return f"; by different states of the source code: on {', '.join(mixed)}" if mixed else ""


def _machine(result: Result) -> str:
    machine = result.machine
    # Older studies name the kind of device alone.
    device = machine.get("device", result.settings.get("device", "cpu"))
    return (
        f"{machine['cores']} cores, {machine['architecture']}, {machine['system']}, "
        f"{device}; one thread per process"
    )


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _ends(values: list[Any]) -> list[Any]:
    return [min(values), max(values)] if values else []
