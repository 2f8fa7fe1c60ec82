"""The modes of the passes at w + Θε: the response's pass, and the hyperparameters' pass.

The response's pass runs on training data, where each example has its own values of the
hyperparameters. The hyperparameters' pass runs on validation data.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
import functools
from typing import Any

from torch import Tensor, nn

from optuna_dstn._errors import HyperparameterError
from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.linearize._dual_calls import run
from optuna_dstn.linearize._prediction import Prediction
from optuna_dstn.linearize._torch_call_mode import TorchCallMode, Tracked, run_in_validation
from optuna_dstn.linearize._tracked_tensors import (
    computed_per_example,
    draws_rows,
    is_spread_over_batch,
    makes_tensor,
    may_have_examples,
    values_of_new_tensor,
    without_rule,
)
from optuna_dstn.parameters._meeting_examples import (
    EXPANDING_FUNCTIONS,
    examples_met,
    for_each_example,
    spread,
)
from optuna_dstn.parameters._weights import (
    METADATA_FUNCTIONS,
    is_of_weights,
    looks_only,
    responding_results,
)
from optuna_dstn.parameters._written_weights import move_shared_in_batch, write_weight
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules import (
    HyperparameterRule,
    PerExample,
    forward_ad_rules,
    hyperparameter_rules,
    layer_rules,
    penalty_rules,
)
from optuna_dstn.space import NamedColumns
from optuna_dstn.tensors._arguments import (
    Call,
    Function,
    function_name,
    leaves,
    replaced,
    results_of,
)
from optuna_dstn.tensors._dual import is_dual
from optuna_dstn.tensors._in_place import is_in_place, works_in_place


class Responding(TorchCallMode[Tracked]):
    """The mode of a pass in which each example has its own Δ of the responding parameters.

    Args:
        values: The current value of each hyperparameter.
        deltas: Δ of the responding parameters, for each example; whether the network is linearised
            in Δ; and the batch axis of tensors.

    Attributes:
        deltas: As given. Tensors that the pass computes from parameters alone are added.
        prediction: Completes the dual numbers that the model returns.
        centred: The names of the functions that took the centred pass, since nothing gives their
            derivative in forward mode.
    """

    def __init__(self, values: Mapping[str, float], deltas: Deltas) -> None:
        super().__init__(values)
        self.deltas = deltas
        self.prediction = Prediction()
        self.centred: set[str] = set()
        self._roles = TensorRoles(deltas.batch, deltas.__contains__)

    def note_model(self, model: nn.Module) -> None:
        self._roles.buffers = {id(buffer) for buffer in model.buffers()}

    def on_call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        deltas = self.deltas
        rule = layer_rules.get(func)
        if rule is not None and rule.serves(self._roles, args, kwargs):
            output = rule.apply(deltas, *args, **kwargs)
            if self.prediction.recorded is not None and not any(
                t in deltas for t in leaves((args, kwargs), Tensor)
            ):
                self.prediction.recorded.note(func, args, kwargs, output)
            deltas.batch.note(func, args, kwargs, output)
            return output
        self.note_write(func, args, kwargs)
        tensors = leaves((args, kwargs), Tensor)
        own = [t for t in tensors if t in deltas]
        if own and self.in_model and not looks_only(Call(func, args, kwargs), own):
            output, meets_examples = self._combined(own, tensors, Call(func, args, kwargs))
        else:
            output, meets_examples = run(func, args, kwargs, self.centred), False
            self.prediction.note(func, args, kwargs, output)  # a call with Δ must not run twice
        if is_in_place(func) and not all(self._roles.is_constant(t) for t in tensors):
            self._roles.forget(args[0])
        elif not meets_examples:
            self._roles.note(func, tensors, output)
        deltas.batch.note(func, args, kwargs, output)
        return output

    def _combined(self, own: list[Tensor], tensors: list[Tensor], call: Call) -> tuple[Any, bool]:
        """Run a call of a function that has no layer rule, on responding parameters.

        Args:
            own: The tensors among the arguments that respond.
            tensors: All tensors among the arguments.
            call: The call.

        Returns:
            The result of the call, and whether the call combines the parameters with examples.
        """
        deltas = self.deltas
        func, args, kwargs = call
        if works_in_place(func, kwargs) and args[0] in deltas:
            if self._are_weights_alone(own, tensors, func):
                output = write_weight(deltas, own, call, forward_ad_rules)
                if output is not None:
                    return output, False
            move_shared_in_batch(deltas, args[0])
            own = [t for t in own if t in deltas]
        like = examples_met(call, own, self._roles) if own else None
        if like is not None and func in EXPANDING_FUNCTIONS:
            output = spread(deltas, call)
            if output is not None:
                return output, True
            like = None
        if self._are_weights_alone(own, tensors, func):
            output = responding_results(deltas, own, call, forward_ad_rules)
            if output is not None:
                return output, False
        args, kwargs = self._moved(args, kwargs, like)
        return run(func, args, kwargs, self.centred), like is not None

    def _moved(self, args: tuple[Any, ...], kwargs: dict[str, Any], like: Tensor | None) -> Any:
        """Return arguments with parameters moved for each of the examples ``like``, or alike."""
        deltas = self.deltas
        move = (
            deltas.shared_in_batch
            if like is None
            else functools.partial(for_each_example, deltas, like=like)
        )
        return replaced((args, kwargs), lambda t: move(t) if t in deltas else t, Tensor)

    def _are_weights_alone(self, own: list[Tensor], tensors: list[Tensor], func: Function) -> bool:
        """Whether a call combines the weights ``own`` with nothing else that responds."""
        others = [] if func in METADATA_FUNCTIONS else [t for t in tensors if t not in self.deltas]
        return is_of_weights(func, tensors, own, self._roles) and not any(map(_responds, others))


class PerturbedValues(Responding[PerExample]):
    """The mode of the response's pass: every tuned hyperparameter has one value for each example.

    Args:
        values: The current value of each hyperparameter.
        deltas: Δ of the responding parameters.
        perturbed: The values of the tuned hyperparameters, one for each example, as named columns
            of a matrix (B, h).
        shared: The values of the tuned hyperparameters that have one value for the whole batch.

    Attributes:
        names: The names of the hyperparameters that torch calls have read so far.
    """

    def __init__(
        self,
        values: Mapping[str, float],
        deltas: Deltas,
        perturbed: NamedColumns,
        shared: Mapping[str, float],
    ) -> None:
        super().__init__({**values, **shared}, deltas)
        self.names: set[str] = set()
        self._columns = perturbed
        self._examples = perturbed.matrix.shape[0]
        self._perturbed: Mapping[str, Any] = ChainMap(perturbed, self._values)  # type: ignore[arg-type]

    def on_hyperparameter_call(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        rule = hyperparameter_rules.get(func)
        if rule is not None and not rule.is_active(*args, **kwargs):
            return self.run_at_current_values(func, args, kwargs)
        if makes_tensor(func, args, kwargs):
            made_of = leaves((args, kwargs), Hyperparameter)
            if made_of:
                return self._new_tensor(made_of, func, args, kwargs)
        function = function_name(func)
        numbers: list[Hyperparameter] = []
        perturbed: list[PerExample] = []
        others: list[Tensor] = []

        def per_example(leaf: Any) -> Any:
            if isinstance(leaf, Hyperparameter):
                numbers.append(leaf)
                self.names |= leaf.names
                values, formula = leaf.expression.evaluate(self._perturbed), str(leaf.expression)
                if not isinstance(values, Tensor):
                    return values
            else:
                source = self.tracked.get(leaf)
                if source is None:
                    others.append(leaf)
                    return leaf
                values, formula = source.values, source.formula
            perturbed.append(PerExample(values, formula, function, self.deltas.batch))
            return perturbed[-1]

        own_args, own_kwargs = replaced((args, kwargs), per_example, (Hyperparameter, Tensor))
        if not perturbed:
            return self.on_call(func, own_args, own_kwargs)
        if func in penalty_rules:
            return penalty_rules[func].apply(self.deltas, *own_args, **own_kwargs)
        if rule is None and numbers:
            return self.run_at_current_values(func, args, kwargs)  # sizes
        if func in METADATA_FUNCTIONS:
            others = []
        if any(may_have_examples(func, t, self._roles) for t in others) or draws_rows(
            func, args, kwargs, self._examples
        ):
            if rule is None:
                raise without_rule(perturbed[0].formula, function)
            weights = [t for t in others if t in self.deltas]
            if weights and self.in_model and not rule.takes_deltas:
                like = examples_met(Call(func, own_args, own_kwargs), weights, self._roles)
                own_args, own_kwargs = self._moved(own_args, own_kwargs, like)
            output = self._by_rule(rule, perturbed, own_args, own_kwargs)
            self.deltas.batch.note(func, own_args, own_kwargs, output)
            self.prediction.note(func, own_args, own_kwargs, output, self._form(rule))
            return output
        if any(_responds(t) for t in others) and rule is not None:  # the batch axis is missing
            return self._by_rule(rule, perturbed, own_args, own_kwargs)
        return self._computed(perturbed, func, (args, kwargs), own_args, own_kwargs)

    def _form(self, rule: HyperparameterRule) -> Function:
        """Return the function to call in place of the torch function."""
        return functools.partial(rule.apply, self.deltas) if rule.takes_deltas else rule.apply

    def _by_rule(
        self,
        rule: HyperparameterRule,
        sources: list[PerExample],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return self._form(rule)(*args, **kwargs)
        except HyperparameterError:
            raise
        except (RuntimeError, TypeError, IndexError) as error:
            formula = ", ".join(dict.fromkeys(source.formula for source in sources))
            raise HyperparameterError(
                f"{sources[0].function} fails with one value of {formula} for each of the "
                f"{self._examples} examples ({error}). Let what it meets have the batch as its "
                f"first axis, or write float(...) around {formula} to leave it to the study's "
                "sampler."
            ) from error

    def _new_tensor(
        self,
        numbers: list[Hyperparameter],
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self.names.update(*(number.names for number in numbers))
        output = self.run_at_current_values(func, args, kwargs)
        if all(number.names.isdisjoint(self._columns) for number in numbers):
            return output
        values = values_of_new_tensor(
            func, args, kwargs, output, self._columns, lambda e: e.evaluate(self._perturbed)
        )
        formula = ", ".join(str(number.expression) for number in numbers)
        source = PerExample(values, formula, function_name(func), self.deltas.batch)
        return self._track(func, output, source)

    def _computed(
        self,
        sources: list[PerExample],
        func: Function,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a call on tensors of hyperparameters without data, at the values of all examples.

        Args:
            sources: The hyperparameters among the arguments.
            func: The torch function.
            given: The arguments of the user's call.
            args: The positional arguments, with each hyperparameter as a ``PerExample``.
            kwargs: The keyword arguments, likewise.

        Returns:
            The result at the current values; the mode keeps the values of all examples beside it.
        """
        if is_in_place(func):
            results = computed_per_example(func, args, kwargs, self._examples)
            output = self.run_at_current_values(func, *given)
            targets = given[0][:1]
        else:
            output = self.run_at_current_values(func, *given)
            targets = results_of(output)
            if not leaves(targets, Tensor):  # t.shape, t.item()
                return output
            results = computed_per_example(func, args, kwargs, self._examples)
        formula = ", ".join(dict.fromkeys(source.formula for source in sources))
        batch = self.deltas.batch
        sources = [PerExample(values, formula, function_name(func), batch) for values in results]
        tracked = [self._track(func, *pair) for pair in zip(targets, sources, strict=True)]
        return tracked[0] if output is targets[0] else output

    def _track(self, func: Function, tensor: Tensor, source: PerExample) -> Tensor:
        if is_spread_over_batch(func, tensor, self._examples):
            rows = source.values.diagonal(dim1=0, dim2=1).movedim(-1, 0)
            return tensor.copy_(rows) if is_in_place(func) else rows.contiguous()
        self.tracked[tensor] = source
        return tensor


class RespondingValidation(Responding[str]):
    """The mode of the hyperparameters' pass: on validation data, which may read none of them."""

    def on_hyperparameter_call(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return run_in_validation(self, func, args, kwargs)


def _responds(tensor: Tensor) -> bool:
    """Whether a tensor of a linearised pass depends on Δ."""
    return tensor.requires_grad or is_dual(tensor)
