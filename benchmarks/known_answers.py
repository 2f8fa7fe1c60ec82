"""Does tuning by gradient find the best hyperparameters where they are known?

    python benchmarks/known_answers.py

Each problem is an ordinary Optuna objective whose validation loss, as a function of the
hyperparameters alone, is known: in closed form for linear regression, otherwise as the mean over
some seeds of plain trainings. Its best value on a fine grid is the answer. Δ-STN starts 5 % inside
either end of the range, in the range's own scale, from several seeds (initial weights, batches,
perturbations). The gap of a run is that known function at the hyperparameters on which it ended,
relative to the best of the grid, less 1; a run has found the answer if its gap is at most 10 %.
The gap of the run's own network, as last evaluated, stands beside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
import functools
import itertools
import math
from multiprocessing import get_context
import statistics
from typing import NamedTuple

import click
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import BaseTrial
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn


Batch = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Batch], Tensor]
Point = dict[str, float]

FOUND = 0.10  # the largest gap with which the answer counts as found
ENDS = {"low": 0.05, "high": 0.95}  # where tuning starts, as fractions of the ranges
DRAWS = 2  # seeds over which plain trainings are averaged
BATCH = 40


class Data(NamedTuple):
    """Training and validation data; the first axis of each tensor is the examples."""

    train: Batch
    valid: Batch


class Training(NamedTuple):
    """What an objective makes from the numbers that its trial suggests."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss


@dataclass(frozen=True)
class Problem(ABC):
    """An objective, and its validation loss as a function of the hyperparameters alone.

    Attributes:
        family: Where the hyperparameters act.
        build: Makes the training from a trial.
        data_seed: Draws the data.
        steps: Training steps of a run.
        grid_points: Of each hyperparameter; all of a stepped one if they are fewer.
    """

    family: str
    build: Callable[[BaseTrial], Training]
    data_seed: int = 0
    steps: int = 2000
    grid_points: int = 41

    @abstractmethod
    def data(self) -> Data:
        """Return the data, the same at each call."""

    @abstractmethod
    def valid_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the validation loss on a batch."""

    @abstractmethod
    def known_loss(self, point: Point) -> float:
        """Return the validation loss that training at these hyperparameters leads to."""

    def objective(self, trial: BaseTrial, seed: int) -> optuna_dstn.Tuner:
        """Train, as a user would, and return the tuner."""
        train, valid = self.data()
        torch.manual_seed(seed)
        model, optimizer, loss = self.build(trial)
        tuner = optuna_dstn.Tuner(
            trial, model, optimizer, loss, split(valid), valid_loss_fn=self.valid_loss
        )
        batches = shuffled(train, torch.Generator().manual_seed(seed))
        for step in range(1, self.steps + 1):
            tuner.step(next(batches))
            if step % 100 == 0 or step == self.steps:
                trial.report(tuner.evaluate(), step)
        return tuner

    def at(self, fraction: float) -> Point:
        """Return the point at this fraction of every range, in the range's own scale."""
        return {name: at(d, fraction) for name, d in self.distributions.items()}

    @functools.cached_property
    def distributions(self) -> Mapping[str, FloatDistribution | IntDistribution]:
        """The range of each hyperparameter, as :attr:`build` suggests it."""
        trial = optuna.create_study().ask()
        self.build(trial)
        return trial.distributions  # type: ignore[return-value]

    @functools.cached_property
    def answer(self) -> tuple[Point, float]:
        """The best point of the grid, and its known loss."""
        axes = [
            dict.fromkeys(at(d, i / (self.grid_points - 1)) for i in range(self.grid_points))
            for d in self.distributions.values()
        ]
        points = [
            dict(zip(self.distributions, values, strict=True))
            for values in itertools.product(*axes)
        ]
        losses = [self.known_loss(point) for point in points]
        best = min(range(len(points)), key=losses.__getitem__)
        return points[best], losses[best]

    def loss_of_plain_trainings(self, point: Point) -> float:
        """Return the mean validation loss of plain trainings at these hyperparameters."""
        return statistics.mean(self._plain(tuple(point.items()), seed) for seed in range(DRAWS))

    @functools.cache  # noqa: B019
    def _plain(self, items: tuple[tuple[str, float], ...], seed: int) -> float:
        return self.objective(optuna.trial.FixedTrial(dict(items)), 1000 + seed).evaluate()

    def gap(self, loss: float) -> float:
        """Return by how much a loss exceeds the best of the grid, relative to it."""
        return loss / self.answer[1] - 1


# -- linear regression: in closed form -------------------------------------------------------------

