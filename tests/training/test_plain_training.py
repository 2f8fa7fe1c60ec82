from __future__ import annotations

from _problems import accuracy, loss_fn, make_classification_problem, mlp
import optuna
import pytest
import torch
from torch import nn

from optuna_dstn import TrainingDivergedError, Tuner, fit


DROPOUT, LR, EPOCHS = 0.3, 0.1, 3
DISTRIBUTIONS = {
    "dropout": optuna.distributions.FloatDistribution(0.0, 0.9),
    "lr": optuna.distributions.FloatDistribution(1e-3, 1.0, log=True),
}


def plain_trial() -> optuna.Trial:
    study = optuna.create_study()
    study.enqueue_trial({"dropout": DROPOUT, "lr": LR})
    return study.ask(DISTRIBUTIONS)


TRIALS = {
    "Trial": plain_trial,
    "FixedTrial": lambda: optuna.trial.FixedTrial({"dropout": DROPOUT, "lr": LR}),
    "FrozenTrial": lambda: optuna.create_trial(
        value=0.0, params={"dropout": DROPOUT, "lr": LR}, distributions=DISTRIBUTIONS
    ),
}


@pytest.fixture(params=TRIALS)
def trial(request: pytest.FixtureRequest) -> optuna.trial.BaseTrial:
    return TRIALS[request.param]()


def suggested(trial: optuna.trial.BaseTrial) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
    lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
    return model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def by_hand() -> tuple[nn.Module, list[float]]:
    problem = make_classification_problem()
    model = mlp(DROPOUT)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    values = []
    for _ in range(EPOCHS):
        model.train()
        for batch in problem.train_loader:
            optimizer.zero_grad()
            loss_fn(model, batch).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            total = sum(loss_fn(model, (x, y)) * len(x) for x, y in problem.valid_loader)
        values.append(float(total) / len(problem.valid))
    return model, values


def test_the_weights_are_those_of_a_hand_written_loop(trial: optuna.trial.BaseTrial) -> None:
    torch.manual_seed(7)
    expected, expected_values = by_hand()

    torch.manual_seed(7)
    problem = make_classification_problem()
    model, optimizer = suggested(trial)
    tuner = Tuner(trial, model, optimizer, loss_fn, problem.valid_loader)
    values = []
    for _ in range(EPOCHS):
        for batch in problem.train_loader:
            tuner.step(batch)
        values.append(tuner.evaluate())

    assert values == expected_values
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_fit_is_the_same_loop(trial: optuna.trial.BaseTrial) -> None:
    torch.manual_seed(7)
    expected, expected_values = by_hand()

    torch.manual_seed(7)
    problem = make_classification_problem()
    model, optimizer = suggested(trial)
    loaders = problem.train_loader, problem.valid_loader
    value = fit(trial, model, optimizer, loss_fn, *loaders, epochs=EPOCHS)

    assert value == min(expected_values) == expected_values[-1]
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_nothing_is_tuned(trial: optuna.trial.BaseTrial) -> None:
    problem = make_classification_problem()
    model, optimizer = suggested(trial)
    tuner = Tuner(trial, model, optimizer, loss_fn, problem.valid_loader)
    tuner.step(next(iter(problem.train_loader)))
    assert tuner.tuned == ()
    assert tuner.hyperparameters == {"dropout": DROPOUT, "lr": LR}
    assert "Plain training" in str(tuner.summary())


def test_a_plain_trial_gets_no_attributes() -> None:
    trial = plain_trial()
    problem = make_classification_problem()
    tuner = Tuner(trial, *suggested(trial), loss_fn, problem.valid_loader)
    tuner.evaluate()
    assert trial.user_attrs == {}


def test_divergence_is_raised_before_the_weights_are_touched() -> None:
    trial = plain_trial()
    problem = make_classification_problem()
    model, optimizer = suggested(trial)
    tuner = Tuner(trial, model, optimizer, loss_fn, problem.valid_loader)
    x, y = next(iter(problem.train_loader))
    with pytest.raises(TrainingDivergedError, match="training loss became nan at step 0"):
        tuner.step((x * float("nan"), y))
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_frozen_trial_knows_the_direction_of_its_metric() -> None:
    """It has no study, but a Δ-STN trial leaves a note."""
    problem = make_classification_problem()
    trial = TRIALS["FrozenTrial"]()
    arguments = trial, *suggested(trial), loss_fn, problem.valid_loader
    with pytest.raises(ValueError, match='direction="minimize" or "maximize"'):
        Tuner(*arguments, metric_fn=accuracy)
    trial.user_attrs["dstn:direction"] = "maximize"
    tuner = Tuner(*arguments, metric_fn=accuracy)
    first = tuner.evaluate()
    for batch in problem.train_loader:
        tuner.step(batch)
    assert tuner.best_value == max(first, tuner.evaluate())


@pytest.mark.parametrize("max_grad_norm", [0.1, 1e6])
def test_clipping_is_that_of_torch(max_grad_norm: float) -> None:
    problem = make_classification_problem()

    def trained(by_hand: bool) -> torch.Tensor:
        torch.manual_seed(0)
        trial = TRIALS["FixedTrial"]()
        model, optimizer = suggested(trial)
        tuner = Tuner(
            trial, model, optimizer, loss_fn, problem.valid_loader, max_grad_norm=max_grad_norm
        )
        for batch in problem.train_loader:
            if by_hand:
                optimizer.zero_grad()
                loss_fn(model, batch).backward()
                nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
                optimizer.step()
            else:
                tuner.step(batch)
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(trained(by_hand=True), trained(by_hand=False))
