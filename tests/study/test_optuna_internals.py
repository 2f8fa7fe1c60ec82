"""Every private name of Optuna and PyTorch that the package uses, and what it needs of it.

A failure here names the version that took one away, before users meet it as an obscure error.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
import inspect
from pathlib import Path

import optuna
import pytest
import torch

import optuna_dstn


def the_study() -> optuna.Study:
    return optuna.create_study()


def _parts_of_torch_distributed_trial() -> None:
    integration = pytest.importorskip("optuna_integration")
    source = inspect.getsource(integration.TorchDistributedTrial.__init__)
    if "self._delegate = trial" not in source or "self._group = " not in source:
        raise AttributeError("_delegate, _group")


def _suggest_in_trial() -> None:
    """A trial of several processes overrides _suggest, which all suggest methods call."""
    suggest = (
        optuna.Trial.suggest_float,
        optuna.Trial.suggest_int,
        optuna.Trial.suggest_categorical,
    )
    if not all("_suggest" in method.__code__.co_names for method in map(inspect.unwrap, suggest)):
        raise AttributeError("_suggest")


def _suggest_in_replay() -> None:
    """ReplayTrial overrides _suggest, which the suggest methods of FixedTrial call."""
    suggested: list[str] = []

    class Trial(optuna.trial.FixedTrial):
        def _suggest(self, name: str, distribution: object) -> int:
            suggested.append(name)
            return 0

    trial = Trial({})
    trial.suggest_float("float", 0.0, 1.0)
    trial.suggest_categorical("category", [0])
    if suggested != ["float", "category"]:
        raise AttributeError("_suggest")


OPTUNA: dict[str, Callable[[], object]] = {
    "Study._storage": lambda: the_study()._storage.get_all_studies,
    "Study._get_trials(deepcopy, states, use_cache)": lambda: inspect.signature(
        optuna.Study._get_trials
    ).bind(None, deepcopy=False, states=None, use_cache=True),
    "Study._thread_local": lambda: the_study()._thread_local.cached_all_trials,
    "Trial._trial_id": lambda: the_study().ask()._trial_id,
    "Trial._cached_frozen_trial": lambda: the_study().ask()._cached_frozen_trial.params,
    "Trial._fixed_params": lambda: the_study().ask()._fixed_params.items(),
    "Trial._suggest": _suggest_in_trial,
    "FixedTrial._params": lambda: optuna.trial.FixedTrial({"x": 1.0})._params["x"],
    "FixedTrial._suggest": _suggest_in_replay,
    "FixedTrial._suggested_params": lambda: optuna.trial.FixedTrial({})._suggested_params.items(),
    "FrozenTrial._trial_id": lambda: optuna.create_trial(value=0.0)._trial_id,
    "distributions._convert_old_distribution_to_new_distribution": lambda: (
        optuna.distributions._convert_old_distribution_to_new_distribution(
            optuna.distributions.FloatDistribution(0.0, 1.0)
        )
    ),
    "TorchDistributedTrial._delegate": _parts_of_torch_distributed_trial,
    "TorchDistributedTrial._group": _parts_of_torch_distributed_trial,
    "BaseDistribution._asdict": lambda: optuna.distributions.IntDistribution(0, 1)._asdict()["low"],
}


def _names_of_checkpoint(name: str) -> None:
    getattr(torch.utils.checkpoint, name)
    function = inspect.unwrap(torch.utils.checkpoint.checkpoint)
    if name not in function.__code__.co_names:
        raise AttributeError(name)


def _parts_of_dual() -> tuple[torch.Tensor, torch.Tensor]:
    with torch.autograd.forward_ad.dual_level():
        x = torch.ones(2)
        if torch._unpack_dual(x, 0)[1] is not None:
            raise TypeError
        primal, tangent = torch._unpack_dual(torch._make_dual(x, x, 0), 0)
        return primal, tangent


def _compiled_in_place() -> torch.nn.Module:
    module = torch.nn.ReLU()
    if module._compiled_call_impl is not None:
        raise TypeError
    module.compile(backend="eager")
    return module


def _is_past_a_mode() -> None:
    class Refusing(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, *args: object) -> object:
            raise TypeError

    with Refusing(), torch.overrides._pop_mode_temporarily():
        torch.ones(2).sum()


TORCH: dict[str, Callable[[], object]] = {
    # Whether a tensor was changed in place.
    "Tensor._version": lambda: range(torch.zeros(1).add_(1)._version)[0],
    # What both kinds of torch.nn.utils' weight_norm call.
    "_weight_norm": lambda: torch._weight_norm(torch.ones(2, 3), torch.ones(2, 1), 0).sum(),
    # Where a module keeps its buffers and its children.
    "Module._buffers": lambda: torch.nn.BatchNorm1d(2)._buffers["running_mean"],
    # Whether model.compile() has compiled a module in place.
    "Module._compiled_call_impl": lambda: _compiled_in_place()._compiled_call_impl.__call__,
    "Module._modules": lambda: torch.nn.Sequential(torch.nn.ReLU())._modules["0"],
    # torch.utils.checkpoint.checkpoint looks these up in its module and calls them.
    "utils.checkpoint.CheckpointFunction": lambda: _names_of_checkpoint("CheckpointFunction"),
    "utils.checkpoint._checkpoint_without_reentrant_generator": lambda: _names_of_checkpoint(
        "_checkpoint_without_reentrant_generator"
    ),
    # What torch.autograd.forward_ad calls in the end.
    "_make_dual": lambda: _parts_of_dual()[0].sum(),
    "_unpack_dual": lambda: _parts_of_dual()[1].sum(),
    # What torch.nn.functional.grouped_mm calls.
    "_grouped_mm": lambda: torch._grouped_mm(
        torch.ones(4, 8), torch.ones(2, 8, 8), offs=torch.tensor([1, 4], dtype=torch.int32)
    ).sum(),
    # The class between torch.autograd.Function and torch's own code.
    "autograd.function._SingleLevelFunction": lambda: (
        super(torch.autograd.function._SingleLevelFunction, torch.autograd.Function).apply
    ),
    # Whether forward mode is on, which a custom autograd.Function switches off in its forward.
    "_C": lambda: torch._C._is_fwd_grad_enabled(),
    "_C._is_fwd_grad_enabled": lambda: range(torch._C._is_fwd_grad_enabled()),
    # Whether a tensor is a view, into which no model writes after a custom function returned it.
    "Tensor._is_view": lambda: range(torch.zeros(2)[:1]._is_view())[0],
    # How a torch function mode runs a call outside all modes.
    "overrides._pop_mode_temporarily": _is_past_a_mode,
    # What torch.nn.utils.rnn calls.
    "_pack_padded_sequence": lambda: torch._pack_padded_sequence(
        torch.ones(2, 3, 1), torch.tensor([3, 2]), True
    )[1].tolist(),
    "_pad_packed_sequence": lambda: torch._pad_packed_sequence(
        torch.ones(5, 1), torch.tensor([2, 2, 1]), True, 0.0, 3
    )[1].tolist(),
}

# Names of Lightning, skorch and transformers, which tests/integration runs.
FRAMEWORKS = {
    "_compiler_ctx",
    "_get_num_items_in_batch",
    "_on_before_batch_transfer",
    "_optimizers",
    "_prepare_inputs",
    "_set_training",
}


@pytest.mark.parametrize("name", TORCH)
def test_private_api_of_pytorch(name: str) -> None:
    try:
        TORCH[name]()
    except (AttributeError, TypeError) as error:
        pytest.fail(f"PyTorch {torch.__version__} changed {name}, which optuna_dstn uses: {error}")


@pytest.mark.parametrize("name", OPTUNA)
def test_private_api_of_optuna(name: str) -> None:
    try:
        OPTUNA[name]()
    except (AttributeError, TypeError, KeyError) as error:
        pytest.fail(f"Optuna {optuna.__version__} changed {name}, which optuna_dstn uses: {error}")


def test_trial_suggests_through_its_storage_attribute() -> None:
    """DSTNTrial defers parameters in its storage attribute, to which Trial._suggest writes."""
    trial = the_study().ask()
    written: list[str] = []

    class Storage:
        def __getattr__(self, name: str) -> object:
            return getattr(trial.study._storage, name)

        def set_trial_param(self, trial_id: int, name: str, *rest: object) -> None:
            written.append(name)

    trial.storage = Storage()  # type: ignore[assignment]
    value = trial.suggest_float("x", 0.0, 1.0)
    message = f"Trial._suggest of Optuna {optuna.__version__} works differently now."
    assert written == ["x"], message
    assert trial.params == {"x": value}, message


def test_optimize_asks_the_study_for_its_trials() -> None:
    """DSTNStudy.ask also creates the trials of Study.optimize."""
    asked: list[optuna.Trial] = []

    class Study(optuna.Study):
        def ask(self, *args: object, **kwargs: object) -> optuna.Trial:
            asked.append(super().ask())
            return asked[-1]

    plain = the_study()
    Study(plain.study_name, plain._storage).optimize(lambda trial: 0.0, n_trials=1)
    assert len(asked) == 1, f"Study.optimize of Optuna {optuna.__version__} does not call ask()."


def test_no_other_private_name_is_used() -> None:
    """Every private name of another package is in the lists above."""
    known = {name.split("(")[0].split(".")[-1] for name in (*OPTUNA, *TORCH)} | FRAMEWORKS
    package = Path(optuna_dstn.__file__).parent
    trees = {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}
    own = {name for tree in trees.values() for name in _defined(tree)}
    used = {
        f"{path.relative_to(package)}: {node.attr}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and _is_private(node.attr)
        and node.attr not in known | own
    } | {
        f"{path.relative_to(package)}: {node.module}.{alias.name}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("optuna_dstn")
        for alias in node.names
        if any(map(_is_private, f"{node.module}.{alias.name}".split(".")))
        and alias.name not in known
    }
    versions = f"Optuna {optuna.__version__}, PyTorch {torch.__version__}"
    assert not used, f"Test that {versions} have these private names: {sorted(used)}"


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(tree: ast.Module) -> set[str]:
    """Return the functions, classes, variables and attributes that a module defines."""
    functions = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    variables = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    attributes = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return functions | variables | attributes
