"""The papers' table, our figures beside theirs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from comparisons._report._problems import difference_from_paper, paper_results
from comparisons._storage import Result
from comparisons._table import Spread, by_problem, by_tuner, number_text, own_test_loss
from comparisons._tuners import method_of
from comparisons.problems import PaperResult


# NamedColumns of the papers' table, in their order; «gp» is their Bayesian optimisation.
_METHODS = ("random", "gp", "stn", "centered-stn", "delta-stn")
# Of several starts of a method, the papers'.
_START = "0.05"

NOTE = (
    "Validation loss (test loss in brackets): ours / Bae & Grosse's (2020). Ours are the medians "
    "over the seeds, of the very network that the tuner selected, and from the papers' start "
    f"{_START} where a tuner has several. Their «Bayesian optimisation» stands beside Optuna's GP "
    "sampler. Of their perplexities on PTB the logarithms are given, nats a word as ours."
)


def paper_table(results: list[Result]) -> pd.DataFrame:
    """Return the papers' table: a row per problem that they have, a column per method, as text."""
    rows = []
    for problem, group in by_problem(results).items():
        theirs = paper_results(group[0].problem)
        if theirs:
            ours = _ours(group)
            cells = {method: _cell(ours.get(method), theirs.get(method)) for method in _METHODS}
            rows.append({"problem": problem, **cells})
    return pd.DataFrame(rows, columns=["problem", *_METHODS])


def differences(results: list[Result]) -> dict[str, str]:
    """Return what each problem says of how it differs from the papers' setting."""
    said = {
        problem: difference_from_paper(group[0]) for problem, group in by_problem(results).items()
    }
    return {problem: text for problem, text in said.items() if text}


def _ours(results: list[Result]) -> Mapping[str, PaperResult]:
    groups = by_tuner(results)
    ours = {}
    for method in _METHODS:
        variants = [tuner for tuner in groups if method_of(tuner) == method]
        if variants:
            start = f"{method}@{_START}"
            group = groups[start if start in variants else variants[0]]
            ours[method] = PaperResult(
                Spread.of(result.validation_loss for result in group).median,
                Spread.of(map(own_test_loss, group)).median,
            )
    return ours


def _cell(ours: PaperResult | None, theirs: PaperResult | None) -> str:
    return f"{_text(ours)} / {_text(theirs)}"


def _text(result: PaperResult | None) -> str:
    if result is None:
        return "–"
    return f"{number_text(result.validation, '.3g')} ({number_text(result.test, '.3g')})"
