"""A hyperparameter in the wrong place: the error names it and a way out.

Each case is three steps of training with one mistake in them.
"""

from __future__ import annotations

import pickle
from typing import Any

from _mistakes import Case, loses, makes, sgd, uses, validates
from _small_net import Batch, Net, drop, loss_fn, make_net, three_steps
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import HyperparameterError


def stranger() -> Any:
    return optuna_dstn.create_study().ask().suggest_float("foreign", 0.0, 0.5)


def suggests_late(trial: Any) -> Any:
    model, optimizer = make_net(drop)(trial)
    calls = [0]

    def use(h: Any, x: Tensor) -> Tensor:
        calls[0] += 1
        x = F.dropout(x, h)
        return x * (1 - late) if calls[0] > 2 else x

    late = trial.suggest_float("late", 0.0, 0.5)
    model.use = use
    return model, optimizer


def keeps_tensor(h: Any, x: Tensor) -> Tensor:
    if not hasattr(h, "kept"):
        h.kept = torch.tensor(h)
    return x * h.kept


def size_too(trial: Any) -> Any:
    return sgd(Net(trial.suggest_int("n", 2, 4), lambda n, x: x * n + x[:, n - 1 : n]))


def learning_rate_too(trial: Any) -> Any:
    h = trial.suggest_float("h", 0.01, 0.9)
    return sgd(Net(h, drop), lr=h)


def left_in_evaluation(trial: Any) -> Any:
    model, optimizer = make_net(drop)(trial)
    return model.eval(), optimizer


def decays_spare(trial: Any) -> Any:
    net = nn.Linear(4, 3)
    net.spare = nn.LayerNorm(4)
    decay = trial.suggest_float("decay", 1e-4, 1e-1)
    groups = [
        {"params": net.spare.parameters(), "weight_decay": decay},
        {"params": [net.weight, net.bias]},
    ]
    return net, torch.optim.SGD(groups, lr=0.1)


def adafactor(trial: Any) -> Any:
    model = Net(0.0)
    decay = trial.suggest_float("wd", 0.0, 0.1)
    return model, torch.optim.Adafactor(model.parameters(), weight_decay=decay)


def penalised(model: Any, batch: Batch) -> Tensor:
    penalty = sum(p.pow(2).sum() for p in model.inner.parameters())
    return loss_fn(model, batch) + model.h * penalty


def penalised_by_norm(model: Any, batch: Batch) -> Tensor:
    return loss_fn(model, batch).add(model.inner.weight.norm(), alpha=model.h)


def rewarded(model: Any, batch: Batch) -> Tensor:
    return loss_fn(model, batch) + optuna_dstn.l2_penalty(model.parameters(), model.h)


def weighted(model: Any, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], weight=torch.tensor([1.0, model.h]))


def always_dropping(model: Any, batch: Batch) -> Tensor:
    return loss_fn(model, (F.dropout(batch[0], model.h), batch[1]))


H = HyperparameterError

