"""The interface of a problem: everything that a comparison needs to know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from optuna.trial import BaseTrial
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from comparisons.problems._data import evaluation_loss
import optuna_dstn


class Scale(str, Enum):
    """How large a problem is."""

    SMOKE = "smoke"  # seconds, for a test
    CPU = "cpu"  # a plain training run takes at most about 12 seconds on one core
    PAPER = "paper"  # the papers' setting, for a GPU


@dataclass(frozen=True)
class Size:
    """The numbers that differ between the scales of a problem. Problems add their own.

    Attributes:
        train: Training examples.
        valid: Validation examples.
        test: Test examples.
        epochs: Epochs of a training run.
        trials: The budget of a sampler in plain training runs.
    """

    train: int
    valid: int
    test: int
    epochs: int
    trials: int = 30


@dataclass(frozen=True)
class Setup:
    """The arguments of :func:`optuna_dstn.fit` for one training run.

    Attributes:
        model: The network, on its device, with the trial's hyperparameters.
        optimizer: The optimizer of the network.
        loss_fn: The training loss, ``loss_fn(model, batch)``.
        train_loader: Training batches. They depend on the seed alone, not on other random numbers.
        valid_loader: Validation batches.
        test_loader: Test batches.
        valid_loss_fn: The loss on validation and test batches; ``None`` means ``loss_fn``.
        options: More keyword arguments for ``fit`` and ``Tuner``, such as ``max_grad_norm``.
    """

    model: nn.Module
    optimizer: Optimizer
    loss_fn: Callable[[nn.Module, Any], Tensor]
    train_loader: Iterable[Any]
    valid_loader: Iterable[Any]
    test_loader: Iterable[Any]
    valid_loss_fn: Callable[[nn.Module, Any], Tensor] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def test_loss(self) -> float:
        """Return the current loss of the model on all test batches."""
        loss_fn = self.loss_fn if self.valid_loss_fn is None else self.valid_loss_fn
        return evaluation_loss(self.model, loss_fn, self.test_loader)


class Trained(NamedTuple):
    """A finished training run, with its network at the evaluation of the lowest validation loss.

    Attributes:
        validation_loss: The lowest of the run's validation losses.
        test_loss: Returns the loss on test data. This is a function because only the selected run
            of a study may use test data.
    """

    validation_loss: float
    test_loss: Callable[[], float]


class MissingDataError(FileNotFoundError):
    """A data file is not in the data folder."""


@dataclass(frozen=True)
class Problem(ABC):
    """A data set, a network and a search space. Create a problem by :meth:`at`.

    A problem is a frozen dataclass, so it can be sent to a worker process.

    Attributes:
        scale: A key of :attr:`sizes`.
        size: The numbers of this scale.
        device: Where networks are trained.
        data_dir: Folder of the data files.
    """

    scale: Scale
    size: Size
    device: str = "cpu"
    data_dir: Path = Path("data")

    name: ClassVar[str]
    sizes: ClassVar[Mapping[Scale, Size]]
    starts: ClassVar[Mapping[str, Mapping[str, float]]]
    """Hyperparameters at which gradient-based tuners start, by a short label."""
    files: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Data files in :attr:`data_dir`: alternatives of one or more files, the best one first."""

    @classmethod
    def at(cls, scale: Scale | str, **changes: Any) -> Self:
        """Return the problem at a scale."""
        scale = Scale(scale)
        size = cls.sizes[scale]
        numbers = {f.name: changes.pop(f.name) for f in fields(size) if f.name in changes}
        return cls(scale, type(size)(**{**asdict(size), **numbers}), **changes)

    @property
    @abstractmethod
    def description(self) -> str:
        """Data, network and search space at this scale, for the reader of a table."""

    @property
    def reference(self) -> Mapping[str, float]:
        """The hyperparameters of the plain runs whose cost is the unit of the budget."""
        return next(iter(self.starts.values()))

    def settings(self) -> dict[str, Any]:
        """Return what two studies of this problem must share to be comparable."""
        return {
            "problem": self.name,
            "scale": self.scale.value,
            **asdict(self.size),
            "device": self.device,
            "description": self.description,
        }

    @classmethod
    def needs(cls) -> str:
        """Return the names of the data files as text."""
        return " or ".join(" + ".join(names) for names in cls.files)

    @property
    def found_files(self) -> tuple[Path, ...]:
        """The data files to read: the first complete alternative; empty if none is complete."""
        for names in self.files:
            paths = tuple(self.data_dir / name for name in names)
            if all(path.is_file() for path in paths):
                return paths
        return ()

    def require_data(self) -> None:
        """Check that the data files exist."""
        if self.files and not self.found_files:
            raise MissingDataError(
                f"{self.name} needs {self.needs()}, which {self.data_dir} does not hold. Give the "
                "folder that does: --data-dir FOLDER."
            )

    def optimum(self, split: int) -> float | None:
        """Return the lowest validation loss that any hyperparameters reach, if it is known."""
        return None

    @abstractmethod
    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        """Create a network with the trial's hyperparameters, and everything that training needs.

        Args:
            trial: Any Optuna trial: all tuners and plain retraining share this code.
            seed: Fixes initial weights, the order of the batches and all other random numbers.
            split: The seed of the study. Problems with little data divide their data anew for each
                ``split``; the division is the same for all tuners and for retraining. The other
                problems have one division.
        """

    def train(self, trial: BaseTrial, seed: int, split: int = 0) -> Trained:
        """Train one network and report the validation loss of each epoch to the trial."""
        setup = self.setup(trial, seed, split)
        best = optuna_dstn.fit(
            trial,
            setup.model,
            setup.optimizer,
            setup.loss_fn,
            setup.train_loader,
            setup.valid_loader,
            epochs=self.size.epochs,
            valid_loss_fn=setup.valid_loss_fn,
            **setup.options,
        )
        return Trained(best, setup.test_loss)
