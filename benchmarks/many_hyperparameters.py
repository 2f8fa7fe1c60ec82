"""What hundreds of hyperparameters cost: a Δ-STN step with 1,000 against one with 3.

    python benchmarks/many_hyperparameters.py

The net is the same, an MLP 1000-1200-1200-10 at batch 128: it drops inputs at one rate for each
third of them (3 hyperparameters) or at a rate for each input (1,000). Blocks of both kinds of steps
are timed by turns; the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

from collections.abc import Callable
import platform

from _timing import ratio
import click
import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn


UNITS, BATCH = 1000, 128


class UnitDropout(nn.Module):
    """Drops units at rates of their own, alike in each of as many equal parts as there are rates.

    Args:
        rates: At most one for each unit.
    """

    def __init__(self, rates: list[float]) -> None:
        super().__init__()
        self.rates = rates
        self.part = torch.arange(UNITS) * len(rates) // UNITS

    def forward(self, x: Tensor) -> Tensor:
        """Return x ⊙ m / (1 − p)."""
        if not self.training:
            return x
        keep = (1 - torch.tensor(self.rates))[self.part]
        return x * (torch.rand_like(x) < keep) / keep


def make_step(hyperparameters: int) -> Callable[[], float]:
    """Return a function that takes one Δ-STN step."""
    torch.manual_seed(0)
    config = optuna_dstn.TunerConfig(warmup_steps=0)
    trial = optuna_dstn.create_study(config=config).ask()
    rates = [trial.suggest_float(f"dropout{i}", 0.0, 0.9) for i in range(hyperparameters)]
    model = nn.Sequential(
        UnitDropout(rates),
        nn.Linear(UNITS, 1200),
        nn.ReLU(),
        nn.Linear(1200, 1200),
        nn.ReLU(),
        nn.Linear(1200, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    batch = torch.rand(BATCH, UNITS), torch.randint(10, (BATCH,))
    tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [batch])
    return lambda: tuner.step(batch)


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


@click.command()
@click.option("--many", default=UNITS, show_default=True, help="Hyperparameters, up to 1000.")
@click.option("--rounds", default=15, show_default=True, help="Pairs of blocks.")
@click.option("--steps", default=10, show_default=True, help="Steps in a block; a multiple of 5.")
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
def main(many: int, rounds: int, steps: int, threads: int) -> None:
    """Print the ratio of a step with many hyperparameters to a step with three."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(threads)
    cost = ratio(make_step(3), make_step(many), rounds=rounds, steps=steps)
    print(f"torch {torch.__version__}, {platform.machine()}, {threads} thread(s)")
    print(f"3 hyperparameters: {cost.first_ms:.1f} ms a step; {many}: {cost.second_ms:.1f} ms")
    print(f"ratio {cost.middle:.2f} (quartiles {cost.low:.2f} to {cost.high:.2f})")


if __name__ == "__main__":
    main()
