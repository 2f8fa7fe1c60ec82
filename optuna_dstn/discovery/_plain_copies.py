"""Plain copies of a hyperparameter that the model holds by accident.

Many vision models give their blocks rates that grow with depth, by
``torch.linspace(0, drop_path_rate, depth).tolist()``. The result holds plain numbers, so that the
Tuner cannot tune the rate. Such a copy shows: it went through single precision, or it is a number
of NumPy.

A copy by ``float(h)`` is exact, and mostly meant. It is doubtful only as the rate of a dropout
where no dropout is tuned, since pickling and JSON make exact copies too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn

from optuna_dstn._errors import logger
from optuna_dstn.hyperparameter._number import Hyperparameter


_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


def plain_copies(model: nn.Module, value: float) -> list[str]:
    """Return where modules hold a number that was computed from ``value`` without its formula.

    Args:
        model: The model.
        value: The start value of a hyperparameter.

    Returns:
        Attributes such as ``"blocks.3.drop_path.drop_prob"``.
    """
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name, number in vars(module).items()
        if _is_accidental_copy(number, value)
    ]


def _is_accidental_copy(number: Any, value: float) -> bool:
    if not value or isinstance(number, Hyperparameter):
        return False
    if isinstance(number, np.floating):
        return float(number) == value
    return isinstance(number, float) and number != value and number == float(np.float32(value))


def warn_of_plain_copies(
    model: nn.Module, kept: Iterable[str], starts: Mapping[str, float]
) -> None:
    """Warn of kept hyperparameters of which the model holds a plain copy by accident.

    Args:
        model: The model.
        kept: The names of hyperparameters that no torch function reads.
        starts: The start value of each hyperparameter.
    """
    for name in kept:
        copies = plain_copies(model, float(starts[name]))
        if not copies:
            continue
        logger.warning(
            f"Hyperparameter {name!r} is not tuned: the model holds it as a plain number in "
            f"{', '.join(copies[:3])}. torch.linspace(0, h, depth).tolist() and NumPy make plain "
            "numbers, as many models do with an argument such as drop_path_rate. To tune it, make "
            "the model and then set the hyperparameter itself there, in each block i of depth: "
            f"{_assignment(copies[0])} = h * (i / (depth - 1)). To keep it, write float(h) where "
            "the model is made."
        )


def warn_of_plain_dropout(
    model: nn.Module,
    kept: Iterable[str],
    starts: Mapping[str, float],
    readers: Mapping[str, Collection[str]],
) -> None:
    """Warn of dropouts at the start value of kept hyperparameters, if no dropout is tuned.

    Args:
        model: The model.
        kept: The names of hyperparameters that no torch function reads.
        starts: The start value of each hyperparameter.
        readers: The functions that read each tuned hyperparameter.
    """
    if any("dropout" in function for functions in readers.values() for function in functions):
        return
    for name in kept:
        rates = [
            place for place, rate in _dropout_rates(model) if rate and rate == float(starts[name])
        ]
        if rates:
            logger.warning(
                f"No dropout is tuned: the model holds hyperparameter {name!r} as a plain number "
                f"in {', '.join(rates[:3])}. float(h), nn.LSTM(dropout=h), pickling (as for "
                "another process) and JSON make plain numbers. To tune it, set the hyperparameter "
                f"itself once the model is made: {_assignment(rates[0])} = h."
            )


def _dropout_rates(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield the plain rates of dropout and recurrent layers, with their places."""
    for path, module in model.named_modules():
        if not isinstance(module, (*_DROPOUTS, nn.RNNBase)):
            continue
        attribute = "dropout" if isinstance(module, nn.RNNBase) else "p"
        rate = getattr(module, attribute)
        if isinstance(rate, float) and not isinstance(rate, Hyperparameter):
            yield f"{path}.{attribute}" if path else attribute, rate


def _assignment(attribute: str) -> str:
    """Return the code that sets an attribute: ``model.blocks[3].drop_path.drop_prob``."""
    parts = [f"[{part}]" if part.isdigit() else f".{part}" for part in attribute.split(".")]
    return "model" + "".join(parts)
