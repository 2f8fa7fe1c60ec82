"""Custom autograd functions in a linearised pass.

PyTorch refuses dual numbers in a subclass of ``torch.autograd.Function`` without a ``jvp``, and a
torch function mode does not see the call. Inside a linearised pass, ``apply`` of such a class finds
the tangent by another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import _SingleLevelFunction
from torch.overrides import TorchFunctionMode

from optuna_dstn.linearize._torch_call_mode import past_the_mode
from optuna_dstn.rules import without_formula
from optuna_dstn.tensors._arguments import leaves
from optuna_dstn.tensors._dual import is_dual


@contextmanager
def differentiable_custom_functions(mode: TorchFunctionMode, centred: set[str]) -> Iterator[None]:
    """Let custom autograd functions without a ``jvp`` take dual numbers inside the context.

    Other threads are not affected, as they have no dual numbers.

    Args:
        mode: The mode of the pass, which is active where ``apply`` is called.
        centred: The names of the functions that took the centred pass are added.
    """
    base: Any = _SingleLevelFunction

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        own: Any = super(base, cls)

        def in_mode(*args: Any, **kwargs: Any) -> Any:
            with mode:
                return own.apply(*args, **kwargs)

        has_formula = cls.jvp is not Function.jvp
        if has_formula or not any(map(is_dual, leaves((args, kwargs), Tensor))):
            return own.apply(*args, **kwargs)
        with past_the_mode():
            output, is_centred = without_formula(cls, in_mode, args, kwargs)
        if is_centred:
            centred.add(cls.__qualname__)
        return output

    # Function.apply calls the method of its base class, also where it was bound before the pass, as
    # in ``sparsemax = Sparsemax.apply``.
    base.apply = classmethod(apply)
    try:
        yield
    finally:
        del base.apply