SIZES = (20, 20)  # of the two groups of features
IMPORTANCE = (0.6, 0.2)  # the size of their weights


class ByGroup(nn.Module):
    """y = Σ_g w_gᵀx_g over the groups of features, each in a layer of its own."""

    def __init__(self, disturb: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.groups = nn.ModuleList(nn.Linear(size, 1, bias=False) for size in SIZES)
        self.disturb = disturb

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.disturb is not None:
            x = self.disturb(x)
        columns = x.split(SIZES, dim=1)
        return sum(g(c) for g, c in zip(self.groups, columns, strict=True)).squeeze(1)


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.mse_loss(model(x), y)


def sgd(parameters: object, **options: object) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Regression(Problem):
    """80 noisy training examples of 40 features, half of which matter less.

    In expectation the regularisers, all but decoupled decay, add wᵀPw to the mean squared error, so
    that training ends at w = (XᵀX/N + P)⁻¹Xᵀy/N.

    Attributes:
        penalty: From hyperparameters and training features to the diagonal of P, shape (40,);
            ``None`` where there is no closed form.
    """

    penalty: Callable[[Point, Tensor], Tensor] | None = field(kw_only=True)

    def data(self) -> Data:
        generator = torch.Generator().manual_seed(self.data_seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        w = torch.cat([a * normal(size) for a, size in zip(IMPORTANCE, SIZES, strict=True)])
        x, x_valid = normal(80, len(w)), normal(400, len(w))
        return Data((x, x @ w + 1.5 * normal(80)), (x_valid, x_valid @ w + 0.3 * normal(400)))

    def valid_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return squared_error(model, batch)

    def known_loss(self, point: Point) -> float:
        if self.penalty is None:
            return self.loss_of_plain_trainings(point)
        (x, y), (x_valid, y_valid) = ((x.double(), y.double()) for x, y in self.data())
        gram = x.T @ x / len(y)
        w = torch.linalg.solve(gram + torch.diag(self.penalty(point, x)), x.T @ y / len(y))
        return float(F.mse_loss(x_valid @ w, y_valid))


def group_decay(trial: BaseTrial) -> Training:
    model = ByGroup()
    groups = [
        {
            "params": layer.parameters(),
            "weight_decay": trial.suggest_float(f"decay_{i}", 1e-4, 10.0, log=True),
        }
        for i, layer in enumerate(model.groups)
    ]
    return Training(model, sgd(groups), squared_error)


def by_group(point: Point, x: Tensor) -> Tensor:
    coefficients = zip(SIZES, point.values(), strict=True)
    return torch.cat([x.new_full((size,), h) for size, h in coefficients])


def group_l2_penalty(trial: BaseTrial) -> Training:
    h = [trial.suggest_float(f"l2_{i}", 5e-5, 5.0, log=True) for i in range(len(SIZES))]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, ByGroup)
        penalties = [
            optuna_dstn.l2_penalty(layer.parameters(), coefficient)
            for layer, coefficient in zip(model.groups, h, strict=True)
        ]
        return squared_error(model, batch) + sum(penalties)

    model = ByGroup()
    return Training(model, sgd(model.parameters()), loss)


def decoupled_decay(trial: BaseTrial) -> Training:
    model = ByGroup()
    decay = trial.suggest_float("decay", 1e-3, 10.0, log=True)
    return Training(
        model, torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=decay), squared_error
    )


def input_noise(trial: BaseTrial) -> Training:
    std = trial.suggest_float("std", 0.0, 2.0)
    model = ByGroup(lambda x: x + std * torch.randn_like(x))
    return Training(model, sgd(model.parameters()), squared_error)


def stepped_input_noise(trial: BaseTrial) -> Training:
    tenths = trial.suggest_int("tenths", 0, 20)
    model = ByGroup(lambda x: x + tenths * 0.1 * torch.randn_like(x))
    return Training(model, sgd(model.parameters()), squared_error)


def input_dropout(trial: BaseTrial) -> Training:
    rate = trial.suggest_float("rate", 0.0, 0.8)
    model = ByGroup(lambda x: F.dropout(x, rate))
    return Training(model, sgd(model.parameters()), squared_error)


