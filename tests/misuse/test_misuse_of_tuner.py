"""A wrong argument of Tuner, or no loader or batch, is an error at once: it says what to write."""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
from typing import Any

from _mistakes import Case, Given, fit, tuner
from _small_net import BATCH, Net, loss_fn
import optuna
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import optuna_dstn
from optuna_dstn import Tuner


DATA = TensorDataset(*BATCH)
LOADER = DataLoader(DATA, batch_size=4)
CALL = r"write Tuner\(trial, model, optimizer, loss_fn, valid_loader\)"


def evaluated(**given: Any) -> Callable[[], float]:
    return lambda: Given().tuner(**given).evaluate()


def swapped() -> None:
    given = Given()
    given.tuner(model=given.optimizer, optimizer=given.model)


def twice() -> None:
    given = Given()
    given.tuner()
    given.tuner()


def of_lbfgs() -> None:
    given = Given()
    given.tuner(optimizer=torch.optim.LBFGS(given.model.parameters()))


def frozen() -> None:
    given = Given()
    given.model.requires_grad_(False)
    given.tuner()


def compiled() -> None:
    given = Given()
    given.tuner(model=torch.compile(given.model))


def shared() -> None:
    given = Given()
    given.tuner(optimizer=[given.optimizer, torch.optim.SGD(given.model.parameters())])


def compiled_in_place() -> None:
    given = Given()
    given.model.inner.compile(backend="eager")
    given.tuner()


def replicated() -> None:
    given = Given()
    given.tuner(model=nn.DataParallel(given.model))


def returns_none(tensors: list[torch.Tensor]) -> Any:
    """Forget to return the optimizer that this function makes."""
    torch.optim.Adam(tensors)


class NoLoss:
    """Neither a loss nor a loader."""


def directed(**given: Any) -> Callable[[], Tuner]:
    study = optuna_dstn.create_study(**given)
    return lambda: Given(study=study).tuner()


PARTIAL = functools.partial(F.cross_entropy, label_smoothing=0.1)
NORM = r"Tuner\(max_grad_norm={}\): give a positive number, or None not to clip"
BATCHES = (
    r"{} got a single batch \({}\), .*a DataLoader, or a list with this batch in it, \[batch\]"
)
DATA_SET = r"{} got a data set \(a TensorDataset\), .*DataLoader\(dataset, batch_size=\.\.\.\)"
NO_LOADER = r"{} got {}, and takes an iterable of batches: give a torch\.utils\.data\.DataLoader"
VALID, TRAIN, GIVEN = (
    rf"{name}\)"
    for name in (r"Tuner\(valid_loader=\.\.\.", r"fit\(train_loader=\.\.\.", r"evaluate\(loader")
)
T, V = TypeError, ValueError

