"""The optimizer of the response: one like the weights', or Adam in place of SGD."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
import math
import statistics
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from optuna_dstn.tensors._gradient_norm import clipped_gradient_norm


OptimizerFactory = Callable[[list[Tensor]], Optimizer]

# What a group says that is not about the step itself.
_NOT_SETTINGS = ("params", "param_names", "initial_lr")

_FUSED = ("cpu", "cuda")  # devices for which PyTorch has Adam in one kernel

# The norm of a gradient may be so many times the median of the last ones.
_MOST_TIMES_MEDIAN = 5.0
_LAST, _FEWEST = 100, 20


class ResponseOptimizer:
    """Steps the response with the class and the settings of the user's optimizer, or with Adam.

    The former is as published: weights and response share optimizer and learning rate. SGD's rate
    suits the scale of the weights' gradient, though, and not of the response's; Adam finds it. Both
    follow the user's schedule of the learning rate: Adam's is the same share of ``lr`` as the
    user's of the highest so far. Weight decay is left out: the response sees it as a term of its
    loss.

    Args:
        groups: The response's tensors, one list per group of ``optimizer``.
        optimizer: The user's optimizer.
        lr: Adam's learning rate in place of SGD; ``None`` makes an optimizer like the user's
            always, and so do weights in ``float16``, where the squares of gradients vanish.
        factory: Makes another optimizer from all tensors, which then keeps its own settings.

    Attributes:
        optimizer: The response's optimizer.

    Raises:
        TypeError: If an optimizer of the user's class cannot be made from parameter groups alone.
    """

    def __init__(
        self,
        groups: Sequence[list[Tensor]],
        optimizer: Optimizer,
        lr: float | None = None,
        factory: OptimizerFactory | None = None,
    ) -> None:
        self._norms: deque[float] = deque(maxlen=_LAST)
        tensors = [tensor for group in groups for tensor in group]
        is_half = any(tensor.dtype == torch.float16 for tensor in tensors)
        self._follows = None if factory is not None else optimizer
        self._lr = lr if isinstance(optimizer, SGD) and not is_half else None
        self._highest = [0.0] * len(groups)
        if factory is not None:
            self.optimizer = factory(tensors)
            return
        if self._lr is not None:
            # Fused it costs what SGD does, where it can be had.
            is_fused = all(t.device.type in _FUSED and t.is_floating_point() for t in tensors)
            self.optimizer = Adam(
                [{"params": group} for group in groups], lr=self._lr, fused=is_fused
            )
            return
        kind = type(optimizer)
        settings = [
            {**_settings(theirs), "params": mine}
            for mine, theirs in zip(groups, optimizer.param_groups, strict=True)
        ]
        try:
            self.optimizer = kind(settings)  # type: ignore[call-arg]
        except TypeError as error:
            raise TypeError(
                f"The response needs an optimizer like the weights', but {kind.__name__} cannot be "
                f"made from parameter groups alone ({error}). Give the Tuner "
                "response_optimizer=lambda parameters: ..., which makes one."
            ) from error

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad()

    def clip(self, max_norm: float | None) -> float:
        """Clip the gradient's norm, to ``max_norm`` and to what has been usual.

        Where several hyperparameters are far out at once, as dropout rates near 1, a few examples
        can make the gradient a hundred times as large as usual; a step along it is often the first
        of a divergence. The bound is a multiple of the median norm of the last steps, after
        Seetharaman et al. (2020, "AutoClip"), once there are some.

        Args:
            max_norm: The user's bound; ``None`` is none.

        Returns:
            The norm before clipping.
        """
        bounds = [] if max_norm is None else [max_norm]
        if len(self._norms) >= _FEWEST and (usual := statistics.median(self._norms)):
            bounds.append(_MOST_TIMES_MEDIAN * usual)
        norm = clipped_gradient_norm(self.optimizer, min(bounds, default=None))
        if math.isfinite(norm):
            self._norms.append(norm)
        return norm

    def step(self) -> None:
        """Take a step down the gradient, with the user's settings of today."""
        if self._follows is not None:
            # Groups that were added since have no response.
            groups = zip(self.optimizer.param_groups, self._follows.param_groups, strict=False)
            for index, (mine, theirs) in enumerate(groups):
                if self._lr is None:
                    mine.update(_settings(theirs))
                else:
                    mine["lr"] = self._lr * self._share_of_highest(index, float(theirs["lr"]))
        self.optimizer.step()

    def _share_of_highest(self, group: int, lr: float) -> float:
        """Return a group's learning rate over its highest so far; 0 while it does not train."""
        self._highest[group] = highest = max(self._highest[group], lr)
        return lr / highest if highest else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer, and what was noted of the last steps."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "norms": list(self._norms),
            "highest": list(self._highest),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._norms = deque(state["norms"], maxlen=_LAST)
        self._highest = list(state["highest"])


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in group.items() if key not in _NOT_SETTINGS}
    if "weight_decay" in settings:
        settings["weight_decay"] = 0.0
    return settings
