"""What a Δ-STN step costs, as a ratio to a plain training step measured in the same run.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --case mlp --response structured,gated
    python benchmarks/step_cost.py --case bert --case llama --case convnext --case swin --case unet

Each round times a block of plain steps and a block of Δ-STN steps (with their share of steps on
the hyperparameters, 1 in 5) one after the other; the figure is the median of the rounds' ratios.
Absolute times mean nothing on a shared machine and are given for orientation only. The last columns
compare the peaks of the memory that training needs, see ``_memory.py``. ``profile_step.py`` splits
the step of a case into weights, response, hyperparameters and Python.
"""

from __future__ import annotations

import math
import platform

from _cases import CASES, cycle, start
from _memory import peak_bytes
from _timing import ratio
import click
import optuna
import torch

import optuna_dstn


_COLUMNS = (
    ("case", 16),
    ("response", 10),
    ("plain step", 12),
    ("Δ-STN step", 12),
    ("ratio", 5),
    ("quartiles", 12),
    ("plain peak", 10),
    ("Δ-STN peak", 10),
    ("ratio", 5),
)


def listed(_: click.Context, __: click.Parameter, text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def row(cells: list[str]) -> str:
    padded = [
        cell.ljust(width) if index < 2 else cell.rjust(width)
        for index, (cell, (_, width)) in enumerate(zip(cells, _COLUMNS, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def ruling() -> str:
    return row(["-" * (width - (i > 1)) + ":" * (i > 1) for i, (_, width) in enumerate(_COLUMNS)])


@click.command()
@click.option(
    "--case", "names", multiple=True, type=click.Choice(list(CASES)), help="Default: all."
)
@click.option(
    "--response",
    "responses",
    default="structured",
    show_default=True,
    callback=listed,
    help="One or more, with commas between.",
)
@click.option(
    "--response-interval",
    default=optuna_dstn.TunerConfig().response_interval,
    show_default=True,
    help="Steps for each on Θ.",
)
@click.option("--response-fraction", default=1.0, show_default=True, help="Of a batch, for Θ.")
@click.option("--rounds", default=15, show_default=True, help="Pairs of blocks.")
@click.option(
    "--steps",
    default=10,
    show_default=True,
    help="Steps in a block; made a multiple of those in which every kind of step has its share.",
)
@click.option("--batch", type=int, help="Examples in a batch. Default: each case's own.")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure it too.")
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def main(
    names: tuple[str, ...],
    responses: list[str],
    response_interval: int,
    response_fraction: float,
    rounds: int,
    steps: int,
    batch: int | None,
    memory: bool,
    threads: int,
    device: str,
) -> None:
    """Print the ratios of a Δ-STN step to a plain step, as a Markdown table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {device}, {threads} thread(s)\n")
    print(row([name for name, _ in _COLUMNS]))
    print(ruling())
    for name in names or CASES:
        case = CASES[name]
        for response in responses:
            config = optuna_dstn.TunerConfig(
                response=response,
                response_interval=response_interval,
                response_fraction=response_fraction,
                warmup_steps=0,
            )

            def plain():
                return start(case, optuna.create_study(), device, batch).step  # noqa: B023

            def tuned():
                study = optuna_dstn.create_study(config=config)  # noqa: B023
                return start(case, study, device, batch).step  # noqa: B023

            whole = math.ceil(steps / cycle(config)) * cycle(config)
            cost = ratio(plain(), tuned(), rounds=rounds, steps=whole, device=device)
            cells = [
                f"{name}, {batch or case.examples}",
                response,
                f"{cost.first_ms:.2f} ms",
                f"{cost.second_ms:.2f} ms",
                f"{cost.middle:.2f}",
                f"{cost.low:.2f} to {cost.high:.2f}",
                *[""] * 3,
            ]
            if memory:
                peaks = [
                    peak_bytes(make, steps=cycle(config), device=device) for make in (plain, tuned)
                ]
                cells[-3:] = [f"{p / 2**20:.1f} MiB" for p in peaks]
                cells.append(f"{peaks[1] / peaks[0]:.2f}")
            print(row(cells), flush=True)


if __name__ == "__main__":
    main()
