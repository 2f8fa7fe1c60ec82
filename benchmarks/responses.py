"""Which response is worth its cost? Quality and cost of each, over problems, starts and seeds.

    python benchmarks/responses.py --data-dir DATA

A run is one training under Δ-STN. Beside its validation loss stand the test loss of its own network
and that of a network retrained plainly, on another seed, at the hyperparameters that it found; the
retraining is also the unit of its cost, measured in the same process right after. Every response
sees the same initial weights and batches. MNIST (``mnist.npz``) and WikiText-2
(``wikitext2_part/*.txt``) are read from the data folder; digits need no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
import functools
import itertools
from multiprocessing import get_context
from pathlib import Path
import time
from typing import Any, NamedTuple

import click
import numpy as np
import optuna
from optuna.trial import BaseTrial, FixedTrial
import pandas as pd
from sklearn.datasets import load_digits
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import TunerConfig


Batch = tuple[Tensor, Tensor]

VARIANTS = {
    "structured": TunerConfig(response="structured"),
    "gated": TunerConfig(response="gated"),
    "structured, half": TunerConfig(response="structured", response_fraction=0.5),
    "gated, half": TunerConfig(response="gated", response_fraction=0.5),
}
STARTS = (0.05, 0.5)


class Parts(NamedTuple):
    """Training, validation and test examples; the first axis of each tensor is the examples."""

    train: Batch
    valid: Batch
    test: Batch


class Problem(NamedTuple):
    """A network with dropout rates to tune.

    Attributes:
        parts: Reads the data from a folder.
        make: The network, from a function that suggests a dropout rate by name.
        optimizer: Makes its optimizer from its parameters.
        batch: Examples in a batch.
        epochs: Passes over the training examples.
    """

    parts: Callable[[Path], Parts]
    make: Callable[[Callable[[str], float]], nn.Module]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batch: int
    epochs: int


# -- data ----------------------------------------------------------------------------------------


def cut(x: Tensor, y: Tensor, *sizes: int) -> Parts:
    """Return the first examples for training, the next for validation, the next for the test."""
    return Parts(*itertools.islice(zip(x.split(sizes), y.split(sizes), strict=True), 3))


@functools.cache
def digits(_: Path) -> Parts:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, y = torch.as_tensor(images, dtype=torch.float32) / 16, torch.as_tensor(labels)
    return cut(x[order], y[order], 900, 450, len(labels) - 1350)


@functools.cache
def mnist(folder: Path) -> Parts:
    with np.load(required(folder / "mnist.npz")) as file:
        images, labels = file["x_train"][:10000], file["y_train"][:10000]
    x = torch.as_tensor(images, dtype=torch.float32)[:, None] / 255
    return cut(x, torch.as_tensor(labels).long(), 3000, 2000, 5000)


WORDS, LENGTH = 1000, 20


@functools.cache
def text(folder: Path) -> Parts:
    """Windows of 20 words and the word after each, the 1,000 most frequent words told apart."""
    streams = []
    number: dict[str, int] = {}
    for part, windows in ("train", 1500), ("valid", 500), ("test", 1000):
        words = required(folder / "wikitext2_part" / f"{part}.txt").read_text().split()
        if not number:
            frequent = Counter(words).most_common(WORDS - 1)
            number = {word: index for index, (word, _) in enumerate(frequent, start=1)}
        stream = torch.tensor([number.get(w, 0) for w in words[: windows * LENGTH + 1]])
        streams.append((stream[:-1].view(-1, LENGTH), stream[1:].view(-1, LENGTH)))
    return Parts(*streams)


def required(path: Path) -> Path:
    if not path.exists():
        raise click.ClickException(f"There is no {path}: give the folder that has it, --data-dir.")
    return path


# -- networks ------------------------------------------------------------------------------------


def digits_mlp(rate: Callable[[str], float]) -> nn.Module:
    return nn.Sequential(
        nn.Dropout(rate("input")),
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(rate("hidden_1")),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(rate("hidden_2")),
        nn.Linear(256, 10),
    )


def mnist_mlp(rate: Callable[[str], float]) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(rate("input")),
        nn.Linear(784, 600),
        nn.ReLU(),
        nn.Dropout(rate("hidden_1")),
        nn.Linear(600, 600),
        nn.ReLU(),
        nn.Dropout(rate("hidden_2")),
        nn.Linear(600, 10),
    )


def mnist_cnn(rate: Callable[[str], float]) -> nn.Module:
    return nn.Sequential(
        nn.Dropout(rate("input")),
        nn.Conv2d(1, 8, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(rate("conv")),
        nn.Conv2d(8, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(rate("hidden_1")),
        nn.Linear(784, 400),
        nn.ReLU(),
        nn.Dropout(rate("hidden_2")),
        nn.Linear(400, 10),
    )


class WordLSTM(nn.Module):
    """Two LSTM layers of 64 units over embedded words; the embedding is the output layer too."""

    def __init__(self, rate: Callable[[str], float]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 64)
        self.input, self.hidden = nn.Dropout(rate("input")), nn.Dropout(rate("hidden"))
        self.output = nn.Dropout(rate("output"))
        self.first = nn.LSTM(64, 64, batch_first=True)
        self.second = nn.LSTM(64, 64, batch_first=True)
        self.words = nn.Linear(64, WORDS)
        self.words.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, words: Tensor) -> Tensor:
        hidden, _ = self.first(self.input(self.embedding(words)))
        hidden, _ = self.second(self.hidden(hidden))
        logits: Tensor = self.words(self.output(hidden))
        return logits.transpose(1, 2)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=3e-3)


PROBLEMS = {
    "digits": Problem(digits, digits_mlp, sgd, batch=64, epochs=100),
    "mnist-mlp": Problem(mnist, mnist_mlp, sgd, batch=100, epochs=30),
    "mnist-cnn": Problem(mnist, mnist_cnn, sgd, batch=100, epochs=25),
    "lstm": Problem(text, WordLSTM, adam, batch=20, epochs=15),
}


# -- runs ----------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What one run is.

    Attributes:
        start: Of every dropout rate.
    """

    problem: str
    variant: str
    start: float
    seed: int
    folder: Path


