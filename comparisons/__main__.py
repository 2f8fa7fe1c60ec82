"""``python -m comparisons``: compare tuners and write the report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
import sys

import click
import optuna
import torch

from comparisons import _equal_cost, _options, _sensitivity
from comparisons._report import SENSITIVITY_RUNS, write_report, write_sensitivity
from comparisons._results import STUDIES, missing, read_studies, write
from comparisons._session import Session
from comparisons._study import Job, run_study
from comparisons._tuner import UnusableError
from comparisons._tuners import TUNERS, matching
from comparisons.problems import PROBLEMS, Problem, Scale


_EXAMPLES = {
    "list": """\
\b
  The problems and the tuners:
    python -m comparisons list

\b
  One problem and two tuners, as small as can be, to see it work:
    python -m comparisons run --problems digits --tuners tpe,delta-stn --scale smoke \\
        --out results-smoke""",
    "run": """\
\b
  Four tuners on digits, five seeds each, two studies at a time:
    python -m comparisons run --problems digits --tuners tpe,gp,pbt,delta-stn --seeds 5

\b
  The same command again goes on where it was interrupted; with --seeds 10, or
  with other tuners or problems, it adds what is missing.

\b
  The papers' setting, for a GPU:
    python -m comparisons run --problems mnist-mlp --scale paper --device cuda \\
        --data-dir data --jobs 1 --out results-paper""",
    "sensitivity": """\
\b
  Whether it matters where self-tuning starts on digits, one seed a cell:
    python -m comparisons sensitivity --problems digits --seeds 1

\b
  The same command again goes on where it was interrupted; with --seeds 3 it
  adds what is missing. With the --out of studies, their report shows it too:
    python -m comparisons sensitivity --problems digits --seeds 3 --out results
    python -m comparisons report --out results""",
    "retrain": """\
\b
  What the searches had found at the cost of Δ-STN, retrained for the report:
    python -m comparisons retrain --out results""",
    "report": """\
\b
  The report anew, from what is stored:
    python -m comparisons report --out results""",
}


def _epilog(*commands: str) -> str:
    return "\n\n".join(["Examples:", *(_EXAMPLES[name] for name in commands)])


_CONTEXT = {
    "show_default": True,
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}


@click.group(context_settings=_CONTEXT, epilog=_epilog(*_EXAMPLES))
def main() -> None:
    """Compare tuners of hyperparameters at the same objective, data, seeds and epochs.

    Each tuner searches each problem once for every seed. What it finds is selected on validation
    data, retrained plainly on fresh seeds and looked at once on test data. Costs are measured, and
    counted in plain training runs.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)  # several threads for such small matrices only wait for each other


# -- list ----------------------------------------------------------------------------------------


@main.command("list", epilog=_epilog("list"))
def list_() -> None:
    """Show the problems at each scale, and the tuners.

    The names are those that --problems and --tuners of the other commands take. Brackets say which
    data files a problem needs, and what a tuner lacks here.
    """
    click.echo("Problems (run --problems), at each scale (--scale):")
    for name, problem in PROBLEMS.items():
        needs = f"  [needs --data-dir with {problem.needs()}]" if problem.files else ""
        click.echo("\n" + click.wrap_text(f"{name}{needs}", 100, "  ", "      "))
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


def _parse_device(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError) as error:
        raise click.BadParameter(f"{value!r} cannot be used here: {error}") from None
    return value


