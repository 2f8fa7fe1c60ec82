"""What each tuner reached, and at what cost: spreads over the seeds."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from comparisons._formatting import Spread, spread_name
from comparisons._tuners import BASELINE


class _Column(NamedTuple):
    """A column of studies, its title in the table for people, and the format of its numbers."""

    name: str
    title: str
    form: str


_COLUMNS = (
    _Column("validation_loss", "validation loss", "#.4g"),
    _Column("retrained_validation_loss", "validation loss, retrained", "#.4g"),
    _Column("test_loss", "test loss, own run", "#.4g"),
    _Column("retrained_test_loss", "test loss, retrained", "#.4g"),
    _Column("difference", f"less {BASELINE}'s", "+#.2g"),
    _Column("plain_runs", "plain runs", ".1f"),
    _Column("seconds", "seconds", ".1f"),
)
_OF_SCHEDULES = {
    "tuned run itself": "test_loss",
    "final values, fixed": "retrained_test_loss",
    "schedule, replayed": "replayed_test_loss",
}


def summarise(studies: pd.DataFrame) -> pd.DataFrame:
    """Return median and spread over the seeds, one row per problem and tuner.

    ``difference`` is the retrained test loss minus that of the baseline at the same seed: seeds
    differ more than tuners do if each seed divides the data anew.
    """
    place = pd.MultiIndex.from_arrays([studies["label"].astype(str), studies["seed"]])
    losses = pd.Series(studies["retrained_test_loss"].to_numpy(), place)
    of_baseline = losses[(studies["tuner"] == BASELINE).to_numpy()].reindex(place)
    studies = studies.assign(difference=(losses - of_baseline.to_numpy()).to_numpy())
    studies.loc[studies["tuner"] == BASELINE, "difference"] = float("nan")
    rows = []
    for (problem, tuner), group in studies.groupby(["label", "tuner"], observed=True):
        row = {
            "problem": problem,
            "tuner": tuner,
            "seeds": len(group),
            "spread": spread_name(len(group)),
            "trials": group["trials"].mean(),
            "retrained_runs": group["retrained"].map(len).sum(),
        }
        for column in _COLUMNS:
            spread = Spread.of(group[column.name].tolist())
            row |= {f"{column.name}_{key}": value for key, value in spread._asdict().items()}
        rows.append(row)
    return pd.DataFrame(rows)


def formatted(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table for people, with «median [low, high]»; an empty column is left out."""
    table = summary[["problem", "tuner", "seeds"]].astype(str)
    for column in _COLUMNS:
        numbers = summary[[f"{column.name}_{key}" for key in Spread._fields]]
        if numbers.notna().any(axis=None):
            table[column.title] = [
                Spread(*row).text(column.form) for row in numbers.to_numpy().tolist()
            ]
    return table


def schedule_table(studies: pd.DataFrame) -> pd.DataFrame:
    """Return test losses of self-tuned runs, and of repetitions with and without the schedule.

    One repetition trains plainly with the final hyperparameters from the start. The other one
    replays the schedule of hyperparameters. Both use fresh seeds.
    """
    tuned = studies[studies["replayed"].map(len) > 0]
    rows = [
        {
            "problem": problem,
            "tuner": tuner,
            **{way: Spread.of(group[column]).text("#.4g") for way, column in _OF_SCHEDULES.items()},
        }
        for (problem, tuner), group in tuned.groupby(["label", "tuner"], observed=True)
    ]
    return pd.DataFrame(rows, columns=["problem", "tuner", *_OF_SCHEDULES])