class Trained(NamedTuple):
    """A trained network's losses, and the CPU seconds that training and evaluation took."""

    valid: float
    test: float
    seconds: float


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def train(problem: Problem, trial: BaseTrial, seed: int, folder: Path) -> Trained:
    """Train one network as the trial suggests; it ends with its best evaluation's weights."""
    parts = problem.parts(folder)
    start = time.process_time()
    torch.manual_seed(seed)
    model = problem.make(lambda name: trial.suggest_float(name, 0.0, 0.9))
    valid = optuna_dstn.fit(
        trial,
        model,
        problem.optimizer(model.parameters()),
        loss_fn,
        Shuffled(parts.train, problem.batch, seed),
        list(zip(*(t.split(problem.batch) for t in parts.valid), strict=True)),
        epochs=problem.epochs,
    )
    seconds = time.process_time() - start
    model.eval()
    with torch.no_grad():
        test = loss_fn(model, parts.test).item()
    return Trained(valid, test, seconds)


class Shuffled:
    """Batches in an order that depends on the seed alone."""

    def __init__(self, data: Batch, size: int, seed: int) -> None:
        self._data, self._size = data, size
        self._generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterable[Batch]:
        order = torch.randperm(len(self._data[0]), generator=self._generator)
        for indices in order.split(self._size):
            yield self._data[0][indices], self._data[1][indices]


def measure(run: Run) -> dict[str, Any]:
    """Tune once, retrain once at what was found, and return a row of the table of runs."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = PROBLEMS[run.problem]
    study = optuna_dstn.create_study(config=VARIANTS[run.variant])
    names: list[str] = []
    problem.make(lambda name: names.append(name) or 0.0)  # type: ignore[func-returns-value]
    study.enqueue_trial(dict.fromkeys(names, run.start))
    tuned: list[Trained] = []

    def objective(trial: BaseTrial) -> float:
        tuned.append(train(problem, trial, run.seed, run.folder))
        return tuned[0].valid

    row = {**run._asdict(), "valid": float("nan")}
    del row["folder"]
    study.optimize(objective, n_trials=1, catch=(optuna_dstn.TrainingDivergedError,))
    if tuned:
        plain = train(problem, FixedTrial(study.best_params), 1000 + run.seed, run.folder)
        row |= {
            "valid": tuned[0].valid,
            "own test": tuned[0].test,
            "retrained test": plain.test,
            "cost": tuned[0].seconds / plain.seconds,
            **{f"rate {name}": value for name, value in study.best_params.items()},
        }
    return row


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each figure over the runs, ± the standard deviation."""
    figures = ["valid", "own test", "retrained test", "cost"]
    groups = rows.groupby(["problem", "variant"], sort=False)
    result = pd.DataFrame(
        {
            figure: groups[figure].mean().map("{:.4f}".format)
            + " ± "
            + groups[figure].std().map("{:.4f}".format)
            for figure in figures[:3]
        }
    )
    result["plain runs"] = groups["cost"].median().map("{:.2f}".format)
    result["diverged"] = groups["valid"].apply(lambda v: int(v.isna().sum()))
    return result


@click.command()
@click.option(
    "--problem", "problems", multiple=True, type=click.Choice(list(PROBLEMS)), help="Default: all."
)
@click.option(
    "--variant", "variants", multiple=True, type=click.Choice(list(VARIANTS)), help="Default: all."
)
@click.option("--seeds", default=5, show_default=True, help="Seeds for each start.")
@click.option("--jobs", default=2, show_default=True, help="Processes, one thread each.")
@click.option("--data-dir", default=Path("data"), type=click.Path(path_type=Path))
@click.option("--csv", type=click.Path(path_type=Path), help="Where to keep every run.")
def main(
    problems: tuple[str, ...],
    variants: tuple[str, ...],
    seeds: int,
    jobs: int,
    data_dir: Path,
    csv: Path | None,
) -> None:
    """Print the table of responses."""
    chosen = itertools.product(problems or PROBLEMS, range(seeds), STARTS, variants or VARIANTS)
    runs = [Run(p, v, start, seed, data_dir) for p, seed, start, v in chosen]
    for run in runs:
        PROBLEMS[run.problem].parts(data_dir)  # a missing file shows before anything is trained
    rows = []
    with ProcessPoolExecutor(jobs, get_context("spawn")) as executor:
        for row in executor.map(measure, runs):
            rows.append(row)
            if csv is not None:
                pd.DataFrame(rows).to_csv(csv, index=False)
            click.echo(
                " ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
            )
    order = [(p, v) for p in PROBLEMS for v in VARIANTS]
    result = table(pd.DataFrame(rows))
    click.echo(result.loc[[key for key in order if key in result.index]].to_string())


if __name__ == "__main__":
    main()