CASES: dict[str, Case] = {
    "no rule: nan_to_num": (
        uses(lambda h, x: torch.nan_to_num(x, nan=h)),
        H,
        r"'h' .*reaches torch\.nan_to_num, which has no rule.*float\(\.\.\.\)",
    ),
    "no rule: linspace": (
        uses(lambda h, x: x * torch.linspace(0, h, 1)),
        H,
        r"'h' .*reaches torch\.linspace, which has no rule.*float\(\.\.\.\)",
    ),
    "no rule: quantile": (
        uses(lambda h, x: x - x.quantile(h)),
        H,
        r"'h' .*reaches torch\.Tensor\.quantile, which has no rule.*float\(\.\.\.\)",
    ),
    "no rule: einsum of a tensor of it": (
        uses(lambda h, x: torch.einsum("bi,i->bi", x, torch.ones(x.shape[1]) * h)),
        H,
        "hyperparameter 'h'.*reaches torch.einsum.*arithmetic",
    ),
    "converted to a plain number": (
        uses(lambda h, x: x * float(h)),
        H,
        "No hyperparameter of this trial reaches .*numbers: h.*without converting it",
    ),
    "pickled for another process": (
        makes(lambda trial: sgd(pickle.loads(pickle.dumps(make_net(drop)(trial)[0])))),
        H,
        r"No hyperparameter of this trial reaches .*made in this process \(pickling makes plain",
    ),
    "no number suggested": (
        makes(lambda trial: sgd(Net(trial.suggest_categorical("h", [0.1])))),
        H,
        "No hyperparameter of this trial reaches .*numbers: none.*optuna.create_study",
    ),
    "model in evaluation mode": (
        makes(left_in_evaluation),
        H,
        "suggested as numbers: h.*the model is in training mode",
    ),
    "late": (
        makes(suggests_late),
        H,
        r"'\(1 - late\)' first reaches torch\.Tensor\.mul after the first step.*float\(\.\.\.\)",
    ),
    "tensor kept from the first step": (
        uses(keeps_tensor),
        H,
        "'h' was read in the first step.*never since.*make it anew in each call",
    ),
    "range outside of the domain": (
        uses(drop, 0.0, 1.0),
        H,
        r"'h' ranges over \[0, 1\].*p of torch\.nn\.functional\.dropout.*\[0, 1\) only",
    ),
    "formula outside of the domain": (
        uses(lambda h, x: F.dropout(x, 1 - h)),
        H,
        r"'\(1 - h\)' ranges over \[0\.1, 1\].*p of torch\.nn\.functional\.dropout",
    ),
    "range of one value": (
        uses(drop, 0.3, 0.3),
        H,
        "'h'.*dropout.*can only be 0.3.*low == high.*Widen the range",
    ),
    "size too": (
        makes(size_too),
        H,
        r"(?=.*__getitem__)(?=.*torch\.Tensor\.mul).*'n'.*Suggest two.*int\(n\)",
    ),
    "learning rate too": (
        makes(learning_rate_too),
        H,
        r"'h' is used both as a plain number, in SGD\(lr=\).*float\(h\)",
    ),
    "of another trial": (
        uses(lambda h, x: F.dropout(x * (1 - h), stranger())),
        H,
        "'foreign'.*dropout.*from the same trial that the Tuner gets",
    ),
    "weight decay of another trial": (
        makes(lambda trial: sgd(make_net(drop)(trial)[0], weight_decay=stranger())),
        H,
        r"'foreign', read by SGD\(weight_decay=\).*from the same trial that the Tuner gets",
    ),
    "weight decay of Adafactor": (
        makes(adafactor),
        H,
        "'wd' is the weight decay of Adafactor.*Use SGD, Adam, AdamW or RMSprop",
    ),
    "weight decay of what does not respond": (
        makes(decays_spare),
        H,
        "Hyperparameter decay only penalises parameters that do not respond",
    ),
    "penalty by hand": (
        loses(penalised),
        H,
        r"'h' meets the model's parameters alone in torch\.Tensor\.mul.*weight_decay=h",
    ),
    "penalty in disguise": (
        loses(penalised_by_norm, None),
        H,
        r"'h' meets the model's parameters alone.*optuna_dstn\.l2_penalty\(",
    ),
    "penalty that may become a reward": (
        lambda: three_steps(
            make_net(None, -1.0, 1.0), rewarded, valid_loss_fn=loss_fn, start={"h": 0.5}
        ),
        H,
        r"'h' ranges over \[-1, 1\].*coefficient of.*l2_penalty.*\[0, inf\) only",
    ),
    "class weight of the wrong length": (
        loses(weighted),
        H,
        r"cross_entropy fails with hyperparameter 'h'.*defined either for all.*\[2\]",
    ),
    "validation loss reads it": (
        validates(always_dropping),
        H,
        "The validation loss reads hyperparameter 'h'.*dropout.*valid_loss_fn",
    ),
}


@pytest.mark.filterwarnings("ignore:The whole model is in evaluation mode")
@pytest.mark.parametrize("name", CASES)
def test_a_hyperparameter_in_the_wrong_place_is_named(name: str) -> None:
    call, error, message = CASES[name]
    with pytest.raises(error, match=f"(?s){message}"):
        call()
