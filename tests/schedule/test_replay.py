from __future__ import annotations

from typing import Any

from _problems import QUICK, accuracy, loss_fn, make_classification_problem, make_objective, mlp
import optuna
from optuna.storages import BaseStorage
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import optuna_dstn
from optuna_dstn import HyperparameterError, hyperparameter_schedule, replay_schedule


PROBLEM = make_classification_problem()


class Objective:
    """Tunes a dropout and a decay, suggests a rate and a category, and records each step."""

    def __init__(self, epochs: int = 3) -> None:
        self.epochs = epochs
        self.seen: list[dict[str, float]] = []
        self.optimizer: Any = None

    def __call__(self, trial: Any) -> float:
        torch.manual_seed(0)
        model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
        kind = trial.suggest_categorical("kind", ["SGD", "Adam"])
        self.optimizer = getattr(torch.optim, kind)(
            model.parameters(),
            lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
            weight_decay=trial.suggest_float("decay", 1e-6, 1e-1, log=True),
        )
        tuner = optuna_dstn.Tuner(trial, model, self.optimizer, loss_fn, PROBLEM.valid_loader)
        self.seen = []
        for epoch in range(self.epochs):
            for batch in PROBLEM.train_loader:
                self.seen.append(tuner.hyperparameters)
                tuner.step(batch)
            trial.report(tuner.evaluate(), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        self.seen.append(tuner.hyperparameters)
        return tuner.best_value


START = {"dropout": 0.4, "decay": 1e-3, "lr": 0.05, "kind": "Adam"}


def tuned(objective: Any, start: dict[str, Any], **options: Any) -> optuna.trial.FrozenTrial:
    study = optuna_dstn.create_study(config=QUICK, **options)
    study.enqueue_trial(start)
    study.optimize(objective, n_trials=1)
    return study.best_trial


def test_a_tuned_trial_is_replayed_from_its_start(storage: BaseStorage) -> None:
    objective = Objective()
    trial = tuned(objective, START, storage=storage)
    run = objective.seen
    objective(trial)
    assert objective.seen == [objective.seen[0]] * 13  # the final values at each step

    replay_schedule(objective, trial)

    for step in (0, 4, 8, 12):  # the start and the evaluations
        assert objective.seen[step] == pytest.approx(run[step], rel=1e-5)
    for step, seen in enumerate(objective.seen):
        assert seen == objective.seen[step - step % 4]
        assert seen["lr"] == 0.05
    assert objective.seen[0]["dropout"] != objective.seen[4]["dropout"]
    assert isinstance(objective.optimizer, torch.optim.Adam)
    assert objective.optimizer.param_groups[0]["weight_decay"] == objective.seen[8]["decay"]


def test_its_data_frame_is_the_same_but_for_the_start() -> None:
    objective = Objective()
    trial = tuned(objective, START)
    replay_schedule(objective, trial)
    from_trial = objective.seen
    replay_schedule(objective, hyperparameter_schedule(trial), trial.params)
    assert objective.seen == from_trial[4:8] + from_trial[4:]


def test_a_data_frame_can_be_interpolated() -> None:
    """The docstring of replay_schedule shows this."""
    objective = Objective()
    trial = tuned(objective, START)
    frame = hyperparameter_schedule(trial).set_index("step")
    frame = frame.reindex(range(12)).interpolate(limit_direction="both")
    replay_schedule(objective, frame.reset_index(), trial.params)
    dropouts = [seen["dropout"] for seen in objective.seen]
    assert dropouts[6] == pytest.approx((dropouts[4] + dropouts[8]) / 2)
    assert dropouts[5] != dropouts[4] == dropouts[0]


def test_params_override_the_values_of_the_trial() -> None:
    objective = Objective()
    trial = tuned(objective, START)
    replay_schedule(objective, trial, {"lr": 0.01, "dropout": 0.9})
    assert objective.seen[0] == pytest.approx({"lr": 0.01, "dropout": 0.4, "decay": 1e-3})


def test_a_plain_study_can_keep_replays() -> None:
    trial = tuned(make_objective(), {"dropout": 0.3, "lr": 0.05})
    study = optuna.create_study()
    study.optimize(lambda _: replay_schedule(make_objective(), trial), n_trials=2)
    assert len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE])) == 2


