"""What image classification problems share, whatever the data set and the network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import functools
from pathlib import Path
from typing import Any, ClassVar

from optuna.trial import BaseTrial
import torch
from torch import Tensor, nn

from comparisons.problems._data import Batch, Splits, classification_loss
from comparisons.problems._problem import Problem, Scale, Setup, Size


_SPLIT_SEED = 0

LoadImages = Callable[[Path, int, int], tuple[Batch, Batch]]
"""``load(path, training, test)`` returns images and labels of the two official parts.

The order of the images is random and always the same. Images are bytes of shape (N, C, H, W).
"""


@dataclass(frozen=True, kw_only=True)
class ImageSize(Size):
    """The numbers of an image problem.

    Attributes:
        width: Width of the network, as a fraction of the published width.
        batch_size: Examples in a batch.
        learning_rate: Learning rate of SGD with momentum 0.9.
        decay: Whether the learning rate is divided by five after 30, 60 and 90 % of the epochs.
        kaiming: Whether initial weights follow the normal distribution of He et al. PyTorch's
            default makes activations shrink from layer to layer without normalisation.
        max_grad_norm: Gradients are clipped to this norm; ``None`` means no clipping.
    """

    width: float = 1.0
    batch_size: int = 128
    learning_rate: float
    decay: bool = False
    kaiming: bool = False
    max_grad_norm: float | None = None


@dataclass(frozen=True)
class ImageProblem(Problem):
    """A network trained by SGD on a part of a data set's training images.

    Training and validation images are disjoint parts of the official training part. Test images
    belong to the official test part. The images stay on the device as bytes, and the first module
    of the network converts them to numbers.
    """

    size: ImageSize

    sizes: ClassVar[Mapping[Scale, ImageSize]]
    _load: ClassVar[LoadImages]

    @property
    @abstractmethod
    def _data_set(self) -> str:
        """The name of the data set."""

    @property
    @abstractmethod
    def _network(self) -> str:
        """The network and its size, as text."""

    @property
    @abstractmethod
    def _tuned(self) -> str:
        """The hyperparameters and their ranges, as text."""

    @abstractmethod
    def _model(self, trial: BaseTrial) -> nn.Module:
        """Return the network for images as bytes, (B, C, H, W), with preprocessing."""

    @property
    def description(self) -> str:
        """Data, network and search space."""
        size = self.size
        decay = ", divided by 5 after 30, 60 and 90 % of the epochs" if size.decay else ""
        initial = "; Kaiming's initial weights" if size.kaiming else ""
        clipped = (
            ""
            if size.max_grad_norm is None
            else f", gradients of norm {size.max_grad_norm:g} at most"
        )
        steps = -(-size.train // size.batch_size) * size.epochs
        return (
            f"{self._data_set}: {size.train:,} training and {size.valid:,} validation images of "
            f"the training part, {size.test:,} of the test part; {self._network}{initial}; tuned: "
            f"{self._tuned}; SGD, learning rate {size.learning_rate:g}{decay}, momentum "
            f"0.9{clipped}, batches of {size.batch_size}; {size.epochs} epochs ({steps:,} steps)"
        )

    def setup(self, trial: BaseTrial, seed: int, split: int) -> Setup:
        """Create the network; see :class:`Problem`."""
        self.require_data()
        size = self.size
        (file,) = self.found_files
        data = _splits(type(self)._load, file, size.train, size.valid, size.test, self.device)
        torch.manual_seed(seed)
        model = self._model(trial)
        if size.kaiming:
            _start_from_kaiming(model)
        model.to(self.device)
        optimizer = torch.optim.SGD(model.parameters(), lr=size.learning_rate, momentum=0.9)
        options: dict[str, Any] = {"max_grad_norm": size.max_grad_norm}
        if size.decay:
            # With few epochs, equal milestones would be several steps at once.
            milestones = sorted({max(1, round(part * size.epochs)) for part in (0.3, 0.6, 0.9)})
            options["scheduler"] = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.2)
        return Setup(
            model=model,
            optimizer=optimizer,
            loss_fn=classification_loss,
            **data.loaders(size.batch_size, seed),
            options=options,
        )


class Normalised(nn.Module):
    """Subtracts a mean from each channel and divides by a standard deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, means: Sequence[float], deviations: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(means).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviations).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return images of the same shape, (B, C, H, W)."""
        return (x - self.mean) / self.deviation


class FromBytes(nn.Module):
    """Converts bytes to numbers in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return floating-point images of the same shape."""
        return x.float() / 255


def random_rows(available: int, wanted: int, part: str) -> Tensor:
    """Return indices of examples in an order that is random and always the same."""
    if wanted > available:
        raise ValueError(
            f"The problem asks for {wanted:,} {part} images, and the file has {available:,}: make "
            "it smaller, Problem.at(..., train=..., valid=..., test=...)."
        )
    order = torch.randperm(available, generator=torch.Generator().manual_seed(_SPLIT_SEED))
    return order[:wanted]


@functools.lru_cache(maxsize=1)
def _splits(load: LoadImages, path: Path, train: int, valid: int, test: int, device: str) -> Splits:
    (x, y), tested = load(path, train + valid, test)
    return Splits((x[:train], y[:train]), (x[train:], y[train:]), tested).to(device)


def _start_from_kaiming(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
