from __future__ import annotations

from typing import Any

from _reference import started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import HyperparameterError
from optuna_dstn.discovery._plan import _NOT_READ
from optuna_dstn.study._storage_with_deferred import inner_storage


EXAMPLES = 6
BATCH = torch.randn(EXAMPLES, 3, 4), torch.randint(2, (EXAMPLES,))


class Net(nn.Module):
    """Layers whose parameters respond, and layers whose do not, each for a reason of its own."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(rate)
        self.conv = nn.Conv1d(3, 5, 2)
        self.norm = nn.BatchNorm1d(5)
        self.frozen = nn.Linear(15, 15)
        self.elsewhere = nn.Linear(15, 15)
        self.unbatched = nn.Linear(1, 15)
        self.last = nn.Linear(15, 2)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(self.dropout(x)))).flatten(1)
        y = self.elsewhere(self.frozen(y)) + self.unbatched(torch.ones(1, 1)).cumsum(1)
        return self.last(y)


def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    net = Net(trial.suggest_float("rate", 0.0, 0.5))
    trial.suggest_float("unused", 0.0, 1.0)
    trial.suggest_categorical("choice", ["a"])
    elsewhere = {id(p) for p in net.elsewhere.parameters()}
    parameters = [p for p in net.parameters() if id(p) not in elsewhere]
    lr = trial.suggest_float("lr", 0.01, 0.1)
    return net, torch.optim.SGD(parameters, lr=lr, weight_decay=trial.suggest_float("wd", 0, 1e-2))


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def test_the_first_step_finds_what_is_tuned_and_what_responds() -> None:
    tuner = started(make, loss_fn, [BATCH])
    assert tuner.tuned == ()
    with pytest.raises(RuntimeError, match=r"call Tuner.step\(batch\) before Tuner.summary"):
        tuner.summary()
    tuner.step(BATCH)
    summary = tuner.summary()

    assert tuner.tuned == ("rate", "wd")  # in the order of the suggestions
    assert summary.tuned == {
        "rate": ("torch.nn.functional.dropout",),
        "wd": ("SGD(weight_decay=)",),
    }
    assert summary.kept.keys() == {"unused", "lr"}
    assert summary.kept["unused"] == _NOT_READ
    assert summary.kept["lr"] == "a plain number in SGD(lr=)"
    layers = ["conv", "norm", "unbatched", "last"]
    assert set(summary.responding) == {f"{n}.{p}" for n in layers for p in ("weight", "bias")}
    function = ("torch.Tensor.cumsum",)
    assert summary.shared_in_batch == {"unbatched.weight": function, "unbatched.bias": function}
    why = summary.not_responding
    assert why["frozen.weight"] == why["frozen.bias"] == "it does not require grad"
    assert why["elsewhere.weight"] == "it is not in the optimizer"
    assert why.keys() == {f"{n}.{p}" for n in ("frozen", "elsewhere") for p in ("weight", "bias")}


def test_the_summary_says_it_in_words() -> None:
    tuner = started(make, loss_fn, [BATCH])
    tuner.step(BATCH)
    text = str(tuner.summary())
    assert text.startswith("delta-stn: 2 hyperparameters tuned by gradient, moved 0 times so far\n")
    assert "  rate  (in torch.nn.functional.dropout)\n" in text
    assert "2 kept as suggested\n" in text
    assert f"  unused  ({_NOT_READ})\n" in text
    assert "8 of 12 parameters respond\n" in text
    assert "  last.bias\n" in text
    assert "  unbatched.bias  (alike in the whole batch, in torch.Tensor.cumsum)\n" in text
    assert "  frozen.weight  — no response: it does not require grad\n" in text


def test_what_is_kept_is_stored_at_once() -> None:
    """For samplers that run beside this trial; what is tuned is stored at its end."""
    study = optuna_dstn.create_study()
    trial = study.ask()
    model, optimizer = make(trial)
    tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [BATCH])
    tuner.step(BATCH)
    stored = inner_storage(study._storage).get_trial(trial._trial_id).params
    assert stored.keys() == {"choice", "lr", "unused"}


class Recurrent(nn.Module):
    """A recurrent layer, and a classifier of what it ends with."""

    def __init__(self, layer: Any, rate: float) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Sequential(nn.Dropout(rate), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layer(x)[0][:, -1])


def attention(size: int, rate: float) -> nn.Module:
    encoder = nn.TransformerEncoderLayer(4 * size, size, 6, dropout=rate, batch_first=True)
    return nn.Sequential(nn.Linear(4, 4 * size), encoder, nn.Flatten(), nn.Linear(20 * size, 3))


def recurrent(kind: Any) -> Any:
    def make(size: int, rate: float) -> nn.Module:
        return Recurrent(kind(4, 8, num_layers=size, batch_first=True), rate)

    return make


@pytest.mark.parametrize(
    ("network", "reader"),
    [
        (attention, "torch.nn.functional.multi_head_attention_forward"),
        (recurrent(nn.LSTM), "torch.lstm"),
        (recurrent(nn.GRU), "torch.gru"),
        (recurrent(nn.RNN), "torch.rnn_tanh"),
    ],
    ids=["attention", "LSTM", "GRU", "RNN"],
)
@pytest.mark.parametrize("size", [1, 2])
def test_sizes_of_a_function_that_tunes_its_dropout_are_kept(
    network: Any, reader: str, size: int
) -> None:
    batch = torch.randn(6, 5, 4), torch.randint(0, 3, (6,))

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = network(trial.suggest_int("size", 1, 4), trial.suggest_float("rate", 0.1, 0.5))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    tuner = started(
        make,
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        [batch],
        start={"size": size, "rate": 0.3},
        config=optuna_dstn.TunerConfig(warmup_steps=0, train_steps=1),
    )
    for _ in range(3):
        tuner.step(batch)
    tuner.evaluate()
    summary = tuner.summary()
    assert tuner.tuned == ("rate",)
    assert reader in summary.kept["size"]
    assert not summary.shared_in_batch
    assert tuner.hyperparameters["size"] == size
    assert tuner.hyperparameters["rate"] != 0.3


def test_a_responding_layer_may_be_used_without_the_batch_in_part() -> None:
    """Then all examples of a batch share an ε, for its change must be the same in both places."""

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Both(trial.suggest_float("rate", 0.0, 0.5))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    class Both(nn.Module):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.dropout, self.shared = nn.Dropout(rate), nn.Linear(4, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.shared(self.dropout(x[:, 0])) + self.shared(torch.ones(4)).cumsum(0)
            return self.last(y)

    tuner = started(make, loss_fn, [BATCH])
    tuner.step(BATCH)
    summary = tuner.summary()
    assert len(summary.responding) == 4
    assert summary.shared_in_batch.keys() == {"shared.weight", "shared.bias"}
    state = tuner._training.bilevel  # type: ignore[attr-defined]
    assert state.shared_draws == state.shared_validation_draws == ("rate",)


def test_nothing_that_responds_is_an_error() -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        net = nn.Sequential(nn.Dropout(trial.suggest_float("rate", 0, 0.5)), nn.BatchNorm1d(3))
        net.spare = nn.Parameter(torch.zeros(1))
        return net, torch.optim.SGD([net.spare], lr=0.1)

    tuner = started(make, lambda model, batch: model(batch[0]).square().mean(), [BATCH])
    with pytest.raises(HyperparameterError) as error:
        tuner.step(BATCH)
    message = str(error.value)
    assert "No parameter of the model responds to rate" in message
    assert "1.weight: it is not in the optimizer" in message
    assert "spare: it took no part in the first step" in message


class Odd(nn.Module):
    """A layer among which one parameter meets a function that cannot tell the examples apart."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropout, self.first = nn.Dropout(rate), nn.Linear(3, 4)
        self.odd = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,oi->bo", self.first(self.dropout(x[:, :, 0])), self.odd)


@pytest.mark.parametrize("perturbation", ["auto", "example", "batch"])
def test_a_parameter_without_a_rule_makes_one_draw_or_is_left_out(perturbation: str) -> None:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Odd(trial.suggest_float("rate", 0.0, 0.5))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    config = optuna_dstn.TunerConfig(perturbation=perturbation, warmup_steps=0, train_steps=1)
    tuner = started(make, loss_fn, [BATCH], config=config)
    for _ in range(3):
        tuner.step(BATCH)
    summary = tuner.summary()
    state = tuner._training.bilevel  # type: ignore[attr-defined]
    if perturbation == "example":
        assert summary.responding == ("first.weight", "first.bias")
        assert summary.not_responding == {"odd": "torch.einsum cannot tell the examples apart"}
        assert state.shared_draws == ()
    else:
        assert set(summary.responding) == {"first.weight", "first.bias", "odd"}
        assert summary.shared_in_batch == {"odd": ("torch.einsum",)}
        assert state.shared_draws == ("rate",)
    directions = state.response.directions[0]
    gains = state.response.gains[0]
    assert set(directions) == set(summary.responding)
    assert (gains.abs().sum(1) > 0).all()  # every unit of every responding parameter is trained
