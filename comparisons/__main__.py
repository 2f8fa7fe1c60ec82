"""``python -m comparisons``: compare tuners and write the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
import sqlite3
import sys

import click
import optuna
import torch

from comparisons._budget import Budget
from comparisons._lock import LockedError, locked
from comparisons._provenance import available_cores
from comparisons._report import write_report
from comparisons._runner import Failure, run
from comparisons._sensitivity import sensitivity
from comparisons._storage import (
    SettingsError,
    StorageError,
    missing,
    open_storage,
    read,
    write,
)
from comparisons._study import Job
from comparisons._tuner import UnusableError
from comparisons._tuners import TUNERS, matching, unknown
from comparisons.problems import PROBLEMS, MissingDataError, Problem, Scale


_DATABASE = "studies.db"

_EXAMPLES = """\
Examples:

\b
  What can be compared with what:
    python -m comparisons list

\b
  Four tuners on digits, five seeds each, two studies at a time:
    python -m comparisons run --problems digits --tuners tpe,gp,pbt,delta-stn --seeds 5

\b
  The same command again goes on where it was interrupted; with --seeds 10, or
  with other tuners or problems, it adds what is missing.

\b
  The papers' setting, for a GPU:
    python -m comparisons run --problems mnist-mlp --scale paper --device cuda \\
        --data-dir data --jobs 1 --out results-paper

\b
  The report anew, from what is stored:
    python -m comparisons report --out results
"""

_CONTEXT = {
    "show_default": True,
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}

_out = click.option(
    "--out",
    default=Path("results"),
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the studies and the report.",
)


@click.group(context_settings=_CONTEXT, epilog=_EXAMPLES)
def main() -> None:
    """Compare tuners of hyperparameters at the same objective, data, seeds and epochs.

    Each tuner searches each problem once for every seed. What it finds is selected on validation
    data, retrained plainly on fresh seeds and looked at once on test data. Costs are measured, and
    counted in plain training runs.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)


# -- list ----------------------------------------------------------------------------------------


@main.command("list")
def list_() -> None:
    """Show the problems at each scale, and the tuners."""
    click.echo("Problems (run --problems), at each scale (--scale):")
    for name, problem in PROBLEMS.items():
        needs = f"  [needs --data-dir with {', '.join(problem.files)}]" if problem.files else ""
        click.echo(f"\n  {name}{needs}")
        scales: dict[str, list[str]] = {}
        for scale in Scale:
            sized = problem.at(scale)
            text = f"{sized.description}; {sized.size.trials} runs for a sampler"
            scales.setdefault(text, []).append(scale.value)
        for text, names in scales.items():
            click.echo(click.wrap_text(f"{', '.join(names)}: {text}", 100, "    ", "      "))
    click.echo("\nTuners (run --tuners); a name before «@» stands for all its starts:\n")
    width = max(map(len, TUNERS))
    for name, tuner in TUNERS.items():
        notes = [] if tuner.is_default else ["only where named"]
        try:
            tuner.require_usable()
        except UnusableError as error:
            notes.append(str(error))
        note = f"  [{'; '.join(notes)}]" if notes else ""
        click.echo(f"  {name:<{width}}  {tuner.description}{note}")


# -- run -----------------------------------------------------------------------------------------