@dataclass(frozen=True)
class Mixture(Problem):
    """40 training examples like the validation data, and 120 of which the weights are others.

    Weights a_i on the examples lead to w = (XᵀAX)⁻¹XᵀAy.
    """

    def data(self) -> Data:
        generator = torch.Generator().manual_seed(self.data_seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        w = normal(20)
        biased = w + 0.5 * normal(20)

        def sample(count: int, w: Tensor, noise: float) -> Batch:
            x = normal(count, len(w))
            return x, x @ w + noise * normal(count)

        sources = zip(sample(40, w, 2.0), sample(120, biased, 2.0), strict=True)
        is_biased = torch.arange(160) >= 40
        return Data((*map(torch.cat, sources), is_biased.float()), sample(400, w, 0.3))

    def valid_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.mse_loss(model(x).squeeze(1), y)

    def known_loss(self, point: Point) -> float:
        (x, y, is_biased), (x_valid, y_valid) = ([t.double() for t in part] for part in self.data())
        root = source_weights(point["weight"], is_biased).sqrt()
        w = torch.linalg.lstsq(root[:, None] * x, root * y).solution
        return float(F.mse_loss(x_valid @ w, y_valid))


def source_weights(weight: float, is_biased: Tensor) -> Tensor:
    return 1 + (weight - 1) * is_biased


def source_weight(trial: BaseTrial) -> Training:
    weight = trial.suggest_float("weight", 1e-3, 10.0, log=True)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y, is_biased = batch
        return source_weights(weight, is_biased) * (model(x).squeeze(1) - y).square()

    model = nn.Linear(20, 1, bias=False)
    return Training(model, sgd(model.parameters()), loss)


# -- classification with noisy labels: by plain trainings ------------------------------------------

CLASSES = 5


@dataclass(frozen=True)
class NoisyLabels(Problem):
    """Clusters well apart, whose labels are drawn anew at known rates.

    Attributes:
        train_noise: The share of training labels that are drawn anew, from all classes.
        valid_noise: The share of validation labels.
        examples: Training examples.
        spread: Of the clusters' centres; each cluster has standard deviation 1.
    """

    train_noise: float = field(kw_only=True)
    valid_noise: float = field(kw_only=True)
    examples: int = 500
    features: int = 10
    spread: float = 3.0

    def data(self) -> Data:
        generator = torch.Generator().manual_seed(self.data_seed)
        centres = self.spread * torch.randn(CLASSES, self.features, generator=generator)

        def sample(count: int, noise: float) -> Batch:
            y = torch.randint(CLASSES, (count,), generator=generator)
            x = centres[y] + torch.randn(count, self.features, generator=generator)
            anew = torch.rand(count, generator=generator) < noise
            return x, torch.where(anew, torch.randint(CLASSES, (count,), generator=generator), y)

        return Data(sample(self.examples, self.train_noise), sample(500, self.valid_noise))

    def valid_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def known_loss(self, point: Point) -> float:
        return self.loss_of_plain_trainings(point)


def linear_classifier(features: int = 10) -> nn.Module:
    return nn.Linear(features, CLASSES)


def label_smoothing(trial: BaseTrial) -> Training:
    smoothing = trial.suggest_float("smoothing", 0.0, 0.9)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y, label_smoothing=smoothing)

    model = linear_classifier()
    return Training(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), loss)


def temperature(trial: BaseTrial) -> Training:
    value = trial.suggest_float("temperature", 0.25, 4.0, log=True)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x) / value, y)

    model = linear_classifier()
    return Training(model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), loss)


PROBLEMS: dict[str, Problem] = {
    "ridge": Regression(
        "weight decay",
        group_decay,
        data_seed=1,
        steps=3000,
        # The optimizer's decay is the gradient of half the square.
        penalty=lambda h, x: by_group(h, x) / 2,
    ),
    "ridge in the loss": Regression(
        "penalties", group_l2_penalty, data_seed=1, steps=3000, penalty=by_group
    ),
    "decoupled decay": Regression(
        "weight decay", decoupled_decay, data_seed=1, grid_points=17, penalty=None
    ),
    "input noise": Regression(
        "noise", input_noise, data_seed=1, penalty=lambda h, x: x.new_full((40,), h["std"] ** 2)
    ),
    "input noise in steps": Regression(
        "integers",
        stepped_input_noise,
        data_seed=1,
        penalty=lambda h, x: x.new_full((40,), (h["tenths"] / 10) ** 2),
    ),
    "input dropout": Regression(
        "dropout",
        input_dropout,
        data_seed=1,
        penalty=lambda h, x: h["rate"] / (1 - h["rate"]) * x.square().mean(0),
    ),
    "label smoothing": NoisyLabels(
        "losses", label_smoothing, train_noise=0.0, valid_noise=0.4, grid_points=19
    ),
    "weight of a biased source": Mixture("losses", source_weight, data_seed=0),
    "temperature": NoisyLabels(
        "losses", temperature, train_noise=0.4, valid_noise=0.4, grid_points=21
    ),
}


