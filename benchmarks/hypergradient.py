"""How right is the hypergradient? Δ-STN's own beside finite differences of real trainings.

    python benchmarks/hypergradient.py --problem digits
    python benchmarks/hypergradient.py --problem lstm --data-dir DATA --set "response='gated'"

Δ-STN trains a problem of the comparison with its hyperparameters held fixed at a start. Its
hypergradients, in the unconstrained space in which λ is stepped, are averaged over the second half
of each quarter of the run. Two truths stand beside them. Both are central finite differences at
λ ± δ in one hyperparameter at a time, with common random numbers (weights, batches, dropout masks):

* short horizon: from the weights that Δ-STN has at the start of a quarter, train to its end. The
  difference between Δ-STN and this truth is the error of the response.
* long horizon: train from scratch to the end of the quarter. The difference between the two truths
  is the greedy bias, the effect of hyperparameters in the past.

The loss of a training is the mean of its validation losses over the last quarter of the horizon.
For each quarter the table shows the cosine between Δ-STN's hypergradient and the truth, the ratio
of their lengths, and how many components agree in sign. With several seeds, a component of the
truth that is smaller than twice its standard error has no sign and is left out of the count.
``ridge`` adds the exact hypergradient of the converged weights, in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
import copy
from dataclasses import dataclass
import itertools
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
import warnings

from _options import settings
import click
import optuna
import pandas as pd
import torch
from torch import Tensor

from comparisons.problems import PROBLEMS, Problem, Setup
from comparisons.problems.linear import KnownLoss, LinearRegression
import optuna_dstn
from optuna_dstn.space import Space


QUARTERS = 4
EVALUATIONS = 4  # over which the validation loss of a training is averaged
TRUTHS = ("short horizon", "long horizon")


@dataclass(frozen=True)
class Case:
    """A problem, a start, a seed and the settings of Δ-STN."""

    problem: Problem
    start: str
    seed: int
    config: tuple[tuple[str, Any], ...]
    delta: float


class Snapshot(NamedTuple):
    """Weights and optimizer at the start of a quarter."""

    weights: Mapping[str, Any]
    optimizer: Mapping[str, Any]


class Hypergradients(NamedTuple):
    """What one run of Δ-STN at fixed hyperparameters gave.

    Attributes:
        names: The h hyperparameters.
        means: The mean hypergradient of each quarter, shape (4, h).
        errors: Its standard error, from batches of steps, likewise.
        snapshots: The state at the start of each quarter.
    """

    names: tuple[str, ...]
    means: Tensor
    errors: Tensor
    snapshots: list[Snapshot]


def all_batches(loader: Any, epochs: int) -> list[Any]:
    """Return the batches of all epochs of a run, in their order."""
    return [batch for _ in range(epochs) for batch in loader]


def bounds(steps: int) -> list[int]:
    """Return the steps at which quarters begin, and the last one."""
    return [round(quarter * steps / QUARTERS) for quarter in range(QUARTERS + 1)]


def tuner_of(trial: optuna.trial.BaseTrial, setup: Setup) -> optuna_dstn.Tuner:
    """Return the Tuner of a training of a problem."""
    return optuna_dstn.Tuner(
        trial,
        setup.model,
        setup.optimizer,
        setup.loss_fn,
        setup.valid_loader,
        valid_loss_fn=setup.valid_loss_fn,
        **setup.options,
    )


def hypergradients(case: Case) -> Hypergradients:
    """Train by Δ-STN at fixed hyperparameters, and note the hypergradient of each step on λ."""
    problem = case.problem
    config = optuna_dstn.TunerConfig(hyper_lr=1e-12, **dict(case.config))
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial(dict(problem.starts[case.start]))
    trial = study.ask()
    setup = problem.setup(trial, case.seed, 0)
    tuner = tuner_of(trial, setup)
    batches = all_batches(setup.train_loader, problem.size.epochs)
    starts = bounds(len(batches))
    snapshots: list[Snapshot] = []
    found: list[list[Tensor]] = [[] for _ in range(QUARTERS)]
    torch.manual_seed(case.seed)
    seen = 0
    for step, batch in enumerate(batches):
        if step in starts:
            snapshots.append(snapshot(setup.model, setup.optimizer))
        tuner.step(batch)
        training: Any = tuner._training
        if training.hyperparameter_steps > seen:
            seen = training.hyperparameter_steps
            quarter = min(step * QUARTERS // len(batches), QUARTERS - 1)
            if step < (starts[quarter] + starts[quarter + 1]) // 2:
                continue
            found[quarter].append(training.bilevel.space.raw.grad.detach().double().clone())
    names = tuple(training.bilevel.space.names)
    stacked = [
        torch.stack(steps) if steps else torch.full((2, len(names)), torch.nan) for steps in found
    ]
    means = torch.stack([steps.mean(0) for steps in stacked])
    errors = torch.stack([error_of_mean(steps) for steps in stacked])
    return Hypergradients(names, means, errors, snapshots)


def error_of_mean(steps: Tensor, blocks: int = 8) -> Tensor:
    """Return the standard error of a mean over correlated steps, shape (n, h), by block means."""
    blocks = min(blocks, len(steps))
    means = torch.stack([block.mean(0) for block in steps.tensor_split(blocks)])
    return means.std(0) / blocks**0.5


def snapshot(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Snapshot:
    """Return a copy of the state of a training."""
    return Snapshot(copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()))


def moved(case: Case, name: str, displacement: float) -> dict[str, float]:
    """Return the hyperparameters of the start, one of them moved in unconstrained space."""
    start = dict(case.problem.starts[case.start])
    trial = optuna.trial.FixedTrial(start)
    case.problem.setup(trial, case.seed, 0)
    space = Space(trial.distributions, trial.params, scale=1.0, like=torch.zeros(()).double())
    with torch.no_grad():
        space.raw[space.names.index(name)] += displacement
    return {**start, **space.current()}


def mean_validation_loss(
    case: Case,
    values: Mapping[str, float],
    first: int,
    last: int,
    begin: Snapshot | None,
    every: list[int],
) -> dict[int, float]:
    """Train plainly, and return the mean validation loss up to each of some steps.

    Args:
        case: The problem and its seed.
        values: The hyperparameters.
        first: The step to begin at.
        last: The step to end at.
        begin: Weights and optimizer to begin with; ``None`` trains from scratch.
        every: Steps for which the loss is asked: the mean over the evaluations in the last quarter
            of the way from ``first`` to each.
    """
    trial = optuna.trial.FixedTrial(dict(values))
    setup = case.problem.setup(trial, case.seed, 0)
    tuner = tuner_of(trial, setup)
    batches = all_batches(setup.train_loader, case.problem.size.epochs)
    if begin is not None:
        setup.model.load_state_dict(begin.weights)
        decays = [group.get("weight_decay") for group in setup.optimizer.param_groups]
        setup.optimizer.load_state_dict(copy.deepcopy(dict(begin.optimizer)))
        for group, decay in zip(setup.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay
    when: dict[int, list[int]] = {}
    for target in every:
        span = max(1, (target - first) // 4)
        for index in range(EVALUATIONS):
            when.setdefault(target - index * span // EVALUATIONS, []).append(target)
    losses: dict[int, list[float]] = {target: [] for target in every}
    for step in range(first, last):
        torch.default_generator.manual_seed(
            1_000_003 * case.seed + step
        )  # torch.manual_seed is slow
        tuner.step(batches[step])
        for target in when.get(step + 1, ()):
            losses[target].append(tuner.evaluate())
    return {target: sum(of) / len(of) for target, of in losses.items()}


def difference(task: tuple[Case, str, float, int, int, Snapshot | None, list[int]]) -> list[float]:
    """Return central differences of the validation loss in one hyperparameter, by target step."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    case, name, delta, first, last, begin, every = task
    high, low = (
        mean_validation_loss(case, moved(case, name, sign * delta), first, last, begin, every)
        for sign in (1, -1)
    )
    return [(high[target] - low[target]) / (2 * delta) for target in every]


