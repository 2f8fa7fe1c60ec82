"""``TunedNet``, the nets of skorch that tune."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import optuna
import pytest
from sklearn.base import clone
from skorch import NeuralNet, NeuralNetClassifier
from skorch.callbacks import Checkpoint, EarlyStopping, GradientNormClipping
from skorch.dataset import Dataset, ValidSplit
from skorch.helper import predefined_split
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import optuna_dstn
from optuna_dstn.integration.skorch import TunedNet, TunedNetClassifier, TunedNetRegressor


FEATURES, CLASSES, BATCH = 6, 3, 16
START = {"dropout": 0.3, "weight_decay": 1e-2}
EAGER = optuna_dstn.TunerConfig(warmup_steps=0, train_steps=1, hyper_lr=0.1)


def data(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)
    return x, x[:, :CLASSES].argmax(1)


X, Y = data(64, 0)
VALID = Dataset(*data(32, 1))


class Network(nn.Module):
    def __init__(self, dropout: float = 0.0, outputs: int = CLASSES) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURES, 8)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(8, outputs)

    def forward(self, X: Tensor) -> Tensor:  # noqa: N803
        logits: Tensor = self.out(self.dropout(F.relu(self.hidden(X))))
        return logits


def net_of(trial: Any, kind: Any = TunedNetClassifier, **kwargs: Any) -> Any:
    settings: dict[str, Any] = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer__momentum": 0.9,
        "lr": 0.1,
        "max_epochs": 3,
        "batch_size": BATCH,
        "train_split": predefined_split(VALID),
        "iterator_train__shuffle": True,
        "verbose": 0,
    }
    own = {"trial": trial} if issubclass(kind, TunedNet) else {}
    return kind(
        Network,
        module__dropout=trial.suggest_float("dropout", 0.0, 0.9),
        optimizer__weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        **{**settings, **own, **kwargs},
    )


def tuned_trial(direction: str = "minimize") -> optuna_dstn.DSTNTrial:
    study = optuna_dstn.create_study(direction=direction, config=EAGER)
    study.enqueue_trial(START)
    return study.ask()


def fitted(net: Any) -> Any:
    torch.manual_seed(0)
    return net.fit(X, Y)


def weights(net: Any) -> dict[str, Tensor]:
    return dict(net.module_.state_dict())


@pytest.mark.parametrize("kind", ["study", "fixed"])
def test_under_a_plain_trial_the_net_trains_as_ever(kind: str) -> None:
    study = optuna.create_study()
    study.enqueue_trial(START)
    trial = study.ask() if kind == "study" else optuna.trial.FixedTrial(START)
    clipping = {"callbacks": [GradientNormClipping(0.5)]}
    theirs = fitted(net_of(optuna.trial.FixedTrial(START), NeuralNetClassifier, **clipping))
    ours = fitted(net_of(trial, **clipping))

    expected = weights(theirs)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(ours).items())
    losses = ["train_loss", "valid_loss", "valid_acc"]
    assert ours.history[:, losses] == theirs.history[:, losses]
    assert ours.tuner_.best_value == min(ours.history[:, "valid_loss"])


def test_weights_and_hyperparameters_are_those_of_tuner_step() -> None:
    net = fitted(net_of(tuned_trial(), callbacks=[GradientNormClipping(0.5)]))

    trial = tuned_trial()
    torch.manual_seed(0)
    model = Network(trial.suggest_float("dropout", 0.0, 0.9))
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.1,
        momentum=0.9,
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
    )
    valid_loader = DataLoader(VALID, BATCH)
    tuner = optuna_dstn.Tuner(
        trial,
        model,
        optimizer,
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        valid_loader,
        max_grad_norm=0.5,
    )
    loader = DataLoader(Dataset(X, Y), BATCH, shuffle=True)
    losses = []
    for _ in range(3):
        for batch in loader:
            tuner.step(batch)
        losses.append(tuner.evaluate())

    assert net.tuner_.tuned == ("dropout", "weight_decay")
    assert net.tuner_.hyperparameters["dropout"] != START["dropout"]
    assert net.tuner_.hyperparameters == pytest.approx(tuner.hyperparameters, rel=1e-5)
    assert net.history[:, "valid_loss"] == pytest.approx(losses, rel=1e-5)
    expected = model.state_dict()
    for name, tensor in weights(net).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


def test_a_clone_tunes() -> None:
    study = optuna_dstn.create_study(config=EAGER)
    study.enqueue_trial(START)

    def objective(trial: optuna.Trial) -> float:
        net = fitted(clone(net_of(trial)))
        assert net.trial is trial
        return float(net.tuner_.best_value)

    study.optimize(objective, n_trials=1)
    schedule = optuna_dstn.hyperparameter_schedule(study.best_trial)
    assert study.best_params["dropout"] == pytest.approx(
        schedule["dropout"][schedule["value"].idxmin()], rel=1e-4
    )
    assert study.best_params["dropout"] != START["dropout"]


def test_each_fit_needs_a_trial_of_its_own() -> None:
    net = net_of(tuned_trial())
    fitted(net)
    with pytest.raises(RuntimeError, match="already has a Tuner"):
        fitted(clone(net))


def test_training_may_go_on() -> None:
    net = fitted(net_of(tuned_trial()))
    tuner, before = net.tuner_, net.tuner_.hyperparameters
    net.partial_fit(X, Y)
    assert net.tuner_ is tuner
    assert tuner.hyperparameters != before


def test_callbacks_work(tmp_path: Any) -> None:
    callbacks = [
        Checkpoint(dirname=str(tmp_path), load_best=True),
        EarlyStopping(patience=4, threshold=10.0, threshold_mode="abs"),
    ]
    net = fitted(net_of(tuned_trial(), callbacks=callbacks, max_epochs=20))

    assert len(net.history) == 5  # no later epoch is better by 10
    assert net.tuner_.best_value == min(net.history[:, "valid_loss"])
    best = {name: tensor.clone() for name, tensor in weights(net).items()}
    net.tuner_.load_best()
    assert all(torch.equal(tensor, best[name]) for name, tensor in weights(net).items())


def test_accuracy_may_be_recorded() -> None:
    net = fitted(net_of(tuned_trial("maximize"), monitor="valid_acc", lower_is_better=False))
    assert net.tuner_.best_value == max(net.history[:, "valid_acc"])
    with pytest.raises(ValueError, match="maximize its value, but valid_loss is to be minimized"):
        fitted(net_of(tuned_trial("maximize")))
    with pytest.raises(KeyError, match="history has no 'valid_f1'"):
        fitted(net_of(tuned_trial(), monitor="valid_f1"))


def test_validation_leaves_label_smoothing_out() -> None:
    trial = tuned_trial()
    smoothing = trial.suggest_float("smoothing", 0.0, 0.5)
    net = fitted(net_of(trial, criterion__label_smoothing=smoothing))

    assert set(net.tuner_.tuned) == {*START, "smoothing"}
    with torch.no_grad():
        loss = F.cross_entropy(net.module_.eval()(torch.tensor(VALID.X)), torch.tensor(VALID.y))
    assert net.history[-1, "valid_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert net.criterion_.label_smoothing is smoothing


def test_validation_data_are_needed() -> None:
    with pytest.raises(ValueError, match="train_split holds none out"):
        fitted(net_of(tuned_trial(), train_split=None))
    fitted(net_of(optuna.trial.FixedTrial(START), train_split=None))
    fitted(net_of(tuned_trial(), train_split=ValidSplit(4)))


def test_probabilities_and_numbers_are_predicted() -> None:
    class Softmax(Network):
        def forward(self, X: Tensor) -> Tensor:  # noqa: N803
            return super().forward(X).softmax(-1)

    net = net_of(tuned_trial(), criterion=nn.NLLLoss).set_params(module=Softmax)
    assert "dropout" in fitted(net).tuner_.tuned
    assert fitted(net_of(optuna.trial.FixedTrial(START))).predict(X).shape == Y.shape

    targets = X[:, :1].copy()
    valid = predefined_split(Dataset(VALID.X, VALID.X[:, :1].copy()))
    net = net_of(
        tuned_trial(),
        TunedNetRegressor,
        criterion=nn.MSELoss,
        module__outputs=1,
        train_split=valid,
        lr=0.01,
    )
    assert "dropout" in net.fit(X, targets).tuner_.tuned


def test_several_optimizers_are_refused() -> None:
    class Two(TunedNet, NeuralNet):
        def initialize_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            super().initialize_optimizer(*args, **kwargs)
            self.other_ = torch.optim.SGD(self.module_.parameters(), lr=0.1)
            return self

    with pytest.raises(ValueError, match="The net has 2 optimizers"):
        fitted(net_of(tuned_trial(), Two))


def test_a_trained_net_can_be_pickled_and_copied() -> None:
    net = fitted(net_of(tuned_trial()))
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert other.trial is None
        assert np.array_equal(other.predict(X), net.predict(X))
    assert net.tuner_ is not None
