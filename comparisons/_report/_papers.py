"""The papers' table, with our losses beside theirs."""

from __future__ import annotations

import pandas as pd

from comparisons._formatting import Spread, number_text
from comparisons._tuners import method_of
from comparisons.problems import PROBLEMS, PaperResult


# The columns of the papers' table in their order; «gp» stands for their Bayesian optimisation.
_METHODS = ("random", "gp", "stn", "centered-stn", "delta-stn")
# The start of the papers, for methods with several starts.
_START = "0.05"


def paper_table(studies: pd.DataFrame) -> pd.DataFrame:
    """Return the papers' table as text: a row per problem of theirs, a column per method."""
    rows = []
    for label, group in studies.groupby("label", observed=True):
        name = group["problem"].iloc[0]
        theirs = PROBLEMS[name].paper if name in PROBLEMS else {}
        if theirs:
            cells = {
                method: f"{_text(_ours(group, method))} / {_text(theirs.get(method))}"
                for method in _METHODS
            }
            rows.append({"problem": label, **cells})
    return pd.DataFrame(rows, columns=["problem", *_METHODS])


def differences(studies: pd.DataFrame) -> dict[str, str]:
    """Return how each problem differs from the papers' setting, as noted when it was run."""
    noted = {
        str(label): str(group["settings"].iloc[0].get("differs_from_paper", ""))
        for label, group in studies.groupby("label", observed=True)
    }
    return {label: text for label, text in noted.items() if text}


def _ours(studies: pd.DataFrame, method: str) -> PaperResult | None:
    variants = [tuner for tuner in studies["tuner"].unique() if method_of(tuner) == method]
    if not variants:
        return None
    start = f"{method}@{_START}"
    group = studies[studies["tuner"] == (start if start in variants else variants[0])]
    return PaperResult(
        Spread.of(group["validation_loss"]).median, Spread.of(group["test_loss"]).median
    )


def _text(result: PaperResult | None) -> str:
    if result is None:
        return "–"
    return f"{number_text(result.validation, '.3g')} ({number_text(result.test, '.3g')})"