def _names(
    choose: Callable[[Iterable[str]], list[str]],
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], list[str]]:
    """Return a parser of names, separated by commas or given one by one."""

    def parse(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[str]:
        try:
            return choose(name.strip() for value in values for name in value.split(","))
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return parse


def _problems(names: Iterable[str]) -> list[str]:
    wanted = set(names)
    for name in wanted:
        if name not in PROBLEMS:
            raise ValueError(unknown("problem", name, PROBLEMS))
    return [name for name in PROBLEMS if name in wanted]


def _parse_budget(_: click.Context, __: click.Parameter, value: str | None) -> Budget | None:
    try:
        return None if value is None else Budget.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _parse_device(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError) as error:
        raise click.BadParameter(f"{value!r} cannot be used here: {error}") from None
    return value


@main.command("run", epilog=_EXAMPLES)
@click.option(
    "--problems",
    multiple=True,
    callback=_names(_problems),
    metavar="NAMES",
    default=[name for name, problem in PROBLEMS.items() if not problem.files],
    show_default="those that need no data files",
    help="What to tune: names separated by commas, or the option several times.",
)
@click.option(
    "--tuners",
    multiple=True,
    callback=_names(matching),
    metavar="NAMES",
    default=[],
    show_default="all but the variants that «list» marks",
    help="Who tunes, likewise; «delta-stn» stands for all its starts.",
)
@click.option("--seeds", default=1, type=click.IntRange(1), help="Studies of each tuner.")
@click.option(
    "--scale",
    default=Scale.CPU.value,
    type=click.Choice([scale.value for scale in Scale]),
    help="How large the problems are: a test, minutes on a CPU, or the papers' setting.",
)
@click.option(
    "--budget",
    callback=_parse_budget,
    show_default="the problem's",
    help="What a sampler may spend on a study: «30» plain training runs, counted in epochs, so "
    "trials cut short leave room for more; or «10min», in which trials begin. Self-tuning networks "
    "and PBT take one search, whose cost is measured.",
)
@click.option(
    "--epochs", type=click.IntRange(1), show_default="the problem's", help="Of a training run."
)
@click.option("--retrain", default=5, type=click.IntRange(1), help="Fresh seeds after each study.")
@click.option(
    "--data-dir",
    default=Path("data"),
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the data files, for problems that need some.",
)
@click.option(
    "--device", default="cpu", callback=_parse_device, help="Where networks are trained: cpu, cuda."
)
@click.option(
    "--jobs",
    default=min(2, available_cores()),
    type=click.IntRange(1),
    help="Studies at a time, each in a process with one thread.",
)
@_out
@click.option(
    "--keep-older",
    is_flag=True,
    help="Keep studies that are there, though they were run by other versions or with other "
    "settings; the report says which.",
)
def run_(
    problems: list[str],
    tuners: list[str],
    seeds: int,
    scale: str,
    budget: Budget | None,
    epochs: int | None,
    retrain: int,
    data_dir: Path,
    device: str,
    jobs: int,
    out: Path,
    keep_older: bool,
) -> None:
    """Run the studies that are not in --out yet, and write the report.

    Interrupt it whenever you like: finished studies are stored, and the same command goes on from
    there.
    """
    changes = {} if epochs is None else {"epochs": epochs}
    chosen = [
        PROBLEMS[name].at(scale, data_dir=data_dir, device=device, **changes) for name in problems
    ]
    wanted = [
        _job(problem, tuner, seed, budget, retrain)
        for problem in chosen
        for tuner in _usable(tuners, chosen)
        for seed in range(seeds)
    ]
    try:
        for problem in chosen:
            problem.require_data()
    except MissingDataError as error:
        raise click.ClickException(str(error)) from None
    failures = []
    with _told(out):
        out.mkdir(parents=True, exist_ok=True)
        with locked(out):
            failures = _run_missing(wanted, jobs, out, keep_older=keep_older)
    if failures:
        click.echo(f"\n{len(failures)} of {len(wanted)} studies failed:", err=True)
        for failure in failures:
            click.echo(f"  {failure.job.study_name}: {failure.error}", err=True)
        click.echo("The others are kept; the same command tries these again.\n", err=True)
    _report(out)
    sys.exit(1 if failures else 0)


def _job(problem: Problem, tuner: str, seed: int, budget: Budget | None, retrain: int) -> Job:
    trials = problem.size.trials
    if budget is None:
        return Job(problem, tuner, seed, trials, retrain)
    if budget.unit == "minutes":
        return Job(problem, tuner, seed, trials, retrain, minutes=budget.amount)
    return Job(problem, tuner, seed, int(budget.amount), retrain)


def _usable(tuners: list[str], problems: list[Problem]) -> list[str]:
    """Return the tuners to run: those named must be usable, of the default ones those that are."""
    usable = []
    for name in tuners or [name for name, tuner in TUNERS.items() if tuner.is_default]:
        try:
            TUNERS[name].require_usable()
            for problem in problems:
                TUNERS[name].require_usable(problem)
        except UnusableError as error:
            if tuners:
                raise click.ClickException(f"{name} cannot be used: {error}") from None
            click.echo(f"Without {name}: {error}", err=True)
        else:
            usable.append(name)
    return usable


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """Turn what can go wrong with the folder, or be interrupted, into a message."""
    kept = f"Finished studies are kept in {out / _DATABASE}; the same command goes on from there."
    try:
        yield
    except SettingsError as error:
        raise click.ClickException(
            f"{error} Give another --out, or --keep-older to keep them, or remove {out}."
        ) from None
    except LockedError as error:
        raise click.ClickException(f"{error} Wait for it, or give another --out.") from None
    except StorageError as error:
        raise click.ClickException(f"{error}\nGive another --out, or mend it. {kept}") from None
    except (OSError, sqlite3.OperationalError) as error:
        raise click.ClickException(f"{out} cannot be written: {error}\n{kept}") from None
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted. {kept}", err=True)
        sys.exit(130)


def _run_missing(
    wanted: list[Job], processes: int, out: Path, *, keep_older: bool
) -> list[Failure]:
    storage = open_storage(out / _DATABASE)
    jobs = missing(storage, wanted, keep_older=keep_older)
    if len(jobs) < len(wanted):
        click.echo(f"{len(wanted) - len(jobs)} of {len(wanted)} studies are in {out} already.")
    failures = []
    for outcome in run(jobs, processes):
        if isinstance(outcome, Failure):
            click.echo(f"\n{outcome.job.study_name} failed.\n{outcome.details}", err=True)
            failures.append(outcome)
        else:
            write(storage, outcome)
    return failures


# -- report --------------------------------------------------------------------------------------


@main.command()
@_out
def report(out: Path) -> None:
    """Write the report anew, from the stored studies alone."""
    if not (out / _DATABASE).is_file():
        raise click.ClickException(f"There are no studies: {out / _DATABASE} is not there.")
    _report(out)


def _report(out: Path) -> None:
    with _told(out):
        results = read(open_storage(out / _DATABASE))
        if not results:
            raise click.ClickException(f"There is no finished study in {out / _DATABASE}.")
        written = write_report(results, out)
        for path in written:
            if path.name == "table.md":
                click.echo(f"\n{path.read_text(encoding='utf-8')}")
    click.echo("Report: " + " ".join(str(path) for path in written if path.suffix == ".html"))
    click.echo(f"Studies: optuna-dashboard sqlite:///{out / _DATABASE}")


main.add_command(sensitivity)


if __name__ == "__main__":
    main(prog_name="python -m comparisons")
