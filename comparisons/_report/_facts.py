"""What was compared, how and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from comparisons._provenance import VERSIONS


def facts(studies: pd.DataFrame) -> dict[str, str]:
    """Return versions, machines and dates by name."""
    dates = sorted(date for date in studies["started"] if isinstance(date, str) and date)
    machines = {
        f"{each['cores']} cores, {each['architecture']}, {each['system']}, "
        f"{each.get('device', 'cpu')}; one thread per process": None
        for each in studies["machine"]
    }
    return {
        "Versions": versions(studies["settings"]),
        "Machine": "; ".join(machines),
        "Dates": " to ".join(dict.fromkeys(dates[:1] + dates[-1:])),
    }


def problem_facts(studies: pd.DataFrame) -> pd.DataFrame:
    """Return the number of seeds, the settings and the states of the source, a row per problem."""
    rows = []
    for problem, group in studies.groupby("label", observed=True):
        settings = {
            name: " or ".join(_distinct(each.get(name, "unknown") for each in group["settings"]))
            for name in ("epochs", "budget", "retrainings")
        }
        seeds = group.groupby("tuner", observed=True)["seed"].count()
        sources = {each.get("source") for each in group["settings"]}
        rows.append({"problem": problem, "seeds": span(seeds), **settings, "sources": len(sources)})
    return pd.DataFrame(rows)


def versions(rows: Iterable[Mapping[Any, Any]]) -> str:
    """Return the versions of the libraries; all versions of a library if there are several."""
    rows = list(rows)
    found = {name: _distinct(row[name] for row in rows if name in row) for name in VERSIONS}
    return ", ".join(f"{name} {' or '.join(each)}" for name, each in found.items() if each)


def span(counts: pd.Series[int]) -> str:
    """Return «low to high», or the only number."""
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(map(str, values)))
