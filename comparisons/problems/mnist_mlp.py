"""Three dropout rates of an MLP on MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from optuna.trial import BaseTrial
from torch import nn

from comparisons.networks import MLP
from comparisons.networks._sizes import thin
from comparisons.problems._images import FromBytes, ImageProblem, ImageSize, LoadImages, Normalised
from comparisons.problems._mnist import load_mnist
from comparisons.problems._problem import PaperResult, Scale


@dataclass(frozen=True)
class MnistMLP(ImageProblem):
    """MLP 784-1200-1200-10 with dropout before each layer."""

    name: ClassVar[str] = "mnist-mlp"
    sizes: ClassVar[Mapping[Scale, ImageSize]] = {
        Scale.SMOKE: ImageSize(
            64, 32, 32, epochs=2, trials=2, width=0.01, batch_size=16, learning_rate=1e-2
        ),
        # Few images rather than few epochs: the papers train long past convergence too.
        Scale.CPU: ImageSize(
            1000, 1000, 5000, epochs=160, width=0.25, batch_size=100, learning_rate=2e-2
        ),
        Scale.PAPER: ImageSize(51_000, 9000, 10_000, epochs=500, learning_rate=1e-2),
    }
    starts: ClassVar[Mapping[str, Mapping[str, float]]] = {
        label: dict.fromkeys(MLP.RATES, float(label)) for label in ("0.05", "0.5")
    }
    files: ClassVar[tuple[tuple[str, ...], ...]] = (("mnist.npz",),)
    paper: ClassVar[Mapping[str, PaperResult]] = {
        "random": PaperResult(0.043, 0.042),
        "gp": PaperResult(0.042, 0.043),
        "stn": PaperResult(0.043, 0.041),
        "centered-stn": PaperResult(0.041, 0.039),
        "delta-stn": PaperResult(0.040, 0.038),
    }
    _load: ClassVar[LoadImages] = staticmethod(load_mnist)
    _tuned: ClassVar[str] = "input dropout and two hidden dropouts, each in [0, 0.95]"
    _data_set: ClassVar[str] = "MNIST"

    @property
    def _hidden(self) -> int:
        return thin(1200, self.size.width)

    @property
    def _network(self) -> str:
        return f"MLP 784-{self._hidden}-{self._hidden}-10"

    def _model(self, trial: BaseTrial) -> nn.Module:
        rates = [trial.suggest_float(name, 0.0, 0.95) for name in MLP.RATES]
        return nn.Sequential(
            FromBytes(), Normalised([0.1307], [0.3081]), MLP(rates, hidden=self._hidden)
        )
