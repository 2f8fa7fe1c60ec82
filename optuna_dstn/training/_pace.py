"""How the steps on the hyperparameters are spread over a training of known or unknown length."""

from __future__ import annotations

from typing import NamedTuple

from optuna_dstn.study._config import TunerConfig


_WARMUP = 100  # in a long training, or one of unknown length
_WARMUP_SHARE = 0.1
_LR = 3e-2
# A dropout in [0, 0.9] that goes from 0.09 to 0.81 travels 4.4 in unconstrained space.
_TRAVEL = 6.0
_LARGEST_LR = 0.3


class Pace(NamedTuple):
    """When the steps on the hyperparameters begin, and how long they are.

    Attributes:
        warmup_steps: The number of weight steps before the first step on the hyperparameters.
        hyper_lr: The learning rate of λ.
    """

    warmup_steps: int
    hyper_lr: float

    @classmethod
    def of(cls, config: TunerConfig, total_steps: int | None) -> Pace:
        """Return the pace that the settings name, and elsewhere one that suits the length.

        In a short training the warm-up is short, and the steps are so long that all of them
        together could move a hyperparameter through a good part of its range.

        Args:
            config: The settings.
            total_steps: The number of weight steps of the training; ``None`` if it is unknown.
        """
        warmup, lr = config.warmup_steps, config.hyper_lr
        if warmup is None:
            warmup = _WARMUP
            if total_steps is not None:
                warmup = min(_WARMUP, int(_WARMUP_SHARE * total_steps))
        if lr is None:
            lr = _LR
            if total_steps is not None:
                visits = (total_steps - warmup) // config.train_steps
                steps = max(visits * config.valid_steps, 1)
                lr = min(max(_LR, _TRAVEL / steps), _LARGEST_LR)
        return cls(warmup, lr)
