"""A model that ends with an output activation or a loss is tuned as one that returns logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig
from tests._models import rows
from tests._reference import AnyModel, relative_error


STEPS = 25
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(24, 5, dtype=torch.float64, generator=GENERATOR)
Y = torch.randint(3, (24,), generator=GENERATOR)


class Net(nn.Module):
    """A classifier, and a way of ending it."""

    def __init__(self, rate: float, end: Any, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(5, 16), nn.ReLU(), nn.Dropout(rate), nn.Linear(16, classes)
        ).double()
        self.end = end

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        logits = self.body(x)
        return self.end(logits) if y is None else self.end(logits, y)


class SmoothedNet(Net):
    """A classifier that computes its own loss, the dropout rate being its label smoothing too."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        logits = self.body(x)
        return logits if y is None else F.cross_entropy(logits, y, label_smoothing=smoothing(self))


def smoothing(model: Any) -> float:
    return model.body[2].p if model.training else 0.0


def tuned(end: Any, loss_fn: Any, classes: int = 3, kind: type[Net] = Net) -> tuple[Tensor, Tensor]:
    """Return λ and the weights after some steps, from the same random numbers each time."""
    config = TunerConfig(warmup_steps=0, train_steps=2)
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial({"rate": 0.3})
    trial = study.ask()
    torch.manual_seed(0)
    model = kind(trial.suggest_float("rate", 0.0, 0.9), end, classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    tuner = Tuner(trial, model, optimizer, loss_fn, [(X, Y)])
    for _ in range(STEPS):
        tuner.step((X, Y))
    training: Any = tuner._training
    return training.bilevel.space.raw.detach(), torch.cat(
        [direction.flatten() for direction in training.bilevel.response.parameters()]
    ).detach()


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def identity(logits: Tensor) -> Tensor:
    return logits


class Named(NamedTuple):
    loss: Tensor
    logits: Tensor


@dataclass
class Output:
    loss: Tensor
    logits: Tensor


def log_softmax(logits: Tensor) -> Tensor:
    return F.log_softmax(logits, dim=1)


def probabilities(logits: Tensor) -> Tensor:
    return torch.log(logits.softmax(dim=1).clamp(min=1e-12))


def nll(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.nll_loss(model(x), y)


def own_loss(kind: Any) -> Any:
    def end(logits: Tensor, y: Tensor) -> Any:
        loss = F.cross_entropy(logits, y)
        if kind is dict:
            return {"loss": loss, "logits": logits}
        return loss if kind is None else kind(loss=loss, logits=logits)

    return end


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    output = model(x, y)
    if isinstance(output, Tensor):
        return output
    return output["loss"] if isinstance(output, dict) else output.loss


@pytest.mark.parametrize(
    ("end", "loss_fn"),
    [
        pytest.param(nn.LogSoftmax(dim=1), nll, id="a log-softmax layer"),
        pytest.param(log_softmax, nll, id="log_softmax"),
        pytest.param(probabilities, nll, id="log of clamped softmax"),
        pytest.param(own_loss(None), loss_of, id="a loss"),
        pytest.param(own_loss(dict), loss_of, id="a loss in a dict"),
        pytest.param(own_loss(Named), loss_of, id="a loss in a named tuple"),
        pytest.param(own_loss(Output), loss_of, id="a loss in a dataclass"),
    ],
)
def test_the_end_of_a_classifier_makes_no_difference(end: Any, loss_fn: Any) -> None:
    raw, response = tuned(end, loss_fn)
    expected_raw, expected_response = tuned(identity, cross_entropy)
    torch.testing.assert_close(raw, expected_raw, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(response, expected_response, rtol=1e-6, atol=1e-9)


def test_a_loss_that_the_model_computes_may_read_a_hyperparameter() -> None:
    def smoothed(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y, label_smoothing=smoothing(model))

    raw, response = tuned(identity, loss_of, kind=SmoothedNet)
    expected_raw, expected_response = tuned(identity, smoothed)
    torch.testing.assert_close(raw, expected_raw, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(response, expected_response, rtol=1e-6, atol=1e-9)


def test_a_probability_is_kept_between_0_and_1() -> None:
    def sigmoid(logits: Tensor) -> Tensor:
        return torch.sigmoid(logits).squeeze(1)

    def of_probabilities(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy(model(x), (y > 0).double())

    def of_logits(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(model(x).squeeze(1), (y > 0).double())

    raw, response = tuned(sigmoid, of_probabilities, classes=1)
    expected_raw, expected_response = tuned(identity, of_logits, classes=1)
    torch.testing.assert_close(raw, expected_raw, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(response, expected_response, rtol=1e-6, atol=1e-9)


def test_a_loss_of_the_models_own_making_trains_the_response() -> None:
    def end(logits: Tensor, y: Tensor) -> Tensor:
        return (torch.logsumexp(logits, 1) - logits[torch.arange(len(y)), y]).mean()

    _, response = tuned(end, loss_of)
    _, expected = tuned(identity, cross_entropy)
    cosine = F.cosine_similarity(response, expected, dim=0)
    assert cosine > 0.9  # the first pass runs twice, and draws other dropout masks


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda m, y: y * m.p.exp(), id="a temperature"),
        pytest.param(lambda m, y: y.sigmoid() * m.p, id="a scale of probabilities"),
        pytest.param(lambda m, y: (y.tanh() + m.p).flatten(1), id="an offset of bounded values"),
        pytest.param(lambda m, y: y.sigmoid().log() / m.p.exp(), id="of probabilities' logarithms"),
    ],
)
def test_parameters_at_the_end_of_a_model_respond(end: Any) -> None:
    model, x = rows(lambda _, y: y, p=())
    model.forward = lambda x: end(model, model.first(x))
    AnyModel(model, x).require_right()


def _scaled(y: Tensor) -> Tensor:
    y *= 5
    return y


def _assigned(y: Tensor) -> Tensor:
    y[:, 0] *= 2
    return y


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("write", [_scaled, _assigned, lambda y: y.clamp_(max=0.6)])
def test_what_is_written_into_an_output_stays(write: Any) -> None:
    """It is linearised with the rest of the model."""
    model, x = rows(lambda _, y: y)
    model.forward = lambda x: write(F.softplus(model.first(x)))
    AnyModel(model, x).require_right()


@pytest.mark.usefixtures("double_precision")
def test_what_follows_an_output_function_is_applied_to_the_complete_prediction() -> None:
    model, x = rows(lambda _, y: y)
    model.forward = model.first.forward
    case = AnyModel(model, x)
    logits = case.by_engine()
    model.forward = lambda x: 5 * model.first(x).sigmoid()
    assert relative_error(case.by_engine(), 5 * logits.sigmoid()) < 1e-12


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda _, y: y.double(), id="double"),
        pytest.param(lambda _, y: y.contiguous(), id="contiguous"),
        pytest.param(lambda m, y: y.type_as(m.first.weight), id="type_as"),
    ],
)
def test_a_conversion_that_changes_nothing_may_follow_an_output_function(convert: Any) -> None:
    model, x = rows(lambda _, y: y)
    model.forward = model.first.forward
    case = AnyModel(model, x)
    logits = case.by_engine()
    model.forward = lambda x: convert(model, model.first(x).sigmoid())
    assert relative_error(case.by_engine(), logits.sigmoid()) < 1e-12
