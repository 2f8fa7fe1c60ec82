"""``TunerMixin`` in the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
)
from transformers.trainer_utils import BestRun

import optuna_dstn
from optuna_dstn.integration.transformers import TunedTrainer, TunerMixin


CLASSES, TOKENS, BATCH = 3, 5, 11
START = {"dropout": 0.3, "weight_decay": 1e-2}
EAGER = optuna_dstn.TunerConfig(warmup_steps=0, train_steps=1, hyper_lr=0.1)


def examples(count: int, seed: int) -> list[dict[str, Any]]:
    """Sequences of tokens, whose first token decides the class."""
    tokens = torch.randint(7, (count, TOKENS), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": row, "labels": int(row[0]) % CLASSES} for row in tokens]


TRAIN, VALID = examples(66, 0), examples(33, 1)


def small_bert(dropout: float) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=7,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=TOKENS,
        num_labels=CLASSES,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.5,
    )
    return BertForSequenceClassification(config)


def arguments(folder: Path, **kwargs: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "num_train_epochs": 2,
        "learning_rate": 0.1,
        "optim": "sgd",
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(str(folder), **{**settings, **kwargs})


def trainer_of(
    trial: Any, folder: Path, kind: Callable[..., Trainer] = TunedTrainer, **kwargs: Any
) -> Any:
    """A trainer whose dropout and weight decay the trial suggests."""
    model = small_bert(trial.suggest_float("dropout", 0.0, 0.9))
    args = arguments(
        folder,
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        **kwargs,
    )
    own = {} if kind is Trainer else {"trial": trial}
    return kind(model, args, train_dataset=TRAIN, eval_dataset=VALID, **own)


def tuned_trial(direction: str = "minimize", **start: float) -> optuna_dstn.DSTNTrial:
    study = optuna_dstn.create_study(direction=direction, config=EAGER)
    study.enqueue_trial({**START, **start})
    return study.ask()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# -- the step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["study", "fixed", "none"])
def test_under_a_plain_trial_the_trainer_trains_as_ever(tmp_path: Path, kind: str) -> None:
    def trained(kind_of_trainer: Callable[..., Trainer], trial: Any) -> Any:
        trainer = trainer_of(
            trial,
            tmp_path,
            kind_of_trainer,
            gradient_accumulation_steps=2,
            max_grad_norm=0.5,
            logging_strategy="steps",
            logging_steps=1,
            optim="adamw_torch",
            learning_rate=1e-2,
        )
        if kind == "none" and kind_of_trainer is not Trainer:
            trainer._tuned_trial = None
        trainer.train()
        return trainer

    study = optuna.create_study()
    study.enqueue_trial(START)
    trial = study.ask() if kind == "study" else optuna.trial.FixedTrial(START)
    theirs, ours = trained(Trainer, optuna.trial.FixedTrial(START)), trained(TunedTrainer, trial)

    expected = weights(theirs.model)
    assert all(torch.equal(tensor, expected[n]) for n, tensor in weights(ours.model).items())
    timings = ("runtime", "per_second")
    logs = [
        [{k: v for k, v in entry.items() if not k.endswith(timings)} for entry in log]
        for log in (theirs.state.log_history, ours.state.log_history)
    ]
    assert logs[0] == logs[1]
    if kind != "none":
        assert ours.tuner.best_value == min(
            log["eval_loss"] for log in logs[0] if "eval_loss" in log
        )


class _Seeding(TrainerCallback):
    def on_train_begin(self, *_: Any, **__: Any) -> None:
        torch.manual_seed(7)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_and_hyperparameters_are_those_of_tuner_step(
    tmp_path: Path, smoothing: float
) -> None:
    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        logits = model(batch["input_ids"]).logits
        # Bert does not divide its loss by the items of a step, but the Trainer believes so.
        return F.cross_entropy(logits, batch["labels"], label_smoothing=smoothing) * (
            1 if smoothing else 2
        )

    def valid_loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch["input_ids"]).logits, batch["labels"])

    settings: dict[str, Any] = {
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.5,
        "label_smoothing_factor": smoothing,
    }
    trainer = trainer_of(tuned_trial(), tmp_path, eval_strategy="no", **settings)
    trainer.add_callback(_Seeding())
    trainer.train()

    trial = tuned_trial()
    other = trainer_of(trial, tmp_path, Trainer, **settings)
    model = other.model
    optimizer = other.create_optimizer()
    tuner = optuna_dstn.Tuner(
        trial,
        model,
        optimizer,
        loss_fn,
        other.get_eval_dataloader().base_dataloader,
        valid_loss_fn=valid_loss_fn,
        max_grad_norm=0.5,
        accumulate_grad_batches=2,
        total_steps=6,
    )
    scheduler = get_scheduler("linear", optimizer, 0, 6)
    loader = other.get_train_dataloader()
    model.train()
    torch.manual_seed(7)
    for epoch in range(2):
        loader.set_epoch(epoch)
        for index, batch in enumerate(loader):
            tuner.step(batch)
            if index % 2:
                scheduler.step()

    assert trainer.state.global_step == 6
    assert trainer.tuner._context.total_steps == 6
    assert trainer.tuner.tuned == ("dropout", "weight_decay")
    assert trainer.tuner.hyperparameters["dropout"] != START["dropout"]
    assert trainer.tuner.hyperparameters == pytest.approx(tuner.hyperparameters, rel=1e-5)
    expected = weights(model)
    for name, tensor in weights(trainer.model).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)


def test_a_training_of_so_many_steps_is_as_long(tmp_path: Path) -> None:
    trainer = trainer_of(tuned_trial(), tmp_path, eval_strategy="no", max_steps=4)
    trainer.train()
    assert trainer.state.global_step == trainer.tuner._context.total_steps == 4


def test_a_trainer_that_wraps_its_model_is_refused(tmp_path: Path) -> None:
    class Wrapping(TunedTrainer):
        def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
            return super().training_step(nn.DataParallel(model), *args, **kwargs)

    with pytest.raises(optuna_dstn.HyperparameterError, match="in a DataParallel, because"):
        trainer_of(tuned_trial(), tmp_path, Wrapping).train()


def test_label_smoothing_and_mixed_precision(tmp_path: Path) -> None:
    trial = tuned_trial()
    smoothing = trial.suggest_float("smoothing", 0.0, 0.5)
    trainer = trainer_of(trial, tmp_path, label_smoothing_factor=smoothing, bf16=True)
    trainer.train()

    assert set(trainer.tuner.tuned) == {*START, "smoothing"}
    assert trainer.tuner.hyperparameters["smoothing"] != float(smoothing)


@pytest.mark.parametrize("tunes", [True, False])
def test_evaluations_leave_label_smoothing_out(tmp_path: Path, tunes: bool) -> None:
    trial = tuned_trial() if tunes else optuna.trial.FixedTrial(START)
    trainer = trainer_of(trial, tmp_path, label_smoothing_factor=0.4)
    trainer.train()
    smoothed, trainer.label_smoother = trainer.label_smoother, None
    expected = trainer.evaluate()["eval_loss"]
    trainer.label_smoother = smoothed

    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)
    batch = trainer.data_collator(VALID[:BATCH])
    with torch.no_grad():
        found = trainer._validation_loss(trainer.model.eval(), batch)
        torch.testing.assert_close(found, trainer.model(**batch).loss)


# -- evaluation ----------------------------------------------------------------------------------


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def test_the_metric_for_the_best_model_is_recorded(tmp_path: Path) -> None:
    trainer = trainer_of(
        tuned_trial("maximize"),
        tmp_path,
        metric_for_best_model="accuracy",
        load_best_model_at_end=True,
        save_strategy="epoch",
        num_train_epochs=4,
    )
    trainer.compute_metrics = accuracy
    trainer.train()

    found = [e["eval_accuracy"] for e in trainer.state.log_history if "eval_accuracy" in e]
    assert len(found) == 4
    assert trainer.tuner.best_value == trainer.state.best_metric == max(found)
    best = weights(trainer.model)
    trainer.tuner.load_best()
    assert all(torch.equal(tensor, best[n]) for n, tensor in weights(trainer.model).items())
    assert trainer.evaluate()["eval_accuracy"] == max(found)


def test_study_and_metric_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="maximize its value, but eval_loss is to be minimized"):
        trainer_of(tuned_trial("maximize"), tmp_path).train()
    with pytest.raises(KeyError, match="The evaluation has no 'eval_f1', only eval_loss"):
        trainer_of(tuned_trial("maximize"), tmp_path, metric_for_best_model="f1").train()


def test_the_trainer_evaluates_after_the_trial(tmp_path: Path) -> None:
    trial = tuned_trial()
    trainer = trainer_of(trial, tmp_path)
    trainer.train()
    best = trainer.tuner.best_value
    trial.study.tell(trial, best)

    trainer.model.load_state_dict(small_bert(0.0).state_dict())
    assert trainer.evaluate()["eval_loss"] != best
    assert trainer.tuner.best_value == best


def test_several_eval_datasets_are_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tuned_trial(), tmp_path)
    trainer.eval_dataset = {"a": VALID, "b": VALID}
    with pytest.raises(ValueError, match="tuned on one validation data set"):
        trainer.train()


# -- checkpoints ---------------------------------------------------------------------------------


def test_a_resumed_training_goes_on_at_the_same_hyperparameters(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8}
    whole = trainer_of(tuned_trial(), tmp_path, **saving)
    whole.train()
    resumed = trainer_of(tuned_trial(dropout=0.1), tmp_path, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))

    assert resumed.tuner._context.progress.steps == 8
    assert resumed.tuner.hyperparameters == whole.tuner.hyperparameters
    assert resumed.tuner.best_value == whole.tuner.best_value
    expected = weights(whole.model)
    assert all(torch.equal(tensor, expected[n]) for n, tensor in weights(resumed.model).items())


def test_a_checkpoint_of_a_plain_trainer_cannot_be_resumed(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer_of(optuna.trial.FixedTrial(START), tmp_path, Trainer, **saving).train()
    with pytest.raises(ValueError, match=r"has no tuner\.pt"):
        trainer_of(tuned_trial(), tmp_path, **saving).train(resume_from_checkpoint=True)


def test_saved_settings_are_the_tuned_values_as_plain_numbers(tmp_path: Path) -> None:
    trainer = trainer_of(tuned_trial(), tmp_path)
    assert type(trainer.args.weight_decay) is not float
    trainer.train()
    trainer.save_model(str(tmp_path))

    values = trainer.tuner.hyperparameters
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["hidden_dropout_prob"] == values["dropout"] != START["dropout"]
    args = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert type(args.weight_decay) is float
    assert args.weight_decay == values["weight_decay"]
    # The model that trains on keeps the number itself.
    assert isinstance(trainer.model.config.hidden_dropout_prob, optuna_dstn.Hyperparameter)
    assert type(trainer.args.weight_decay) is float


# -- search --------------------------------------------------------------------------------------


def hp_space(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        "label_smoothing_factor": trial.suggest_float("label_smoothing_factor", 0.0, 0.5),
        "per_device_train_batch_size": trial.suggest_categorical(
            "per_device_train_batch_size", [6, 11]
        ),
        "learning_rate": trial.suggest_float("learning_rate", 1e-2, 1e-1, log=True),
    }


def model_init(trial: Any) -> nn.Module:
    return small_bert(0.2 if trial is None else trial.suggest_float("dropout", 0.0, 0.9))


def test_a_search_tunes_inside_its_trials(tmp_path: Path) -> None:
    trainer = TunedTrainer(
        args=arguments(tmp_path), model_init=model_init, train_dataset=TRAIN, eval_dataset=VALID
    )
    storage = optuna.storages.InMemoryStorage()
    best = trainer.hyperparameter_search(
        hp_space, n_trials=2, backend="optuna", storage=storage, study_name="s", config=EAGER
    )

    study = optuna.load_study(study_name="s", storage=storage)
    tuned = {"dropout", "weight_decay", "label_smoothing_factor"}
    assert isinstance(best, BestRun)
    assert (best.objective, best.hyperparameters) == (study.best_value, study.best_params)
    assert len(study.trials) == 2
    for trial in study.trials:
        schedule = optuna_dstn.hyperparameter_schedule(trial)
        assert tuned <= set(schedule.columns)
        assert trial.value == pytest.approx(schedule["value"].min(), rel=1e-4)
        assert trial.params.keys() == {*tuned, "per_device_train_batch_size", "learning_rate"}
        assert all(type(value) in (float, int) for value in trial.params.values())
    assert not isinstance(trainer.args.weight_decay, optuna_dstn.Hyperparameter)
    assert type(optuna.create_study()) is optuna.Study

    for name, value in best.hyperparameters.items():  # as users retrain at the values found
        setattr(trainer.args, name, value)
    trainer.train()
    assert trainer.tuner is None


def test_a_search_needs_optuna(tmp_path: Path) -> None:
    trainer = TunedTrainer(args=arguments(tmp_path, eval_strategy="no"), model_init=model_init)
    with pytest.raises(ValueError, match="tuning by gradient needs the trials of Optuna"):
        trainer.hyperparameter_search(hp_space, backend="ray")


def test_a_trainer_of_ones_own_takes_the_mixin(tmp_path: Path) -> None:
    class Weighted(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any
        ) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            weight = torch.tensor([1.0, 2.0, 3.0])
            loss = F.cross_entropy(outputs.logits, labels, weight)
            return (loss, outputs) if return_outputs else loss

    class TunedWeighted(TunerMixin, Weighted):
        pass

    trainer = trainer_of(tuned_trial(), tmp_path, TunedWeighted)
    trainer.train()
    assert trainer.tuner.tuned == ("dropout", "weight_decay")
