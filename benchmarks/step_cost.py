"""What a Δ-STN step costs, as a ratio to a plain training step measured in the same run.

    python benchmarks/step_cost.py

Each round times a block of plain steps and a block of Δ-STN steps (with their share of steps on
the hyperparameters, 1 in 5) one after the other; the figure is the median of the rounds' ratios.
Absolute times mean nothing on a shared machine and are given for orientation only.
"""

from __future__ import annotations

from collections.abc import Callable
import platform
from typing import NamedTuple

from _timing import ratio
import click
import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn


class Case(NamedTuple):
    """A network with dropouts to tune, and its input."""

    make: Callable[[list[float]], nn.Module]
    dropouts: int
    input_shape: tuple[int, ...]
    batch: int


def mlp(p: list[float]) -> nn.Module:
    """MNIST MLP 784-1200-1200-10."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(p[0]),
        nn.Linear(784, 1200),
        nn.ReLU(),
        nn.Dropout(p[1]),
        nn.Linear(1200, 1200),
        nn.ReLU(),
        nn.Dropout(p[2]),
        nn.Linear(1200, 10),
    )


def simple_cnn(p: list[float]) -> nn.Module:
    """SimpleCNN: conv5 16, pool, conv5 32, pool, fc 1568-1568-10."""
    return nn.Sequential(
        nn.Dropout(p[0]),
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(p[1]),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(p[2]),
        nn.Linear(1568, 1568),
        nn.ReLU(),
        nn.Dropout(p[3]),
        nn.Linear(1568, 10),
    )


def digits_mlp(p: list[float]) -> nn.Module:
    """Digits MLP 64-256-256-10."""
    return nn.Sequential(
        nn.Dropout(p[0]),
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(p[1]),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(p[2]),
        nn.Linear(256, 10),
    )


CASES = {
    "mlp": Case(mlp, 3, (1, 28, 28), 128),
    "cnn": Case(simple_cnn, 4, (1, 28, 28), 128),
    "digits": Case(digits_mlp, 3, (64,), 64),
}


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def make_step(case: Case, study: optuna.Study, device: str) -> Callable[[], None]:
    """Return a function that takes one training step under the study."""
    torch.manual_seed(0)
    trial = study.ask()
    rates = [trial.suggest_float(f"dropout{i}", 0.0, 0.9) for i in range(case.dropouts)]
    model = case.make(rates).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x = torch.rand(case.batch, *case.input_shape, device=device)
    batch = x, torch.randint(10, (case.batch,), device=device)
    tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [batch])
    return lambda: tuner.step(batch)


@click.command()
@click.option(
    "--case", "names", multiple=True, type=click.Choice(list(CASES)), help="Default: all."
)
@click.option("--rounds", default=15, show_default=True, help="Pairs of blocks.")
@click.option("--steps", default=10, show_default=True, help="Steps in a block; a multiple of 5.")
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def main(names: tuple[str, ...], rounds: int, steps: int, threads: int, device: str) -> None:
    """Print the ratio of a Δ-STN step to a plain step."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(threads)
    config = optuna_dstn.TunerConfig(warmup_steps=0)
    print(f"torch {torch.__version__}, {platform.machine()}, {device}, {threads} thread(s)")
    print(f"{'case':8} {'plain step':>12} {'Δ-STN step':>12} {'ratio':>7} {'quartiles':>15}")
    for name in names or CASES:
        case = CASES[name]
        plain = make_step(case, optuna.create_study(), device)
        tuned = make_step(case, optuna_dstn.create_study(config=config), device)
        cost = ratio(plain, tuned, rounds=rounds, steps=steps, device=device)
        quartiles = f"{cost.low:.2f} to {cost.high:.2f}"
        print(
            f"{name:8} {cost.first_ms:9.2f} ms {cost.second_ms:9.2f} ms {cost.middle:7.2f} "
            f"{quartiles:>15}"
        )


if __name__ == "__main__":
    main()
