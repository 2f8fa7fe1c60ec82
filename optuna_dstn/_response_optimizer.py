"""The optimizer of the response: like the weights', and following their learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


OptimizerFactory = Callable[[list[Tensor]], Optimizer]

# What a group says that is not about the step itself.
_NOT_SETTINGS = ("params", "param_names", "initial_lr")


class ResponseOptimizer:
    """Steps the response with the class and the settings of the user's optimizer.

    Weights and response share optimizer and learning rate, as published. Weight decay is left out:
    the response sees it as a term of its loss.

    Args:
        groups: The response's tensors, one list per group of ``optimizer``.
        optimizer: The user's optimizer.
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
        factory: OptimizerFactory | None = None,
    ) -> None:
        self._follows = None if factory is not None else optimizer
        if factory is not None:
            self.optimizer = factory([tensor for group in groups for tensor in group])
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

    def step(self) -> None:
        """Take a step down the gradient, with the user's settings of today."""
        if self._follows is not None:
            # Groups that were added since have no response.
            for mine, theirs in zip(
                self.optimizer.param_groups, self._follows.param_groups, strict=False
            ):
                mine.update(_settings(theirs))
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state)


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in group.items() if key not in _NOT_SETTINGS}
    if "weight_decay" in settings:
        settings["weight_decay"] = 0.0
    return settings