CASES: dict[str, Case] = {
    # -- trial, model, optimizer -----------------------------------------------------------------
    "trial is None": (
        tuner(trial=None),
        T,
        r"got None for a trial: .*def objective\(trial\)",
    ),
    "trial is a study": (
        tuner(trial=optuna.create_study()),
        T,
        r"Tuner got a Study for a trial: .*study\.ask\(\).*FixedTrial",
    ),
    "trial is a dictionary": (tuner(trial={"h": 0.1}), T, r"got a dict for a trial.*FixedTrial\("),
    "trial has a Tuner": (twice, RuntimeError, "Trial 0 already has a Tuner.*one trial per fold"),
    "model and optimizer swapped": (swapped, T, f"optimizer in the place of the model: {CALL}"),
    "model is None": (tuner(model=None), T, r"got None for a model: give a torch\.nn\.Module"),
    "model is a class": (tuner(model=Net), T, "got the class Net for a model"),
    "model is compiled": (compiled, V, "The model is compiled.*the model itself"),
    "model is compiled in place": (
        compiled_in_place,
        V,
        r"module 'inner' is compiled in place.*Leave module\.compile\(\) out",
    ),
    "model is a DataParallel": (
        replicated,
        V,
        r"The model is a DataParallel.*model\.module.*DistributedDataParallel",
    ),
    "optimizers are none": (tuner(optimizer=[]), T, "a list of optimizers with nothing in it"),
    "optimizer among others is a class": (
        tuner(optimizer=[torch.optim.Adam, torch.optim.SGD]),
        T,
        "a list of optimizers with the class Adam in it",
    ),
    "optimizers share a parameter": (shared, V, "Two of the Tuner's optimizers hold the same"),
    "optimizer is None": (
        tuner(optimizer=None),
        T,
        r"got None for an optimizer: .*torch\.optim\.SGD\(model\.parameters\(\)",
    ),
    "optimizer is a class": (
        tuner(optimizer=torch.optim.Adam),
        T,
        "got the class Adam for an optimizer",
    ),
    "optimizer of other parameters": (
        lambda: Given().tuner(optimizer=Given().optimizer),
        V,
        "holds no parameter of the model.*after moving",
    ),
    "optimizer is LBFGS": (of_lbfgs, V, "LBFGS.*closure.*SGD"),
    "model is frozen": (frozen, V, r"No parameter of the model .*requires_grad_\(True\)"),
    # -- loss functions --------------------------------------------------------------------------
    "loss and loader swapped": (
        tuner(loss_fn=LOADER, valid_loader=loss_fn),
        T,
        f"validation loader in the place of the loss function: {CALL}",
    ),
    "loss is None": (
        tuner(loss_fn=None),
        T,
        r"Tuner\(loss_fn=None\): give a function, def loss_fn\(model, batch\)",
    ),
    "loss is a text": (tuner(loss_fn="mse"), T, r"Tuner\(loss_fn='mse'\): give a function"),
    "loss is F.cross_entropy": (
        tuner(loss_fn=F.cross_entropy),
        V,
        r"loss_fn is torch's cross_entropy, .*def loss_fn\(.*return cross_entropy\(model\(x\), y\)",
    ),
    "loss is a part of F.cross_entropy": (
        tuner(loss_fn=PARTIAL),
        V,
        r"loss_fn is torch's cross_entropy, .*def loss_fn\(model, batch\)",
    ),
    "loss is a module of torch": (
        tuner(loss_fn=nn.CrossEntropyLoss()),
        V,
        r"loss_fn is torch's CrossEntropyLoss, .*return CrossEntropyLoss\(\)\(model\(x\), y\)",
    ),
    "loss takes three": (
        tuner(loss_fn=lambda model, x, y: F.cross_entropy(model(x), y)),
        T,
        r"loss_fn cannot be called as loss_fn\(model, batch\).*write def loss_fn\(model, batch\)",
    ),
    "validation loss is F.mse_loss": (
        tuner(valid_loss_fn=F.mse_loss),
        V,
        r"valid_loss_fn is torch's mse_loss, .*def valid_loss_fn\(model, batch\)",
    ),
    "metric is a text": (
        tuner(metric_fn="accuracy"),
        T,
        r"Tuner\(metric_fn='accuracy'\): give a function, def metric_fn\(model, batch\)",
    ),
    "metric takes three": (
        tuner(metric_fn=lambda model, x, y: 1.0),
        T,
        r"metric_fn cannot be called as metric_fn\(model, batch\)",
    ),
    "metric returns None": (
        evaluated(metric_fn=lambda model, batch: None),
        T,
        r"metric_fn returned None: return a number, a scalar tensor, or one value per example",
    ),
    "metric returns a text": (
        evaluated(metric_fn=lambda model, batch: "0.5"),
        T,
        "metric_fn returned '0.5': return a number",
    ),
    # -- loaders and batches ---------------------------------------------------------------------
    **{
        f"{name} is {what}": (call(wrong), T, message.format(place, described))
        for what, wrong, message, described in (
            ("None", None, NO_LOADER, "None"),
            ("a number", 5, NO_LOADER, "5"),
            ("a text", "mnist", NO_LOADER, "'mnist'"),
            ("an object", NoLoss(), NO_LOADER, "a NoLoss"),
            ("a tuple of tensors", BATCH, BATCHES, "a tuple"),
            ("a list of different tensors", [*BATCH], BATCHES, "a list"),
            ("a tensor", BATCH[0], BATCHES, "a Tensor"),
            ("a dictionary", {"x": BATCH[0]}, BATCHES, "a dict"),
            ("a data set", DATA, DATA_SET, ""),
        )
        for name, place, call in (
            ("valid_loader", VALID, lambda wrong: tuner(valid_loader=wrong)),
            ("train_loader", TRAIN, lambda wrong: fit(train_loader=wrong)),
            ("loader of evaluate", GIVEN, lambda wrong: lambda: Given().tuner().evaluate(wrong)),
        )
        if not (wrong is None and name == "loader of evaluate")
    },
    "valid_loader is empty": (
        tuner(valid_loader=[]),
        V,
        "validation loader yields no batch.*drop_last=True",
    ),
    "valid_loader is too short for a batch": (
        tuner(valid_loader=DataLoader(DATA, batch_size=9, drop_last=True)),
        V,
        "validation loader yields no batch.*drop_last=True",
    ),
    "valid_loader is a generator": (
        tuner(valid_loader=iter([BATCH])),
        V,
        r"is an iterator or a generator.*list\(\.\.\.\)",
    ),
    **{
        f"step of {type(wrong).__name__}": (
            lambda wrong=wrong: Given().tuner().step(wrong),
            T,
            rf"takes one batch, not a {type(wrong).__name__}: write for batch in loader: tuner\.st",
        )
        for wrong in (LOADER, DATA, iter(LOADER))
    },
    # -- settings --------------------------------------------------------------------------------
    **{
        f"max_grad_norm is {norm!r}": (tuner(max_grad_norm=norm), V, NORM.format(repr(norm)))
        for norm in (-1, 0, -0.5, math.nan, "1", True)
    },
    "response_optimizer is an instance": (
        tuner(response_optimizer=Given().optimizer),
        T,
        r"response_optimizer=\.\.\.\) got a SGD: give a function .*lambda tensors: torch\.optim",
    ),
    "response_optimizer returns None": (
        lambda: Given().tuner(response_optimizer=returns_none).step(BATCH),
        T,
        r"response_optimizer returned None: return the optimizer .*lambda tensors: torch\.optim",
    ),
    "batch_axis": (tuner(batch_axis=2), V, r"Tuner\(batch_axis=2\): give 0 where .*or 1"),
    "accumulate_grad_batches is 0": (
        tuner(accumulate_grad_batches=0),
        V,
        r"accumulate_grad_batches=0\): give a whole number, at least 1",
    ),
    "total_steps is 0": (
        tuner(total_steps=0),
        V,
        r"Tuner\(total_steps=0\): give a whole number, at least 1, such as epochs \* len\(",
    ),
    "total_steps is 1e3": (
        tuner(total_steps=1e3),
        V,
        r"Tuner\(total_steps=1000\.0\): give a whole number, at least 1, such as epochs \* len\(",
    ),
    "accumulate_grad_batches is 1.5": (
        tuner(accumulate_grad_batches=1.5),
        V,
        r"accumulate_grad_batches=1\.5\): give a whole number, at least 1",
    ),
    "state is a number": (tuner(state=[1.0]), T, r"Tuner\(state=\.\.\.\) got a float.*a module"),
    "unknown direction": (tuner(direction="up"), V, r"direction='up': give \"minimize\" or \"maxi"),
    "another direction than the study's": (
        tuner(direction="maximize"),
        V,
        "direction='maximize', but the study's is 'minimize': leave it out",
    ),
    "a loss to maximise": (
        lambda: directed(direction="maximize")().evaluate(),
        V,
        "returns a loss.*give .* metric_fn",
    ),
    "two directions": (
        directed(directions=["minimize", "minimize"]),
        V,
        "has 2 directions. Create it with direction=",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("name", CASES)
def test_a_wrong_argument_of_the_tuner_is_named(name: str) -> None:
    call, error, message = CASES[name]
    with pytest.raises(error, match=f"(?s){message}"):
        call()