def test_population_based_training_schedules_the_learning_rate() -> None:
    """Settings of the optimizer can follow a schedule that gradients cannot tune."""
    objective = Objective()
    frame = pd.DataFrame(
        {"step": [0, 4, 8], "lr": [0.01, 0.05, 0.02], "dropout": [0.1, 0.2, 0.2], "decay": 1e-4}
    )
    replay_schedule(objective, frame, {"kind": "SGD"})
    assert [seen["lr"] for seen in objective.seen[::4]] == [0.01, 0.05, 0.02, 0.02]
    assert objective.optimizer.param_groups[0]["lr"] == 0.02


def test_it_returns_what_the_objective_returns() -> None:
    frame = pd.DataFrame({"step": [0, 4], "dropout": [0.1, 0.2]})
    params = {"lr": 0.1, "decay": 1e-4, "kind": "SGD"}
    assert replay_schedule(lambda trial: (Objective()(trial), "x"), frame, params)[1] == "x"


def test_the_direction_of_a_metric_is_that_of_the_trial() -> None:
    found: list[float] = []

    def objective(trial: Any) -> float:
        model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        arguments = trial, model, optimizer, loss_fn, PROBLEM.valid_loader
        tuner = optuna_dstn.Tuner(*arguments, metric_fn=accuracy)
        found.clear()
        for _ in range(3):
            for batch in PROBLEM.train_loader:
                tuner.step(batch)
            found.append(tuner.evaluate())
        return tuner.best_value

    trial = tuned(objective, {"dropout": 0.3}, direction="maximize")
    assert replay_schedule(objective, trial) == max(found) > min(found)
    with pytest.raises(ValueError, match='direction="minimize" or "maximize"'):
        replay_schedule(objective, hyperparameter_schedule(trial))


# -- choices ---------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {"none": None, "flip": torch.neg, "drop": nn.Dropout(0.5)}


class Choosing:
    """Tunes a choice over eight steps, with an evaluation in the middle and at the end."""

    def __init__(self, loss: Any = loss_fn) -> None:
        self.loss = loss

    def __call__(self, trial: Any) -> float:
        torch.manual_seed(0)
        self.model = nn.Sequential(optuna_dstn.choice(trial, "augment", OPTIONS), mlp())
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        arguments = trial, self.model, optimizer, self.loss, PROBLEM.valid_loader
        self.tuner = optuna_dstn.Tuner(*arguments)
        for _ in range(2):
            for batch in PROBLEM.train_loader:
                self.tuner.step(batch)
            self.tuner.evaluate()
        return self.tuner.best_value

    @property
    def weights(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.model.parameters())


