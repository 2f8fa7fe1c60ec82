"""Losses that users write themselves from arithmetic, and label smoothing tuned end to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _problems import CLASSES, Problem, loss_fn, make_classification_problem, mlp
from _reference import perturbing
import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import HyperparameterError
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter


EXAMPLES = 4
VALUES = torch.tensor([0.2, 0.5, 0.9, 2.5], dtype=torch.float64)
h: Any = hyperparameter(0.5, Symbol("h"))


def focal(h: Any, logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Lin et al., 2017, "Focal Loss for Dense Object Detection", equation 4."""
    log_p = F.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    return -((1 - log_p.exp()) ** h) * log_p


def binary_focal(h: Any, logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    targets = F.one_hot(labels, CLASSES).to(logits)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((1 - torch.exp(-losses)).pow(h) * losses).mean(1)


def temperature(h: Any, logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    return F.cross_entropy(logits / h, labels, reduction="none")


def distillation(h: Any, logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Hinton et al., 2015, "Distilling the Knowledge in a Neural Network", section 2."""
    divergence = F.kl_div(F.log_softmax(logits / h, 1), F.softmax(other / h, 1), reduction="none")
    return divergence.sum(1) * h**2


def bootstrapped(h: Any, logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Reed et al., 2015, "Training Deep Neural Networks on Noisy Labels with Bootstrapping"."""
    onehot = F.one_hot(labels, CLASSES).to(logits)
    targets = (1 - h) * onehot + h * F.softmax(logits, 1).detach()
    return F.cross_entropy(logits, targets, reduction="none")


def generalized_cross_entropy(h: Any, logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Zhang & Sabuncu, 2018, equation 6."""
    p = F.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    return (1 - p**h) / h


def adjusted_logits(h: Any, logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Menon et al., 2021, "Long-tail learning via logit adjustment", equation 10."""
    log_prior = torch.tensor([0.7, 0.2, 0.1], dtype=logits.dtype).log()
    return F.cross_entropy(logits + h * log_prior.expand_as(logits), labels, reduction="none")


def two_terms(h: Any, logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    supervised = F.cross_entropy(logits, labels, reduction="none")
    consistency = F.mse_loss(logits.softmax(1), other.softmax(1), reduction="none").sum(1)
    return (1 - h) * supervised + h * consistency


def scattered_smoothing(h: Any, logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """The form of label smoothing that many repositories copy."""
    with torch.no_grad():
        targets = torch.zeros_like(logits)
        targets.fill_(h / (CLASSES - 1)).scatter_(1, labels.unsqueeze(1), 1 - h)
    return -(targets * F.log_softmax(logits, 1)).sum(1)


def scattered_out_of_place(h: Any, logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    targets = torch.full_like(logits, h / (CLASSES - 1)).scatter(1, labels[:, None], value=1 - h)
    return -(targets * F.log_softmax(logits, 1)).sum(1)


Recipe = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
RECIPES: list[Recipe] = [
    focal,
    binary_focal,
    temperature,
    distillation,
    bootstrapped,
    generalized_cross_entropy,
    adjusted_logits,
    two_terms,
    scattered_smoothing,
    scattered_out_of_place,
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_example_sees_its_own_value(recipe: Recipe) -> None:
    logits = torch.randn(EXAMPLES, CLASSES, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(EXAMPLES) % CLASSES
    other = torch.randn(EXAMPLES, CLASSES, dtype=torch.float64)
    with perturbing({"h": VALUES}, {"h": 0.5}):
        losses = recipe(h, logits, labels, other)
    examples = zip(VALUES.tolist(), logits.split(1), labels.split(1), other.split(1), strict=True)
    expected = torch.cat([recipe(*example) for example in examples])
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    gradient, expected_gradient = (
        torch.autograd.grad(loss.sum(), logits)[0] for loss in (losses, expected)
    )
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-14)


# -- end to end -----------------------------------------------------------------------------------


def smoothed_objective(problem: Problem, **tuner_options: Any) -> Callable[[Any], float]:
    def objective(trial: Any) -> float:
        model = mlp(width=64)
        criterion = nn.CrossEntropyLoss(
            label_smoothing=trial.suggest_float("label_smoothing", 0.0, 0.9)
        )

        def smoothed(model: nn.Module, batch: Any) -> Tensor:
            x, y = batch
            return criterion(model(x), y)

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        tuner = optuna_dstn.Tuner(
            trial, model, optimizer, smoothed, problem.valid_loader, **tuner_options
        )
        for _ in range(25):
            for batch in problem.train_loader:
                tuner.step(batch)
            tuner.evaluate()
        return tuner.best_value

    return objective


@pytest.mark.parametrize("mislabelled", [False, True])
def test_label_smoothing_goes_where_plain_training_finds_it_best(mislabelled: bool) -> None:
    """A little where the labels are right, much where half of them are wrong."""
    problem = make_classification_problem()
    if mislabelled:
        labels = problem.train.tensors[1]
        labels[::2] = (labels[::2] + 1) % CLASSES

    def plain_loss(smoothing: float) -> float:
        torch.manual_seed(0)
        fixed = optuna.trial.FixedTrial({"label_smoothing": smoothing})
        return smoothed_objective(problem, valid_loss_fn=loss_fn)(fixed)

    best = min([0.0, 0.1, 0.4, 0.8], key=plain_loss)

    config = optuna_dstn.TunerConfig(warmup_steps=10, train_steps=2, hyper_lr=0.05)
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial({"label_smoothing": 0.4})
    study.optimize(smoothed_objective(problem, valid_loss_fn=loss_fn), n_trials=1)
    (trial,) = study.trials
    tuned = optuna_dstn.hyperparameter_schedule(trial)["label_smoothing"].iloc[-1]
    assert abs(tuned - best) < 0.15


def test_a_forgotten_valid_loss_fn_is_named() -> None:
    study = optuna_dstn.create_study()
    with pytest.raises(HyperparameterError) as error:
        study.optimize(smoothed_objective(make_classification_problem()), n_trials=1)
    assert "The validation loss reads hyperparameter 'label_smoothing'" in str(error.value)
    assert "torch.nn.functional.cross_entropy" in str(error.value)
    assert "Give the Tuner a valid_loss_fn without it" in str(error.value)
