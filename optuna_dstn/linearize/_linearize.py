"""The network linearised at its weights: f(x; w) + J_w f·Δ, by forward-mode differentiation.

Inside :func:`at_response` a layer whose parameters respond returns a dual number: its output and
the derivative of the output in the direction Δ. Every other operation propagates the derivative.
The model's own output becomes the linearised prediction, primal + tangent, before a loss function
sees the output. Reverse mode can then differentiate the loss with respect to Δ.

A loss function may call parts of the model in place of the model. The part that it calls last
returns the prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
import functools
import threading
from typing import Any
import warnings

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from optuna_dstn._errors import first_line
from optuna_dstn.batch._batch import mean_loss
from optuna_dstn.linearize._custom_functions import differentiable_custom_functions
from optuna_dstn.linearize._responding import Responding
from optuna_dstn.linearize._torch_call_mode import TorchCallMode, past_the_mode
from optuna_dstn.tensors._dual import is_dual


# PyTorch allows one dual level in the whole process: trials that run in threads take turns.
_DUAL_LEVEL = threading.Lock()


@contextmanager
def at_response(
    model: nn.Module, mode: Responding[Any], parts: Sequence[str] = ()
) -> Iterator[None]:
    """Make calls of ``model`` return its prediction at the deltas of ``mode``.

    If ``mode.deltas.linear``, this is the prediction of the network linearised at its weights;
    otherwise it is the prediction of the network at the moved weights.

    Inside the context the parameters do not require grad. The result is therefore differentiable in
    Δ alone, and PyTorch never needs second derivatives of activations, which some activations lack.
    The rules of normalisation layers leave running averages alone; the caller restores all other
    state of the model. If ``mode.deltas.trains_weights``, parameters require grad and running
    averages are updated, as in any training pass.

    Args:
        model: The user's model.
        mode: The torch function mode whose rules serve the calls of the model.
        parts: The names of the parts that the loss function calls itself, in the order of their
            calls. The last one returns the prediction, as the model does.

    Raises:
        NotImplementedError: If an operation of the model has no derivative in forward mode.
    """

    def complete(_: nn.Module, __: Any, output: Any) -> Any:
        with past_the_mode():
            return mode.prediction.complete(output)

    def complete_outermost(*call: Any) -> Any:
        return None if mode.in_model else complete(*call)

    hooks = [model.register_forward_hook(complete)]
    try:
        with (
            nullcontext() if mode.deltas.trains_weights else frozen(model.parameters()),
            _dual_level() if mode.deltas.linear else nullcontext(),
            inside(model, mode, parts),
            mode,
            differentiable_custom_functions(mode, mode.centred)
            if mode.deltas.linear
            else nullcontext(),
        ):
            if parts:  # after the hook that notes that the part has returned
                last = model.get_submodule(parts[-1])
                hooks.append(last.register_forward_hook(complete_outermost))
            yield
    except NotImplementedError as error:
        raise NotImplementedError(
            "The model uses an operation that PyTorch cannot differentiate in forward mode "
            f"({first_line(error)}). Δ-STN needs that for every operation that follows a "
            "responding layer: replace the operation by others that do the same, give a custom "
            "autograd.Function a jvp, or let no responding layer come before it. "
            "TunerConfig(method='centered-stn') needs no forward mode."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Set ``requires_grad`` of some parameters to false inside the context."""
    training = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in training:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in training:
            parameter.requires_grad_(True)


@contextmanager
def inside(
    model: nn.Module, mode: TorchCallMode[Any], parts: Sequence[str] = ()
) -> Iterator[list[str]]:
    """Tell ``mode`` which model is called, and when the model or a part of it is running.

    Args:
        model: The user's model.
        mode: The mode.
        parts: The names of the parts that the loss function may call itself.

    Yields:
        The names of the parts that were called while neither the model nor another part was
        running, in the order of their last calls.
    """
    mode.note_model(model)
    running: list[str] = []
    outermost: list[str] = []

    def enter(name: str, *_: Any) -> None:
        if name and not running:
            outermost[:] = [other for other in outermost if other != name] + [name]
        running.append(name)
        mode.in_model = True

    def leave(*_: Any) -> None:
        running.pop()
        mode.in_model = bool(running)

    hooks = []
    for name in ("", *parts):
        module = model.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(functools.partial(enter, name)))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield outermost
    finally:
        for hook in hooks:
            hook.remove()


def parts_with_parameters(model: nn.Module) -> list[str]:
    """Return the names of all parts of a model that have parameters.

    TorchScript modules take no hooks and are left out.
    """
    return [
        name
        for name, module in model.named_modules()
        if name
        and not isinstance(module, torch.jit.ScriptModule)
        and next(module.parameters(), None) is not None
    ]


@contextmanager
def _dual_level() -> Iterator[None]:
    with _DUAL_LEVEL:
        _load_forward_formulas()
        with forward_ad.dual_level():
            yield


@functools.cache
def _load_forward_formulas() -> None:
    """Make the first dual number of the process here, so that no user sees PyTorch's warning.

    PyTorch loads TorchScript formulas at the first dual number, and warns that TorchScript is
    deprecated.
    """
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))


class UnfinishedLossError(ValueError):
    """The loss uses a scalar that the model has computed itself, and that is a dual number."""


def merged_loss(output: Any, examples: int, source: str, mode: Responding[Any]) -> Tensor:
    """Return the mean of a loss function's result, inside :func:`at_response`.

    Args:
        output: The result of the loss function: a scalar, or one value for each example, (B,).
        examples: B, the size of the batch.
        source: The name of the loss function, for messages.
        mode: The mode of the pass.

    Raises:
        UnfinishedLossError: If the loss uses a scalar that the model returns, and that was not
            completed.
        ValueError: If the loss is still a dual number: the loss function used parts of the model
            without calling the model.
    """
    with past_the_mode():  # the mode must see calls of the user's code only
        loss = mean_loss(mode.prediction.complete_end(output), examples, source)
        is_merged = not is_dual(loss)
    if not is_merged and mode.prediction.unfinished:
        raise UnfinishedLossError(
            f"{source} uses a scalar of the model's own making, such as a penalty or a loss, that "
            "depends on its layers and cannot be computed again at the linearised predictions "
            "(a call changes a tensor in place, or draws random numbers). Return from the model "
            "what the scalar is made of, and compute the scalar in the loss function:\n"
            "    prediction, logits = model(x)\n"
            "    auxiliary = my_auxiliary_loss(logits)\n"
            "    return F.cross_entropy(prediction, y) + 0.01 * auxiliary"
        )
    if not is_merged:
        raise ValueError(
            f"{source} uses layers of the model without calling model(...), or an activation "
            "that the model kept. The linearised prediction is completed where the model returns, "
            "or the part of it that is called last: let the loss function call model(...) once, "
            "and let the model return every activation that a penalty needs; or compute the loss "
            "by functions of torch.nn.functional alone."
        )
    return loss
