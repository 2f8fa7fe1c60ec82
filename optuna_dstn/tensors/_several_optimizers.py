"""Several optimizers that train one model together, such as Muon for matrices and AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class SeveralOptimizers(Optimizer):
    """Optimizers that step together, with the groups of all of them in a row."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        # All groups and states are those of the others, so the base class has nothing to do.
        self.optimizers = tuple(optimizers)
        self._counts = [len(optimizer.param_groups) for optimizer in optimizers]

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all optimizers.

        Raises:
            RuntimeError: If one of the optimizers has got another group.
        """
        if [len(optimizer.param_groups) for optimizer in self.optimizers] != self._counts:
            raise RuntimeError(
                "One of the Tuner's optimizers got another parameter group. With several "
                "optimizers, add all groups before the Tuner is made, with lr=0 until they train."
            )
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let each optimizer take a step."""
        for optimizer in self.optimizers:
            optimizer.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimizers."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)


def owner_of(group: Mapping[str, Any], optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that steps a group: ``optimizer``, or one of several."""
    if not isinstance(optimizer, SeveralOptimizers):
        return optimizer
    return next(
        one for one in optimizer.optimizers if any(own is group for own in one.param_groups)
    )


def kinds_of(parameters: Iterable[Tensor], optimizer: Optimizer) -> list[str]:
    """Return the names of the classes of the optimizers that train some of these parameters."""
    wanted = {id(parameter) for parameter in parameters}
    groups = [
        group
        for group in optimizer.param_groups
        if any(id(parameter) in wanted for parameter in group["params"])
    ]
    return sorted({type(owner_of(group, optimizer)).__name__ for group in groups})
