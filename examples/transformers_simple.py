"""A small vision transformer on digits, in the Trainer of transformers: two hyperparameters.

python examples/transformers_simple.py
"""

import tempfile

import optuna
from sklearn.datasets import load_digits
import torch
import transformers

import optuna_dstn
from optuna_dstn.integration.transformers import TunedTrainer


EPOCHS = 20
N_TRIALS = 1


def datasets():
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    examples = [{"pixel_values": x, "labels": y} for x, y in zip(pixels, labels, strict=True)]
    return examples[:900], examples[900:1350]


def make_model(dropout):
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        num_labels=10,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return transformers.ViTForImageClassification(config)


def objective(trial):
    train, valid = datasets()
    transformers.set_seed(0)
    model = make_model(trial.suggest_float("dropout", 0.0, 0.5))
    args = transformers.TrainingArguments(
        tempfile.mkdtemp(),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=60,
        per_device_eval_batch_size=150,
        learning_rate=3e-3,
        weight_decay=trial.suggest_float("weight_decay", 1e-4, 1.0, log=True),
        eval_strategy="epoch",
        save_strategy="no",
        metric_for_best_model="loss",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = TunedTrainer(model, args, train_dataset=train, eval_dataset=valid, trial=trial)
    trainer.train()
    return trainer.state.best_metric


if __name__ == "__main__":
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna_dstn.create_study(direction="minimize", sampler=sampler)
    study.optimize(objective, n_trials=N_TRIALS)

    print(f"best validation loss {study.best_value:.4f} at {study.best_params}")
