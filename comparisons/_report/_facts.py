"""What was compared, how and where: the facts at the head of a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from comparisons._provenance import VERSIONS
from comparisons._tuners import TUNERS


def facts(studies: pd.DataFrame) -> dict[str, str]:
    """Return the facts by name."""
    has_budget = [
        tuner not in TUNERS or TUNERS[tuner].takes_budget for tuner in studies["tuner"].tolist()
    ]
    budgeted = studies[has_budget] if any(has_budget) else studies
    dates = sorted(date for date in studies["started"] if isinstance(date, str) and date)
    return {
        "Problems": ", ".join(studies["label"].cat.categories),
        "Tuners": ", ".join(studies["tuner"].cat.categories),
        "Studies": f"{len(studies)}; seeds per problem: {_per_problem(studies, _seeds)}",
        "Budget": f"{_per_problem(budgeted, _setting('budget'))} of each search; a "
        "self-tuning network by itself is one run, whatever the budget",
        "Epochs": _per_problem(studies, _setting("epochs")),
        "Scale": _per_problem(studies, _setting("scale")),
        "Retraining": f"{_per_problem(studies, _setting('retrainings'))} fresh seeds per study",
        "Versions": versions(studies["settings"]) + _sources(studies),
        "Machine": "; ".join(dict.fromkeys(map(_machine, studies["machine"]))),
        "Dates": " to ".join(dict.fromkeys(dates[:1] + dates[-1:])),
    }


def versions(rows: Iterable[Mapping[Any, Any]]) -> str:
    """Return the versions of the libraries; all versions of a library if there are several."""
    rows = list(rows)
    found = {name: _distinct(row[name] for row in rows if name in row) for name in VERSIONS}
    return ", ".join(f"{name} {' or '.join(each)}" for name, each in found.items() if each)


def span(counts: pd.Series[int]) -> str:
    """Return «low to high», or the only number."""
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _per_problem(studies: pd.DataFrame, value: Callable[[pd.DataFrame], str]) -> str:
    """Return the value of all problems, or of each problem if they differ."""
    values = {
        str(problem): value(group) for problem, group in studies.groupby("label", observed=True)
    }
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{problem} {text}" for problem, text in values.items())


def _setting(name: str) -> Callable[[pd.DataFrame], str]:
    return lambda group: " or ".join(_distinct(s.get(name, "unknown") for s in group["settings"]))


def _seeds(group: pd.DataFrame) -> str:
    return span(group.groupby("tuner", observed=True)["seed"].count())


def _sources(studies: pd.DataFrame) -> str:
    """Return a warning if studies of a problem were run by different states of the source code."""
    mixed = [
        str(problem)
        for problem, group in studies.groupby("label", observed=True)
        if len({settings.get("source") for settings in group["settings"]}) > 1
    ]
    return f"; by different states of the source code: on {', '.join(mixed)}" if mixed else ""


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['cores']} cores, {machine['architecture']}, {machine['system']}, "
        f"{machine.get('device', 'cpu')}; one thread per process"
    )


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(map(str, values)))
