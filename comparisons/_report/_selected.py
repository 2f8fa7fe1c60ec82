"""The hyperparameters at which each tuner arrived."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from comparisons._storage import Result
from comparisons._table import Spread, by_problem, by_tuner, spread_text


NOTE = (
    "Of the selected trial: the values at its best evaluation, where they were tuned within a "
    "training run. Median over the seeds, and their spread."
)

_WHERE = ["problem", "hyperparameter"]


def selected(results: list[Result]) -> pd.DataFrame:
    """Return what was selected, a row per problem, hyperparameter and tuner."""
    return pd.DataFrame(
        [
            {"problem": problem, "hyperparameter": name, "tuner": tuner, **spread._asdict()}
            for problem, of_problem in by_problem(results).items()
            for tuner, group in by_tuner(of_problem).items()
            for name, spread in _spreads(group).items()
        ],
        columns=[*_WHERE, "tuner", *Spread._fields],
    )


def _spreads(results: list[Result]) -> dict[str, Spread]:
    """Return the spread of each hyperparameter over the seeds; choices are left out."""
    points = [result.selected_trial.params for result in results if result.selected_trial]
    numeric = {
        name: None
        for point in points
        for name, value in point.items()
        if isinstance(value, (int, float))
    }
    return {name: Spread.of(point[name] for point in points if name in point) for name in numeric}


def formatted_selected(numbers: pd.DataFrame, tuners: Iterable[str]) -> pd.DataFrame:
    """Return the table people read: a row per problem and hyperparameter, a column per tuner."""
    spreads = numbers[list(Spread._fields)].to_numpy().tolist()
    texts = numbers.assign(text=[spread_text(Spread(*spread), ".2g") for spread in spreads])
    table = texts.pivot_table("text", _WHERE, "tuner", aggfunc="first", sort=False)
    return table.reindex(columns=[*tuners]).fillna("–").reset_index().rename_axis(columns=None)
