"""The options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from comparisons._provenance import available_cores
from comparisons._tuners import unknown
from comparisons.problems import PROBLEMS, MissingDataError, Problem, Scale


_Command = TypeVar("_Command", bound=Callable[..., Any])


def names(
    choose: Callable[[Iterable[str]], list[str]], *declarations: str, **attrs: Any
) -> Callable[[_Command], _Command]:
    """Return an option that takes names, separated by commas or given one by one.

    Args:
        choose: Returns what the names stand for; a ``ValueError`` says which one is unknown.
        *declarations: As of :func:`click.option`.
        **attrs: Likewise.
    """

    def parse(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[str]:
        try:
            return choose(name.strip() for value in values for name in value.split(","))
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return click.option(*declarations, multiple=True, callback=parse, metavar="NAMES", **attrs)


def problems(
    default: Iterable[str], show_default: str | bool = True
) -> Callable[[_Command], _Command]:
    """Return the option of problems' names."""
    return names(
        _known,
        "--problems",
        default=list(default),
        show_default=show_default,
        help="What to tune: names separated by commas, or the option several times.",
    )


def _known(wanted: Iterable[str]) -> list[str]:
    wanted = list(wanted)
    for name in wanted:
        if name not in PROBLEMS:
            raise ValueError(unknown("problem", name, PROBLEMS))
    return [name for name in PROBLEMS if name in wanted]


def sized(names: Iterable[str], scale: str, data_dir: Path, **changes: Any) -> list[Problem]:
    """Return the problems that the options ask for.

    Args:
        names: Of problems.
        scale: How large.
        data_dir: Folder of the data files.
        **changes: As of :meth:`Problem.at`.

    Raises:
        click.ClickException: If a data file is not there.
    """
    chosen = [PROBLEMS[name].at(scale, data_dir=data_dir, **changes) for name in names]
    try:
        for problem in chosen:
            problem.require_data()
    except MissingDataError as error:
        raise click.ClickException(str(error)) from None
    return chosen


scale = click.option(
    "--scale",
    default=Scale.CPU.value,
    type=click.Choice([scale.value for scale in Scale]),
    help="How large the problems are: a test, minutes on a CPU, or the papers' setting.",
)


def _folder(declaration: str, default: str, help: str) -> Callable[[_Command], _Command]:
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option(declaration, default=Path(default), type=kind, help=help)


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
