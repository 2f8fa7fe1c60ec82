"""The linearised prediction y + ẏ, completed where the model returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from optuna_dstn.linearize._output_functions import FOLLOWING_FUNCTIONS, OUTPUT_FUNCTIONS
from optuna_dstn.linearize._recorded_calls import RecordedCalls
from optuna_dstn.tensors._arguments import leaves
from optuna_dstn.tensors._dual import is_dual, split
from optuna_dstn.tensors._identity import ByIdentity
from optuna_dstn.tensors._structure import with_tensors_replaced


class _Call(NamedTuple):
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    version: int  # of the result: PyTorch counts the writes into a tensor and its views


class Prediction:
    """Turns the model's output in a linearised pass into the prediction that the loss should see.

    An output that is a dual number (y, ẏ) becomes y + ẏ. If the model itself ends with an output
    activation or a loss (log-softmax, sigmoid, a cross entropy), this function is applied *after*
    the addition: a linearised loss has no minimum in Δ, and a linearised probability leaves [0, 1].
    One object serves one pass.

    Attributes:
        recorded: The calls from which a scalar, a loss that the model computes itself, is computed
            again; ``None`` if calls are not recorded, which takes memory.
        unfinished: Whether the model has returned a scalar that is still a dual number. That does
            no harm if the loss function does not use it.
    """

    def __init__(self) -> None:
        self.recorded: RecordedCalls | None = None
        self.unfinished = False
        # For each result of an output function, the call. The call is data rather than a closure
        # over ``self``, which would keep the whole pass alive until Python collects cycles.
        self._ends: ByIdentity[_Call] = ByIdentity()

    def note(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        rule: Callable[..., Any] | None = None,
    ) -> None:
        """Remember a call that may be the last one of the model.

        Args:
            func: The torch function.
            args: The positional arguments; no responding parameter is among them.
            kwargs: The keyword arguments.
            output: The result of the call.
            rule: The function that was called in place of ``func``, if hyperparameters are among
                the arguments.
        """
        if self.recorded is not None:
            self.recorded.note(rule or func, args, kwargs, output)
        may_end = func in OUTPUT_FUNCTIONS or (
            func in FOLLOWING_FUNCTIONS
            and any(argument in self._ends for argument in args)
            and not any(
                argument is output for argument in args
            )  # x.float() of single precision is x itself
        )
        if may_end and isinstance(output, Tensor) and is_dual(output):
            self._ends[output] = _Call(rule or func, args, kwargs, output._version)

    def complete(self, output: Any) -> Any:
        """Return the model's output with y + ẏ in place of every dual number (y, ẏ)."""
        return self._merged(output, of_model=True)

    def complete_end(self, output: Any) -> Any:
        """Return a sum of losses of torch, or another function of them, completed.

        Anything else is returned as it is.
        """
        is_end = isinstance(output, Tensor) and self._is_of_ends(output)
        return self._merged(output) if is_end else output

    def _is_of_ends(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on Δ through results of output functions alone."""
        end = self._ends.get(tensor)
        if end is None:
            return not is_dual(tensor)
        tensors = leaves((end.args, end.kwargs), Tensor)
        return end.func not in FOLLOWING_FUNCTIONS or all(map(self._is_of_ends, tensors))

    def _merged(self, value: Any, *, of_model: bool = False) -> Any:
        if isinstance(value, Tensor):
            return self._merged_tensor(value, of_model)
        return with_tensors_replaced(value, lambda tensor: self._merged_tensor(tensor, of_model))

    def _merged_tensor(self, tensor: Tensor, of_model: bool) -> Tensor:
        primal, tangent = split(tensor)
        if tangent is None:
            return tensor
        if of_model and not tensor.ndim:
            if self.recorded is not None and (loss := self.recorded.run_again(tensor)) is not None:
                return loss
            if not self._ends_well(tensor):
                self.unfinished = True
                return tensor
        end = self._end_of(tensor)
        if end is not None:
            completed: Tensor = end.func(*self._merged(end.args), **self._merged(end.kwargs))
            return completed
        return primal + tangent

    def _end_of(self, tensor: Tensor) -> _Call | None:
        end = self._ends.get(tensor)
        return end if end is not None and end.version == tensor._version else None

    def _ends_well(self, scalar: Tensor) -> bool:
        """Whether a scalar is made of output functions, and of no scalar that would be linear."""
        end = self._end_of(scalar)
        return end is not None and all(
            self._ends_well(t)
            for t in leaves((end.args, end.kwargs), Tensor)
            if not t.ndim and is_dual(t)
        )
