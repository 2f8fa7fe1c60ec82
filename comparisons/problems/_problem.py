"""What the comparison must know of a problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """The numbers in which the scales of a problem differ; problems add their own.

    Attributes:
        train: Training examples.
        valid: Validation examples.
        test: Test examples.
        epochs: Of a training run.
        trials: The budget of a sampler, in plain training runs.
    """

    train: int
    valid: int
    test: int
    epochs: int
    trials: int = 30


@dataclass(frozen=True)
class Setup:
    """All that a training run needs, in the terms of :func:`optuna_dstn.fit`.

    Attributes:
        model: The network, on its device, with the trial's hyperparameters.
        optimizer: Its optimizer.
        loss_fn: ``loss_fn(model, batch)``: the training loss.
        train_loader: Training batches, the same for the same seed, whatever else draws numbers.
        valid_loader: Validation batches.
        test_loader: Test batches.
        valid_loss_fn: The loss on validation and test batches; ``None`` takes ``loss_fn``.
        options: Further keywords of ``fit`` and ``Tuner``, such as ``max_grad_norm``.
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
        """Return the loss of the model as it is now on all test batches."""
        loss_fn = self.loss_fn if self.valid_loss_fn is None else self.valid_loss_fn
        return evaluation_loss(self.model, loss_fn, self.test_loader)


class Trained(NamedTuple):
    """A finished training run, its network at the evaluation with the best validation loss.

    Attributes:
        validation_loss: The best of the run's evaluations.
        test_loss: Measures the network on test data. It is a function because only the run that is
            selected in the end may look at them.
    """

    validation_loss: float
    test_loss: Callable[[], float]


class PaperResult(NamedTuple):
    """What a paper reports of a tuner."""

    validation: float
    test: float


class MissingDataError(FileNotFoundError):
    """A data file is not where it was looked for."""


@dataclass(frozen=True)
class Problem(ABC):
    """A data set, a network and a search space.

    It is a frozen dataclass, so that it travels to a worker process. Make one by :meth:`at`.

    Attributes:
        scale: Which of :attr:`sizes`.
        size: Its numbers.
        device: Where networks are trained.
        data_dir: Folder of the data files, for a problem that needs some.
    """

    scale: Scale
    size: Size
    device: str = "cpu"
    data_dir: Path = Path("data")

    name: ClassVar[str]
    sizes: ClassVar[Mapping[Scale, Size]]
    starts: ClassVar[Mapping[str, Mapping[str, float]]]
    """Where tuners by gradient start: hyperparameters, by a short label."""
    files: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Data files in :attr:`data_dir` that the problem reads: alternatives, the best one first."""
    paper: ClassVar[Mapping[str, PaperResult]] = {}
    """What Bae & Grosse (2020) report, by tuner."""

    @classmethod
    def at(cls, scale: Scale | str, **changes: Any) -> Self:
        """Return the problem at a scale.

        Args:
            scale: One of :class:`Scale`, or its name.
            **changes: Other values for fields of the problem or of its size, such as ``epochs=2``.
        """
        scale = Scale(scale)
        size = cls.sizes[scale]
        numbers = {f.name: changes.pop(f.name) for f in fields(size) if f.name in changes}
        return cls(scale, type(size)(**{**asdict(size), **numbers}), **changes)

    @property
    @abstractmethod
    def description(self) -> str:
        """What is trained on what, and what is tuned, at this scale: for the reader of a table."""

    @property
    def differs_from_paper(self) -> str:
        """What differs from the paper's setting, at this scale.

        Empty where nothing does or there is none.
        """
        return ""

    @property
    def reference(self) -> Mapping[str, float]:
        """Hyperparameters of the plain runs whose cost is the unit of the budget."""
        return next(iter(self.starts.values()))

    def settings(self) -> dict[str, Any]:
        """Return all that two studies of this problem must share to be comparable."""
        return {
            "problem": self.name,
            "scale": self.scale.value,
            **asdict(self.size),
            "device": self.device,
            "description": self.description,
            "differs_from_paper": self.differs_from_paper,
        }

    @classmethod
    def needs(cls) -> str:
        """Return the names of the data files, in words."""
        return " or ".join(" + ".join(names) for names in cls.files)

    @property
    def found_files(self) -> tuple[Path, ...]:
        """The data files that are read: the first alternative of which all are there; else none."""
        for names in self.files:
            paths = tuple(self.data_dir / name for name in names)
            if all(path.is_file() for path in paths):
                return paths
        return ()

    def require_data(self) -> None:
        """Check that the data files are there.

        Raises:
            MissingDataError: If one is not.
        """
        if self.files and not self.found_files:
            raise MissingDataError(
                f"{self.name} needs {self.needs()}, which {self.data_dir} does not hold. Give the "
                "folder that does: --data-dir FOLDER."
            )

    def optimum(self, split: int) -> float | None:
        """Return the lowest validation loss that hyperparameters can reach, where it is known.

        Args:
            split: As in :meth:`setup`.
        """
        return None

    @abstractmethod
    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        """Make a network as the trial suggests, and all that its training needs.

        Args:
            trial: Any Optuna trial; the same code serves all tuners and plain retraining.
            seed: Fixes initial weights, the order of the batches and all else that is random.
            split: The study's seed. A problem with little data divides them anew for each, the same
                for every tuner and for retraining; the others have one division.
        """

    def train(
        self,
        trial: BaseTrial,
        seed: int,
        split: int = 0,
        on_epoch: Callable[[float], Any] = lambda share: None,
    ) -> Trained:
        """Train one network, reporting the validation loss of each epoch to the trial.

        Args:
            trial: As in :meth:`setup`.
            seed: Likewise.
            split: Likewise.
            on_epoch: Called after each pass over the training data, with the part of all passes
                that is done.
        """
        setup = self.setup(trial, seed, split)
        best = optuna_dstn.fit(
            trial,
            setup.model,
            setup.optimizer,
            setup.loss_fn,
            _Passes(setup.train_loader, lambda passes: on_epoch(passes / self.size.epochs)),
            setup.valid_loader,
            epochs=self.size.epochs,
            valid_loss_fn=setup.valid_loss_fn,
            **setup.options,
        )
        return Trained(best, setup.test_loss)


class _Passes:
    """Batches, with a call at the end of each pass over them, of the number of passes."""

    def __init__(self, loader: Iterable[Any], on_end: Callable[[int], Any]) -> None:
        self._loader = loader
        self._on_end = on_end
        self._passes = 0

    def __iter__(self) -> Iterator[Any]:
        yield from self._loader
        self._passes += 1
        self._on_end(self._passes)
