"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from comparisons._provenance import available_cores
from comparisons._tuners import unknown
from comparisons.problems import PROBLEMS, MissingDataError, Problem, Scale


CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def names(
    choose: Callable[[Iterable[str]], list[str]], *declarations: str, **attrs: Any
) -> Callable[[CommandT], CommandT]:
    """Return an option that takes names, separated by commas or one by one.

    ``choose`` returns the names to use, or raises a ValueError that says which one is unknown.
    """

    def parse(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[str]:
        try:
            return choose(name.strip() for value in values for name in value.split(","))
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return click.option(*declarations, multiple=True, callback=parse, metavar="NAMES", **attrs)


def problems(
    default: Iterable[str], show_default: str | bool = True
) -> Callable[[CommandT], CommandT]:
    """Return the option ``--problems``."""
    return names(
        _registered,
        "--problems",
        default=list(default),
        show_default=show_default,
        help="What to tune: names separated by commas, or the option several times.",
    )


def _registered(wanted: Iterable[str]) -> list[str]:
    wanted = list(wanted)
    for name in wanted:
        if name not in PROBLEMS:
            raise ValueError(unknown("problem", name, PROBLEMS))
    return [name for name in PROBLEMS if name in wanted]


def sized(names: Iterable[str], scale: str, data_dir: Path, **changes: Any) -> list[Problem]:
    """Return the problems that the options describe."""
    chosen = [PROBLEMS[name].at(scale, data_dir=data_dir, **changes) for name in names]
    try:
        for problem in chosen:
            problem.require_data()
    except MissingDataError as error:
        raise click.ClickException(str(error)) from None
    return chosen


def _folder(declaration: str, default: str, help: str) -> Callable[[CommandT], CommandT]:
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option(declaration, default=Path(default), type=kind, help=help)


scale = click.option(
    "--scale",
    default=Scale.CPU.value,
    type=click.Choice([scale.value for scale in Scale]),
    help="How large the problems are: a test, minutes on a CPU, or the papers' setting.",
)
data_dir = _folder("--data-dir", "data", "Folder of the data files, for problems that need some.")
jobs = click.option(
    "--jobs",
    default=min(2, available_cores()),
    type=click.IntRange(1),
    help="How many at a time, each in a process with one thread.",
)
out = _folder("--out", "results", "Folder of what is finished and of the report.")
keep_older = click.option(
    "--keep-older",
    is_flag=True,
    help="Keep what is there, though it was run by other versions or with other settings; the "
    "report says on which problems.",
)