@main.command("run", epilog=_epilog("list", "run"))
@_options.problems(
    (name for name, problem in PROBLEMS.items() if not problem.files),
    show_default="those that need no data files",
)
@_options.names(
    matching,
    "--tuners",
    default=[],
    show_default="all but the variants that «list» marks",
    help="The tuners, given in the same way; «delta-stn» stands for all its starts.",
)
@click.option("--seeds", default=1, type=click.IntRange(1), help="Studies of each tuner.")
@_options.scale
@click.option(
    "--budget",
    type=click.IntRange(1),
    show_default="the problem's",
    help="What a sampler may spend on a study: plain training runs, counted in epochs. Self-tuning "
    "networks and PBT take one search, whose cost is measured.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    show_default="the problem's",
    help="Epochs of a training run.",
)
@click.option("--retrain", default=5, type=click.IntRange(1), help="Fresh seeds after each study.")
@_options.data_dir
@click.option(
    "--device", default="cpu", callback=_parse_device, help="Where networks are trained: cpu, cuda."
)
@_options.jobs
@_options.out
@_options.keep_older
def run_(
    problems: list[str],
    tuners: list[str],
    seeds: int,
    scale: str,
    budget: int | None,
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
    chosen = _options.sized(problems, scale, data_dir, device=device, **changes)
    usable = _usable(tuners, chosen)
    wanted = [
        Job(problem, tuner, seed, budget or problem.size.trials, retrain)
        for problem in chosen
        for tuner in usable
        for seed in range(seeds)
    ]
    studies = Session(out / STUDIES, "studies")
    with studies.locked():
        lacking = missing(out, wanted, keep_older=keep_older)
        succeeded = studies.run(lacking, wanted, run_study, partial(write, out), jobs)
    _report(studies)
    sys.exit(not succeeded)


def _usable(tuners: list[str], problems: list[Problem]) -> list[str]:
    """Return the tuners to run: the named ones, or the default ones that are usable."""
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


# -- sensitivity ---------------------------------------------------------------------------------


@main.command(epilog=_epilog("sensitivity"))
@_options.problems(["digits", "mnist-mlp"])
@click.option("--seeds", default=3, type=click.IntRange(1), help="Runs of each cell.")
@_options.scale
@_options.data_dir
@_options.jobs
@_options.out
@_options.keep_older
def sensitivity(
    problems: list[str],
    seeds: int,
    scale: str,
    data_dir: Path,
    jobs: int,
    out: Path,
    keep_older: bool,
) -> None:
    """Run each self-tuning method from several starts and scales; write heat maps.

    A cell is a start and σ0, the first scale of the perturbation. Interrupt it whenever you like:
    finished runs are stored, and the same command goes on from there.
    """
    chosen = _options.sized(problems, scale, data_dir)
    wanted = [run for problem in chosen for run in _sensitivity.grid(problem, seeds)]
    runs = Session(out / SENSITIVITY_RUNS, "runs")
    with runs.locked():
        lacking = _sensitivity.missing(runs.file, wanted, keep_older=keep_older)
        append = partial(_sensitivity.append, runs.file)
        succeeded = runs.run(lacking, wanted, _sensitivity.train, append, jobs)
        if runs.file.is_file():
            for written in write_sensitivity(out):
                click.echo(written)
    sys.exit(not succeeded)


# -- retrain -------------------------------------------------------------------------------------


@main.command("retrain", epilog=_epilog("retrain"))
@_options.data_dir
@_options.jobs
@_options.out
def retrain_(data_dir: Path, jobs: int, out: Path) -> None:
    """Retrain what TPE and random search had found at the cost of Δ-STN; write the report.

    Finished points are stored, and the same command goes on from there.
    """
    points = Session(out / _equal_cost.RETRAINED, "points")
    with points.locked():
        lacking = _equal_cost.missing_points(read_studies(out), out, data_dir)
        append = partial(_equal_cost.append, points.file)
        succeeded = points.run(lacking, lacking, _equal_cost.train, append, jobs)
    _report(Session(out / STUDIES, "studies"))
    sys.exit(not succeeded)


# -- report --------------------------------------------------------------------------------------


@main.command(epilog=_epilog("report"))
@_options.out
def report(out: Path) -> None:
    """Write the report anew, from the stored studies alone."""
    studies = Session(out / STUDIES, "studies")
    if not studies.file.is_file():
        raise click.ClickException(f"There are no studies: {studies.file} is not there.")
    _report(studies)


def _report(studies: Session) -> None:
    folder = studies.file.parent
    with studies.errors_explained():
        stored = read_studies(folder)
        if stored.empty:
            raise click.ClickException(f"There is no finished study in {studies.file}.")
        written = write_report(stored, folder)
        for path in written:
            if path.name == "table.md":
                click.echo(f"\n{path.read_text(encoding='utf-8')}")
    click.echo(f"Report: {written[0]}")
    click.echo(f"Studies: {studies.file}; their trials: {folder / 'trials'}")


if __name__ == "__main__":
    main(prog_name="python -m comparisons")
