"""``python -m comparisons``: compare tuners and write the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import sys
from typing import Any

import click
import optuna

from comparisons._lock import LockedError, locked
from comparisons._provenance import available_cores
from comparisons._report import to_comparison, to_report
from comparisons._runner import StudyError, run
from comparisons._storage import Result, SettingsError, missing, open_storage, read, write
from comparisons._study import Job
from comparisons._table import formatted, summarise, to_markdown
from comparisons._tuners import TUNERS, matching
from comparisons.problems import PROBLEMS


_DATABASE = "studies.db"


def _parse_tuners(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    try:
        return matching(name.strip() for name in value.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(context_settings={"show_default": True})
@click.option(
    "--problem", default="digits", type=click.Choice(list(PROBLEMS)), help="What to tune."
)
@click.option(
    "--tuners",
    default=",".join(TUNERS),
    callback=_parse_tuners,
    help="Separated by commas; «delta-stn» stands for all its starts.",
)
@click.option("--seeds", default=1, type=click.IntRange(1), help="Studies per tuner.")
@click.option("--trials", default=30, type=click.IntRange(1), help="Trials of a sampler's study.")
@click.option(
    "--epochs", type=click.IntRange(1), help="Of a training run.  [default: the problem's]"
)
@click.option("--retrain", default=5, type=click.IntRange(1), help="Fresh seeds after each study.")
@click.option(
    "--jobs", default=min(2, available_cores()), type=click.IntRange(1), help="Worker processes."
)
@click.option(
    "--out",
    default=Path("results"),
    type=click.Path(file_okay=False, path_type=Path),
    help="Where studies and report go. Studies that are there already are not run again.",
)
@click.option("--report-only", is_flag=True, help="Make the report anew from the stored studies.")
def main(
    problem: str,
    tuners: Sequence[str],
    seeds: int,
    trials: int,
    epochs: int | None,
    retrain: int,
    jobs: int,
    out: Path,
    report_only: bool,
) -> None:
    """Compare tuners at the same objective, data, seeds and epochs; write table and report."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    database = out / _DATABASE
    if report_only:
        if not database.is_file():
            raise click.ClickException(f"There are no studies: {database} is not there.")
        _write_report(out)
        return
    settings: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    wanted = [
        Job(PROBLEMS[problem].at("cpu", **settings), tuner, seed, trials, retrain)
        for seed in range(seeds)
        for tuner in tuners
    ]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out):
            _run_missing(wanted, jobs, out)
    except SettingsError as error:
        raise click.ClickException(f"{error} Give another --out, or remove {out}.") from None
    except LockedError as error:
        raise click.ClickException(f"{error} Wait for it, or give another --out.") from None
    except StudyError as error:
        raise click.ClickException(
            f"{error}\nFinished studies are kept in {database}; "
            "the same command goes on from there."
        ) from error
    except KeyboardInterrupt:
        click.echo(
            f"\nInterrupted. Finished studies are kept in {database}; "
            "the same command goes on from there.",
            err=True,
        )
        sys.exit(130)
    _write_report(out)


def _run_missing(wanted: Sequence[Job], processes: int, out: Path) -> None:
    storage = open_storage(out / _DATABASE)
    jobs = missing(storage, wanted)
    if len(jobs) < len(wanted):
        click.echo(f"{len(wanted) - len(jobs)} of {len(wanted)} studies are in {out} already.")
    for record in run(jobs, processes):
        write(storage, record)


def _write_report(out: Path) -> None:
    results: list[Result] = read(open_storage(out / _DATABASE))
    if not results:
        raise click.ClickException(f"There is no finished study in {out / _DATABASE}.")
    summary = summarise(results)
    table = to_markdown(formatted(summary))
    summary.to_csv(out / "table.csv", index=False)
    for name, text in {
        "table.md": table,
        "report.html": to_report(results),
        "comparison.html": to_comparison(results),
    }.items():
        (out / name).write_text(text, encoding="utf-8")
    click.echo(f"\n{table}\nReport: {out / 'report.html'}")
    click.echo(f"Studies: optuna-dashboard sqlite:///{out / _DATABASE}")


if __name__ == "__main__":
    main(prog_name="python -m comparisons")