def test_a_choice_follows_the_probabilities_of_its_options() -> None:
    replayed = Choosing()
    trial = tuned(replayed, {"augment": "flip"})
    replay_schedule(replayed, trial)
    recorded = hyperparameter_schedule(trial)
    rows = [
        {"none": 0.25, "flip": 0.5, "drop": 0.25},
        {option: recorded[f"augment={option}"][0] for option in OPTIONS},
    ]
    assert rows[0] != pytest.approx(rows[1])

    def loss(model: Any, batch: Any) -> Tensor:
        steps = by_hand.tuner.state_dict()["training"]["steps"]
        model[0].probabilities = rows[min(steps // 4, 1)]
        return loss_fn(model, batch)

    by_hand = Choosing(loss)
    by_hand(optuna.trial.FixedTrial({"augment": "none"}))
    assert torch.equal(replayed.weights, by_hand.weights)
    last = {f"augment={o}": recorded[f"augment={o}"][1] for o in OPTIONS}
    assert replayed.tuner.hyperparameters == last


def test_categories_can_be_made_probabilities() -> None:
    """The error about a column of texts proposes it. An option without a column is never drawn."""
    frame = pd.DataFrame({"step": [0, 4], "augment": ["drop", "flip"]})
    objective = Choosing()
    with pytest.raises(ValueError, match="get_dummies") as error:
        replay_schedule(objective, frame)
    call = str(error.value).partition("pandas.")[2].partition(", which makes")[0]
    frame = eval("pd." + call[: call.index(")") + 1])
    replay_schedule(objective, frame)
    assert objective.tuner.hyperparameters == {"augment=drop": 0.0, "augment=flip": 1.0}


def test_a_choice_that_is_not_scheduled_is_a_category() -> None:
    frame = pd.DataFrame({"step": [0, 4], "dropout": [0.1, 0.5]})

    def objective(trial: Any) -> float:
        trial.suggest_float("dropout", 0.0, 0.9)
        return Choosing()(trial)

    with pytest.raises(HyperparameterError, match="'dropout' has a schedule, but nothing"):
        replay_schedule(objective, frame, {"augment": "drop"})
    frame["dropout"] = 0.1
    plain = Choosing()(optuna.trial.FixedTrial({"augment": "drop"}))
    assert replay_schedule(objective, frame, {"augment": "drop"}) == plain


def test_probabilities_sum_to_one() -> None:
    frame = pd.DataFrame({"step": [0, 4], "augment=none": [0.5, 0.5], "augment=drop": [0.5, 0.6]})
    with pytest.raises(HyperparameterError, match=r"'augment' probabilities that sum to 1\.1"):
        replay_schedule(Choosing(), frame)


# -- errors ----------------------------------------------------------------------------------------

FRAME = pd.DataFrame({"step": [0, 4], "dropout": [0.1, 0.2], "decay": [1e-4, 1e-3]})
REST = {"lr": 0.05, "kind": "SGD"}


@pytest.mark.parametrize(
    ("schedule", "params", "message"),
    [
        (FRAME.assign(droput=0.1), REST, r"column 'droput', but the objective.*'dropout', 'kind'"),
        (FRAME.assign(**{"kind=SGD": 1.0}), REST, "column 'kind=SGD', but the objective has not"),
        (FRAME.assign(kind=1.0), REST, "column 'kind', but the objective has not .* as a number"),
        (
            FRAME,
            {**REST, "rl": 0.1},
            r"params=...\) has 'rl', but .*\(suggested: 'dropout'",
        ),
        (FRAME, {"kind": "SGD"}, r"suggests 'lr', which is neither .*params=\{'lr': \.\.\.\}"),
        (FRAME, {"lr": 0.05}, "suggests 'kind', which is neither"),
        (FRAME.assign(decay=[0.01, 0.9]), REST, r"'decay' the value 0\.9 from step 4"),
        (optuna.create_trial(value=0.0), REST, "holds no hyperparameter schedule"),
    ],
)
def test_a_schedule_of_another_objective(schedule: Any, params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replay_schedule(Objective(), schedule, params)


def test_an_unknown_parameter_beside_a_trial() -> None:
    trial = tuned(Objective(), START)
    with pytest.raises(ValueError, match="has 'learning_rate', but the objective has not"):
        replay_schedule(Objective(), trial, {"learning_rate": 0.1})


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch.compile's own
def test_a_compiled_model() -> None:
    def objective(trial: Any) -> None:
        model: Any = torch.compile(mlp(trial.suggest_float("dropout", 0.0, 0.9)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        optuna_dstn.Tuner(trial, model, optimizer, loss_fn, PROBLEM.valid_loader)

    with pytest.raises(ValueError, match="The model is compiled"):
        replay_schedule(objective, FRAME)