def truths(case: Case, run: Hypergradients, pool: ProcessPoolExecutor) -> dict[str, Tensor]:
    """Return both truths of each quarter, shape (4, h)."""
    setup = case.problem.setup(
        optuna.trial.FixedTrial(dict(case.problem.starts[case.start])), case.seed, 0
    )
    steps = len(all_batches(setup.train_loader, case.problem.size.epochs))
    edges = bounds(steps)
    pairs = itertools.pairwise(edges)
    short = [
        (case, name, case.delta, first, last, begin, [last])
        for (first, last), begin in zip(pairs, run.snapshots, strict=False)
        for name in run.names
    ]
    long = [(case, name, case.delta, 0, steps, None, edges[1:]) for name in run.names]
    of_short = torch.tensor(list(pool.map(difference, short))).view(QUARTERS, len(run.names))
    of_long = torch.tensor(list(pool.map(difference, long))).T
    return {"short horizon": of_short.double(), "long horizon": of_long.double()}


def exact(case: Case, names: tuple[str, ...]) -> Tensor | None:
    """Return the hypergradient of converged weights in closed form, shape (h,), where known."""
    if not isinstance(case.problem, LinearRegression):
        return None
    trial = optuna.trial.FixedTrial(dict(case.problem.starts[case.start]))
    case.problem.setup(trial, case.seed, 0)
    space = Space(trial.distributions, trial.params, scale=1.0, like=torch.zeros(()).double())
    loss = KnownLoss(case.problem, 0)(space.constrain(space.raw))
    (gradient,) = torch.autograd.grad(loss, space.raw)
    order = [space.names.index(name) for name in names]
    return gradient[order]


