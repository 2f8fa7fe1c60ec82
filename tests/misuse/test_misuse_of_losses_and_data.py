"""A loss or a batch that cannot be trained with: the error names it and a way out.

Each case is three steps of training with one mistake in them.
"""

from __future__ import annotations

import math
from typing import Any

from _mistakes import Case, loses, makes, sgd, uses, validates
from _small_net import BATCH, EXAMPLES, Batch, Net, drop, loss_fn
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn import HyperparameterError, TrainingDivergedError


STEPS = "The validation loss function"
EMPTY = (BATCH[0][:0], BATCH[1][:0])
SPOILED = (BATCH[0] * math.nan, BATCH[1])
INFINITE = (BATCH[0] * math.inf, BATCH[1])


class Cut(Net):
    """A network that cuts its graph."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach() + self.outer.bias.new_ones(3) * self.offset


def cuts_graph(trial: Any) -> Any:
    model = Cut(trial.suggest_float("h", 0.0, 0.9), drop)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.offset = nn.Parameter(torch.zeros(()))
    return model, optimizer


def of_hidden_layer(model: Any, batch: Batch) -> Tensor:
    hidden = F.dropout(model.inner(batch[0]), model.h, model.training)
    return F.cross_entropy(model.outer(F.relu(hidden)), batch[1]) + hidden.square().mean()


@torch.no_grad()
def without_gradients(model: nn.Module, batch: Batch) -> Tensor:
    return loss_fn(model, batch)


OTHER = nn.Linear(4, 3)


def of_copy(_: nn.Module, batch: Batch) -> Tensor:
    return loss_fn(OTHER, batch)


def with_norm(trial: Any) -> Any:
    rate = trial.suggest_float("h", 0.0, 0.9)
    return sgd(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(rate), nn.Linear(4, 3)))


LOSSES = {
    "a float": (lambda m, b: 1.0, TypeError, r"{} returned a float: return the loss as a tensor"),
    "None": (lambda m, b: None, TypeError, r"{} returned a NoneType: return the loss as a tensor"),
    "a tuple": (lambda m, b: (m(b[0]).mean(), 1), TypeError, r"{} returned a tuple: return the"),
    "predictions": (
        lambda m, b: m(b[0]),
        ValueError,
        r"{} returned .* \(8, 3\) for a batch of 8: .*one value per example, shape \(8,\)",
    ),
    "means per class": (
        lambda m, b: m(b[0]).mean(0),
        ValueError,
        r"{} returned .* \(3,\) for a batch of 8: return a scalar",
    ),
    "whole numbers": (
        lambda m, b: m(b[0]).argmax(),
        ValueError,
        r"{} returned torch\.int64: a loss must be floating point",
    ),
}
BATCHES = [("a", 3), None, 2.0, {"x": [1.0]}, torch.tensor(3.0)]
H = HyperparameterError

CASES: dict[str, Case] = {
    **{
        f"training loss: {name}": (loses(loss), error, message.format("loss_fn"))
        for name, (loss, error, message) in LOSSES.items()
    },
    **{
        f"validation loss: {name}": (validates(loss), error, message.format(STEPS))
        for name, (loss, error, message) in LOSSES.items()
    },
    **{
        f"batch: {type(batch).__name__}": (
            uses(drop, batch=batch),
            ValueError,
            rf"batch \(a {type(batch).__name__}\) holds no tensor with a batch axis.*tuple, list",
        )
        for batch in BATCHES
    },
    "loss of a hidden layer": (
        loses(of_hidden_layer),
        ValueError,
        r"loss_fn uses layers of the model without calling model\(\.\.\.\).*let the loss",
    ),
    "validation loss of a hidden layer": (
        validates(of_hidden_layer, tune_scale=True),
        ValueError,
        rf"{STEPS} uses layers of the model without calling model\(\.\.\.\)",
    ),
    "validation loss without gradients": (
        validates(without_gradients),
        H,
        r"The validation loss does not depend on the weights.*torch\.no_grad\(\)",
    ),
    "perturbed validation loss without gradients": (
        validates(without_gradients, tune_scale=True),
        H,
        r"The validation loss does not depend on the weights.*torch\.no_grad\(\)",
    ),
    "validation loss without gradients in the warm-up": (
        validates(without_gradients, warmup_steps=10),
        H,
        r"The validation loss does not depend on the weights.*torch\.no_grad\(\)",
    ),
    **{
        f"validation loss of a copy: {method}": (
            validates(of_copy, method=method),
            H,
            r"The validation loss does not depend on the weights.*no copy.*torch\.no_grad\(\)",
        )
        for method in ("delta-stn", "centered-stn", "stn")
    },
    "model cuts its graph": (makes(cuts_graph), H, "does not depend on the response.*detach"),
    "nan in the training data": (
        uses(drop, batch=SPOILED),
        TrainingDivergedError,
        r"training loss became nan at step 0 .*weights are still finite\. The training batch holds "
        r"nan in its tensor 0, of shape \(8, 4\): clean the data; give .*catch=",
    ),
    "infinity in the training data": (
        uses(drop, batch=INFINITE),
        TrainingDivergedError,
        r"The training batch holds infinite numbers in its tensor 0.*: clean the data, or if they",
    ),
    "empty training batch": (
        uses(drop, batch=EMPTY),
        TrainingDivergedError,
        "The training batch is empty, .*mean over no example is nan: leave out empty batches",
    ),
    "nan in the validation data": (
        uses(drop, valid=[SPOILED]),
        TrainingDivergedError,
        r"validation loss became nan .*The validation batch holds nan in its tensor 0.*clean the",
    ),
    "nan in the running averages": (
        makes(with_norm, batch=SPOILED),
        TrainingDivergedError,
        "weights are still finite, but a forward pass has left nan in 0.running_mean, "
        "0.running_var: load a checkpoint, or make the model anew, .*The training batch holds nan",
    ),
    "no label in the first batch": (
        uses(drop, batch=(BATCH[0], torch.full((EXAMPLES,), -100))),
        TrainingDivergedError,
        "This is the first step, so look at the data and the loss first.*Then lower the .* rate",
    ),
    "batch of one under batch normalisation": (
        makes(with_norm, batch=(BATCH[0][:1], BATCH[1][:1])),
        ValueError,
        r"Batch normalisation has no variance .*drop_last=True",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_loss_or_batch_is_named(name: str) -> None:
    call, error, message = CASES[name]
    with pytest.raises(error, match=f"(?s){message}"):
        call()
