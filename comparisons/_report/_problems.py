"""What the registry knows of a stored problem: of one that is gone from it, nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from comparisons._storage import Result
from comparisons._table import Spread
from comparisons.problems import PROBLEMS, MissingDataError, PaperResult, Problem, Scale


def paper_results(name: str) -> Mapping[str, PaperResult]:
    """Return what the papers report of a problem, by method."""
    return PROBLEMS[name].paper if name in PROBLEMS else {}


def difference_from_paper(result: Result) -> str:
    """Return what differs from the papers' setting, as the problem says it; may be empty."""
    if "differs_from_paper" in result.settings:
        return str(result.settings["differs_from_paper"])
    # Older studies do not say; which data files they were given is a guess.
    return str(getattr(stored_problem(result), "differs_from_paper", ""))


def optimum(results: list[Result]) -> float | None:
    """Return the known lowest validation loss, the median over the seeds' divisions of the data."""
    problem = stored_problem(results[0])
    if problem is None:
        return None
    try:
        known = [problem.optimum(split) for split in sorted({result.seed for result in results})]
    except MissingDataError:  # the report is made elsewhere than the studies
        return None
    values = [value for value in known if value is not None]
    return Spread.of(values).median if values else None


def stored_problem(result: Result) -> Problem | None:
    """Return the problem that a result is of, at its scale and size, if it is still registered."""
    settings = result.settings
    kind = PROBLEMS.get(result.problem)
    if kind is None or result.scale not in {scale.value for scale in kind.sizes}:
        return None
    size = kind.sizes[Scale(result.scale)]
    numbers = {f.name: settings[f.name] for f in fields(size) if f.name in settings}
    return kind.at(result.scale, **numbers)