def agreement(found: Tensor, truth: Tensor, error: Tensor | None) -> dict[str, Any]:
    """Return cosine, ratio of lengths and agreement in sign of two vectors, shape (h,)."""
    known = torch.ones_like(truth, dtype=torch.bool) if error is None else truth.abs() > 2 * error
    same = (found.sign() == truth.sign()) & known
    return {
        "cosine": float(torch.nn.functional.cosine_similarity(found, truth, dim=0)),
        "length": float(found.norm() / truth.norm()),
        "signs": f"{int(same.sum())}/{int(known.sum())}",
    }


@click.command(help=__doc__.split("\n")[0])
@click.option("--problem", "names", multiple=True, type=click.Choice(list(PROBLEMS)), required=True)
@click.option("--start", "starts", multiple=True, default=("0.05", "0.5"))
@click.option("--scale", default="cpu")
@click.option("--seeds", default=1, help="Runs of each case.")
@click.option("--delta", default=0.7, help="Of the differences; small for ridge's wide ranges.")
@click.option("--set", "config", multiple=True, callback=settings, help="A setting of TunerConfig.")
@click.option("--data-dir", type=Path, default=Path("data"))
@click.option("--truth", type=Path, help="File that keeps the truths, which no setting changes.")
@click.option("--components", is_flag=True, help="Print each component too.")
@click.option("--workers", default=2)
def main(
    names: tuple[str, ...],
    starts: tuple[str, ...],
    scale: str,
    seeds: int,
    delta: float,
    config: dict[str, Any],
    data_dir: Path,
    truth: Path | None,
    components: bool,
    workers: int,
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kept = torch.load(truth) if truth is not None and truth.is_file() else {}
    rows = []
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        for name, start in itertools.product(names, starts):
            problem = PROBLEMS[name].at(scale, data_dir=data_dir)
            cases = [
                Case(problem, start, seed, tuple(config.items()), delta) for seed in range(seeds)
            ]
            runs = list(pool.map(hypergradients, cases))
            found: dict[str, list[Tensor]] = {kind: [] for kind in TRUTHS}
            for case, run in zip(cases, runs, strict=True):
                key = f"{name}@{start} {scale} {case.seed} {delta}"
                if key not in kept:
                    kept[key] = truths(case, run, pool)
                    if truth is not None:
                        torch.save(kept, truth)
                for kind in TRUTHS:
                    found[kind].append(kept[key][kind])
            rows += list(table(cases[0], runs, found, components))
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda x: f"{x:.3g}"))


def table(
    case: Case, runs: list[Hypergradients], found: Mapping[str, list[Tensor]], components: bool
) -> Iterator[dict[str, Any]]:
    """Yield a row for each quarter and truth of one problem and start."""
    mean = torch.stack([run.means for run in runs]).mean(0)
    names = runs[0].names
    for quarter in range(QUARTERS):
        kinds = {kind: torch.stack(values)[:, quarter] for kind, values in found.items()}
        known = exact(case, names)
        if known is not None:
            kinds["exact"] = known[None]
        for kind, values in kinds.items():
            error = values.std(0) / len(values) ** 0.5 if len(values) > 1 else None
            row = {
                "problem": f"{case.problem.name}@{case.start}",
                "quarter": quarter + 1,
                "truth": kind,
                **agreement(mean[quarter], values.mean(0), error),
            }
            if components:
                row |= {
                    label: f"{own:+.4f}/{true:+.4f}"
                    for label, own, true in zip(
                        names, mean[quarter].tolist(), values.mean(0).tolist(), strict=True
                    )
                }
            yield row


if __name__ == "__main__":
    main()