# -- runs ------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Where one Δ-STN run ended.

    Attributes:
        values: The hyperparameters after the last step.
        gap: Of these.
        reported_gap: Of ``study.best_params``, the hyperparameters of the run's best evaluation.
        own_gap: Of the run's own network, after the last step.
    """

    values: tuple[float, ...]
    gap: float
    reported_gap: float
    own_gap: float


def run(name: str, end: str, seed: int, config: optuna_dstn.TunerConfig) -> Run:
    """Tune by gradient from one end of the ranges; a run that diverges has found nothing."""
    problem = PROBLEMS[name]
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial(problem.at(ENDS[end]))
    trial = study.ask()
    try:
        tuner = problem.objective(trial, seed)
        own = tuner.evaluate()
    except optuna_dstn.TrainingDivergedError:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return Run((math.nan,) * len(problem.distributions), math.inf, math.inf, math.inf)
    study.tell(trial, tuner.best_value)
    return Run(
        tuple(tuner.hyperparameters.values()),
        problem.gap(problem.known_loss(tuner.hyperparameters)),
        problem.gap(problem.known_loss(study.best_params)),
        problem.gap(own),
    )


def quiet() -> None:
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def text(values: Iterable[float]) -> str:
    return "/".join(f"{v:.2g}" for v in values)


def row(end: str, runs: Sequence[Run]) -> str:
    """Return the line of one end: seeds that found the answer, gaps, and where they ended."""
    found = sum(r.gap <= FOUND for r in runs)
    gaps = [r.gap for r in runs]
    reported = sum(r.reported_gap <= FOUND for r in runs)
    own = statistics.median(r.own_gap for r in runs)
    ended = list(zip(*(r.values for r in runs), strict=True))
    middle, least, most = (
        text(f(column) for column in ended) for f in (statistics.median, min, max)
    )
    return (
        f"  from {end:4} {found:3}/{len(runs)}  gap {statistics.median(gaps):6.1%}, worst "
        f"{max(gaps):6.1%}; reported {reported:2}/{len(runs)}; own network {own:6.1%}; ended at "
        f"{middle} ({least} to {most})"
    )


@click.command()
@click.option(
    "--problem", "names", multiple=True, type=click.Choice(list(PROBLEMS)), help="Default: all."
)
@click.option("--seeds", default=10, show_default=True, help="Runs from each end.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of TunerConfig."
)
@click.option("--quick", is_flag=True, help="A few steps and a coarse grid: does it run at all?")
def main(
    names: tuple[str, ...], seeds: int, jobs: int, settings: tuple[str, ...], quick: bool
) -> None:
    """Print how many runs end within 10 % of the best validation loss of a fine grid."""
    quiet()
    pairs = (setting.split("=", 1) for setting in settings)
    config = optuna_dstn.TunerConfig(**{name: ast.literal_eval(value) for name, value in pairs})
    if quick:
        config, seeds = replace(config, warmup_steps=0), 1
        for name, problem in PROBLEMS.items():
            PROBLEMS[name] = replace(problem, steps=12, grid_points=3)
    print(config)
    for name in names or PROBLEMS:
        problem = PROBLEMS[name]
        point, loss = problem.answer
        at_ends = " and ".join(
            f"{problem.gap(problem.known_loss(problem.at(f))):.0%}" for f in ENDS.values()
        )
        print(
            f"{problem.family}: {name}, {problem.steps} steps; best {text(point.values())}, "
            f"loss {loss:.4g}; gap at the starts {at_ends}"
        )
        # Forked now, the processes know the answer.
        with ProcessPoolExecutor(jobs, get_context("fork"), quiet) as pool:
            for end in ENDS:
                futures = [pool.submit(run, name, end, seed, config) for seed in range(seeds)]
                print(row(end, [future.result() for future in futures]), flush=True)


# -- helpers ---------------------------------------------------------------------------------------


def split(data: Batch) -> list[Batch]:
    return list(zip(*(tensor.split(BATCH) for tensor in data), strict=True))


def shuffled(data: Batch, generator: torch.Generator) -> Iterator[Batch]:
    while True:
        for indices in torch.randperm(len(data[0]), generator=generator).split(BATCH):
            yield tuple(tensor[indices] for tensor in data)


def at(distribution: FloatDistribution | IntDistribution, fraction: float) -> float:
    """Return the value at this fraction of a range, in its own scale and on its grid."""
    low, high = distribution.low, distribution.high
    if distribution.log:
        return low ** (1 - fraction) * high**fraction
    value = low + fraction * (high - low)
    if distribution.step:
        value = low + distribution.step * round((value - low) / distribution.step)
    return value


if __name__ == "__main__":
    main()
