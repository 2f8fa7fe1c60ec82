"""``register_rule``: rules for functions and layers of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from optuna_dstn._experimental import experimental
from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules._per_example import PerExample
from optuna_dstn.rules._registry import (
    Examples,
    Function,
    HyperparameterRule,
    Responding,
    RuleFunction,
    registry,
)
from optuna_dstn.tensors._arguments import function_name, leaves
from optuna_dstn.tensors._dual import is_dual
from optuna_dstn.tensors._other_attributes import other_attributes


@experimental("0.1.0")
def register_rule(
    function: Callable[..., Any] | type[torch.autograd.Function] | type[nn.Module],
    *,
    hyperparameters: Iterable[str] = (),
    parameters: Mapping[str, int] | None = None,
    is_active: Callable[..., bool] | None = None,
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the decorated rule for a function or a layer of your own.

    The rule computes the function anew where each example has its own hyperparameters or its own
    parameters. It consists of operations that PyTorch differentiates in forward mode. One rule
    serves three needs: a function that reads a hyperparameter, a layer whose parameters respond,
    and an operation without a derivative in forward mode::

        class SoftClip(torch.autograd.Function):  # y = c·tanh(x/c)
            ...

        @optuna_dstn.register_rule(SoftClip, hyperparameters=["limit"])
        def soft_clip(x, limit):
            limit = optuna_dstn.rules.aligned(limit, x)  # one value per example, or a number
            return limit * torch.tanh(x / limit)

    The rule is called with the arguments of the function. A hyperparameter that is tuned, and a
    parameter that responds, is a :class:`~optuna_dstn.rules.PerExample`: values of shape
    ``(B, *s)``, where s is the shape that the function sees.
    :func:`~optuna_dstn.rules.aligned` lets the values broadcast against a tensor of the batch. In
    other calls the same argument is a plain number or tensor, which
    :func:`~optuna_dstn.rules.aligned` returns as it is.

    Args:
        function: What the rule serves:

            - a torch function, an operator of ``torch.ops``, or a function of your own that calls
              :func:`torch.overrides.handle_torch_function` as torch's own functions do;
            - a subclass of :class:`torch.autograd.Function`: the rule serves its ``apply``, and is
              called as ``apply`` is;
            - a subclass of :class:`torch.nn.Module`: the rule serves its ``forward``, and is called
              with the module first. The attributes that ``hyperparameters`` and ``parameters``
              name have their values of each example during the call.
        hyperparameters: The arguments of the function, or attributes of the module, that may be
            tuned. Whole numbers among the other arguments stay plain sizes.
        parameters: The arguments of the function, or parameters of the module, that respond, and
            the axis of each along which its units lie. The first other tensor has the examples.
        is_active: Called as the rule: does the function read the hyperparameters in this call? By
            default always. Return ``module.training`` for a layer such as dropout.

    Raises:
        TypeError: If ``function`` is not callable.
        ValueError: If the rule has no argument of a name that ``hyperparameters`` or ``parameters``
            gives.
    """
    if not callable(function):
        raise TypeError(f"register_rule takes a function or a class, not {function!r}.")
    hyperparameters, parameters = tuple(hyperparameters), dict(parameters or {})

    def register(rule: RuleFunction) -> RuleFunction:
        names = (*hyperparameters, *parameters)
        if isinstance(function, type) and issubclass(function, nn.Module):
            _register(_VisibleModule(function, rule, names), hyperparameters, parameters, is_active)
        else:
            target = _VisibleFunction(function, rule, names)
            _register(target, hyperparameters, parameters, is_active)
        return rule

    return register


