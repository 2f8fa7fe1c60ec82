"""The optimizer of the response: Adam in place of SGD, or one like the optimizer of the weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
import math
import statistics
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer, SparseAdam

from optuna_dstn._errors import described
from optuna_dstn.tensors._gradient_norm import clipped_gradient_norm
from optuna_dstn.tensors._several_optimizers import SeveralOptimizers


OptimizerFactory = Callable[[list[Tensor]], Optimizer]

# Entries of a parameter group that are not settings of the step.
_NOT_SETTINGS = ("params", "param_names", "initial_lr")

_FUSED_DEVICES = ("cpu", "cuda")  # for which PyTorch has Adam in one kernel

# A gradient is clipped to this multiple of the median of the last norms, once there are enough.
_LARGEST_MULTIPLE = 5.0
_LAST_NORMS, _ENOUGH_NORMS = 100, 20


class ResponseOptimizer:
    """Takes the steps on the response Θ.

    As published, weights and response share the class and the settings of the optimizer. But the
    learning rate of SGD suits the scale of the weights' gradient, and not the scale of the
    response's gradient. So Adam, which rescales gradients, trains the response to weights that SGD
    trains. In both cases the learning rate follows the user's scheduler: Adam's learning rate is
    ``lr`` times the ratio of the user's current learning rate to the highest so far. Weight decay
    is left out, since the loss of the response has it as a term.

    Args:
        groups: The tensors of the response, one list for each group of ``optimizer``.
        optimizer: The user's optimizer.
        lr: The learning rate of Adam in place of SGD, > 0. ``None`` always makes an optimizer like
            the user's. So do weights in ``float16``, in which squares of gradients become zero.
        factory: Makes the optimizer from the list of all tensors. Its settings stay constant.

    Attributes:
        optimizer: The optimizer of the response.

    Raises:
        TypeError: If an optimizer of the user's class cannot be made from parameter groups alone,
            or ``factory`` makes none.
    """

    def __init__(
        self,
        groups: Sequence[list[Tensor]],
        optimizer: Optimizer,
        lr: float | None = None,
        factory: OptimizerFactory | None = None,
    ) -> None:
        self._norms: deque[float] = deque(maxlen=_LAST_NORMS)
        tensors = [tensor for group in groups for tensor in group]
        is_half = any(tensor.dtype == torch.float16 for tensor in tensors)
        self._users_optimizer = None if factory is not None else optimizer
        self._lr = lr if isinstance(optimizer, SGD) and not is_half else None
        self._parts: list[ResponseOptimizer] = []  # one for each of several optimizers
        self._highest = [0.0] * len(groups)  # learning rate of each of the user's groups so far
        if factory is not None:
            self.optimizer = factory(tensors)
            _require_optimizer(self.optimizer)
            return
        if isinstance(optimizer, SeveralOptimizers):
            counts = [len(one.param_groups) for one in optimizer.optimizers]
            bounds = zip(accumulate(counts, initial=0), accumulate(counts), strict=False)
            self._parts = [
                ResponseOptimizer(groups[start:end], one, lr)
                for (start, end), one in zip(bounds, optimizer.optimizers, strict=True)
            ]
            self.optimizer = SeveralOptimizers([part.optimizer for part in self._parts])
            return
        if self._lr is not None:
            # The fused kernel makes Adam as fast as SGD.
            is_fused = all(
                tensor.device.type in _FUSED_DEVICES and tensor.is_floating_point()
                for tensor in tensors
            )
            self.optimizer = Adam(
                [{"params": group} for group in groups], lr=self._lr, fused=is_fused
            )
            return
        # The gradient of the response is dense, also where that of the weights is sparse.
        kind = Adam if isinstance(optimizer, SparseAdam) else type(optimizer)
        settings = [
            {**_settings(users_group), "params": group}
            for group, users_group in zip(groups, optimizer.param_groups, strict=True)
        ]
        try:
            self.optimizer = kind(settings)  # type: ignore[call-arg]
        except (TypeError, AttributeError) as error:
            raise TypeError(
                f"The response needs an optimizer like the weights', but {kind.__name__} cannot be "
                f"made from parameter groups alone ({error}). Give the Tuner "
                "response_optimizer=lambda parameters: ..., which makes one."
            ) from error

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad()

    def clip(self, max_norm: float | None) -> float:
        """Clip the gradient to ``max_norm`` and to five times the median of the last norms.

        If several hyperparameters are near the end of their range at once, as dropout rates near 1,
        a few examples can make the gradient a hundred times larger than usual. A step along such a
        gradient often starts a divergence. The median is over the last 100 steps, and there is no
        such bound in the first 20 (after Seetharaman et al., 2020, "AutoClip").

        Args:
            max_norm: The user's bound of the norm; ``None`` sets none.

        Returns:
            The norm before clipping.
        """
        bounds = [] if max_norm is None else [max_norm]
        if len(self._norms) >= _ENOUGH_NORMS and (median := statistics.median(self._norms)):
            bounds.append(_LARGEST_MULTIPLE * median)
        norm = clipped_gradient_norm(self.optimizer, min(bounds, default=None))
        if math.isfinite(norm):
            self._norms.append(norm)
        return norm

    def step(self) -> None:
        """Take a step down the gradient, with the current settings of the user's optimizer."""
        for part in self._parts or [self]:
            part._take_settings()
        self.optimizer.step()

    def _take_settings(self) -> None:
        if self._users_optimizer is not None:
            # Groups that the user has added since the first step have no response.
            groups = zip(
                self.optimizer.param_groups, self._users_optimizer.param_groups, strict=False
            )
            for index, (group, users_group) in enumerate(groups):
                if self._lr is None:
                    group.update(_settings(users_group))
                else:
                    ratio = self._ratio_to_highest(index, float(users_group["lr"]))
                    group["lr"] = self._lr * ratio

    def _ratio_to_highest(self, group: int, lr: float) -> float:
        """Return the ratio of a group's learning rate to its highest so far; 0 if both are 0."""
        self._highest[group] = highest = max(self._highest[group], lr)
        return lr / highest if highest else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer, the last norms, and the highest learning rates."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "norms": list(self._norms),
            "highest": [rate for part in self._parts or [self] for rate in part._highest],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._norms = deque(state["norms"], maxlen=_LAST_NORMS)
        rates = iter(state["highest"])
        for part in self._parts or [self]:
            part._highest = [next(rates) for _ in part._highest]


def _require_optimizer(made: Any) -> None:
    if not hasattr(made, "param_groups"):
        raise TypeError(
            f"response_optimizer returned {described(made)}: return the optimizer that it makes, "
            "such as lambda tensors: torch.optim.Adam(tensors, lr=1e-3)."
        )


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a user's parameter group, without weight decay."""
    settings = {key: value for key, value in group.items() if key not in _NOT_SETTINGS}
    if "weight_decay" in settings:
        settings["weight_decay"] = 0.0
    return settings