class _VisibleFunction:
    """A function as torch function modes see it, and its rule.

    Attributes:
        call: What the modes see.
        sizes: The arguments that stay plain integers.
    """

    def __init__(self, function: Any, rule: Function, names: tuple[str, ...]) -> None:
        self._signature = inspect.signature(rule)
        self._rule = rule
        for name in names:
            if name not in self._signature.parameters:
                raise ValueError(f"The rule {rule.__name__}{self._signature} does not take {name}.")
        self.sizes = frozenset(self._signature.parameters.keys() - set(names))
        is_class = isinstance(function, type) and issubclass(function, torch.autograd.Function)
        self.call: Function = _visible_apply(function) if is_class else function

    def arguments(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Return the arguments of a call by name."""
        return self._signature.bind(*args, **kwargs).arguments

    def apply(self, values: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Call the rule with some arguments replaced by ``values``."""
        bound = self._signature.bind(*args, **kwargs)
        bound.arguments.update(values)
        return self._rule(*bound.args, **bound.kwargs)

    def user_arguments(self, *args: Any) -> tuple[Any, ...]:
        """Return the positional arguments as the user's code gives them."""
        return args


class _VisibleModule:
    """The forward pass of a class of modules as torch function modes see it, and its rule.

    The modes see the module, a tuple of its named attributes, and the arguments of ``forward``.
    """

    sizes = frozenset[str]()

    def __init__(self, cls: type[nn.Module], rule: Function, names: tuple[str, ...]) -> None:
        self._names = names
        self._rule = rule
        original = cls.forward

        def call(module: nn.Module, attributes: Any, *args: Any, **kwargs: Any) -> Any:
            with other_attributes(module, self.arguments(module, attributes)):
                return original(module, *args, **kwargs)

        @functools.wraps(original)
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            tensors = tuple(leaves((args, kwargs), Tensor))
            if not has_torch_function(tensors):
                return original(module, *args, **kwargs)
            attributes = tuple(getattr(module, name) for name in names)
            return handle_torch_function(call, tensors, module, attributes, *args, **kwargs)

        call.__qualname__ = cls.__qualname__
        cls.forward = forward
        self.call: Function = call

    def arguments(self, module: Any, attributes: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return dict(zip(self._names, attributes, strict=True))

    def apply(
        self, values: Mapping[str, Any], module: Any, attributes: Any, *args: Any, **kwargs: Any
    ) -> Any:
        with other_attributes(module, {**self.arguments(module, attributes), **values}):
            return self._rule(module, *args, **kwargs)

    def user_arguments(self, module: Any, attributes: Any, *args: Any) -> tuple[Any, ...]:
        return module, *args


def _visible_apply(cls: Any) -> Function:
    """Let torch function modes see ``cls.apply``, which torch itself hides from them."""
    original = cls.apply

    def apply(*args: Any, **kwargs: Any) -> Any:
        tensors = tuple(leaves((args, kwargs), Tensor))
        if has_torch_function(tensors):
            return handle_torch_function(apply, tensors, *args, **kwargs)
        return original(*args, **kwargs)

    apply.__qualname__ = f"{cls.__qualname__}.apply"
    cls.apply = staticmethod(apply)
    return apply


def _register(
    target: _VisibleFunction | _VisibleModule,
    hyperparameters: tuple[str, ...],
    parameters: Mapping[str, int],
    is_active: Callable[..., bool] | None,
) -> None:
    """Register the rules of each kind that a user's rule serves."""
    call = target.call

    def apply(deltas: Deltas, *args: Any, **kwargs: Any) -> Any:
        given = leaves((args, kwargs), (Tensor, PerExample))
        if not any(isinstance(x, PerExample) or x in deltas or is_dual(x) for x in given):
            return call(*args, **kwargs)
        named = target.arguments(*args, **kwargs)
        values = {
            name: _moved(deltas, named[name], name, call)
            for name in parameters
            if isinstance(named.get(name), Tensor)
        }
        return target.apply(values, *args, **kwargs)

    def responding(*args: Any, **kwargs: Any) -> Responding:
        named = target.arguments(*args, **kwargs)
        return [(named.get(name), (axis,)) for name, axis in parameters.items()]

    def examples(roles: TensorRoles, *args: Any, **kwargs: Any) -> Examples | None:
        own = {id(parameter) for parameter, _ in responding(*args, **kwargs)}
        others = (t for t in leaves((args, kwargs), Tensor) if id(t) not in own)
        first = next(others, None)
        return None if first is None else Examples(first)

    def reads(*args: Any, **kwargs: Any) -> bool:
        return is_active is None or bool(is_active(*target.user_arguments(*args), **kwargs))

    @registry.forward_ad(call)
    def without_deltas(*args: Any, **kwargs: Any) -> Any:
        if any(map(is_dual, leaves((args, kwargs), Tensor))):
            return target.apply({}, *args, **kwargs)
        return call(*args, **kwargs)

    if parameters:
        registry.layer(call, responding=responding, examples=examples)(apply)
    if hyperparameters:
        registry.hyperparameter_rules[call] = HyperparameterRule(
            apply, reads, {}, target.arguments, takes_deltas=True, sizes=target.sizes
        )


def _moved(deltas: Deltas, parameter: Tensor, name: str, function: Function) -> PerExample:
    """Return p + Δp of each example, shape (B, *p); a dual number where the pass is linear."""
    values = parameter.expand(deltas.batch.examples, *parameter.shape)
    terms = deltas.of(parameter)
    if terms:
        values = deltas.moved(values, torch.stack([term.per_example() for term in terms]).sum(0))
    return PerExample(values, name, function_name(function), deltas.batch)
