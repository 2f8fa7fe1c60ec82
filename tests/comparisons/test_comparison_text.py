from __future__ import annotations

from pathlib import Path
import random

import optuna
from optuna.trial import FixedTrial
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons._study import Job, run_study
from comparisons._tuners import TUNERS
from comparisons.networks import LSTMOutput
from comparisons.problems import LSTM, PROBLEMS, MissingDataError, Transformer
from comparisons.problems._text import LanguageModelling, losses
from comparisons.problems.lstm import penalised


KINDS = pytest.mark.parametrize("kind", [LSTM, Transformer])
PTB = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")
WIKITEXT = tuple(f"wikitext2_part/{part}.txt" for part in ("train", "valid", "test"))


def write_text(
    folder: Path, names: tuple[str, ...], words: str = "abcdefgh", lines: int = 40
) -> None:
    draw = random.Random(0)
    for name in names:
        text = "\n".join(" ".join(draw.choices(words, k=5)) + " " for _ in range(lines))
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """WikiText-2's place, with made-up text."""
    write_text(tmp_path, WIKITEXT)
    return tmp_path


@KINDS
def test_problem_is_registered_with_starts_for_the_self_tuning_tuners(
    kind: type[LanguageModelling],
) -> None:
    assert PROBLEMS[kind.name] is kind
    for tuner in ("delta-stn@0.05", "delta-stn@0.5"):
        assert TUNERS[tuner].create_study(kind.at("smoke"), 0).get_trials()


@KINDS
def test_every_hyperparameter_is_tuned(kind: type[LanguageModelling], folder: Path) -> None:
    # A run at this scale is too short to move them far; that Δ-STN knows of them shows at once.
    problem = kind.at("smoke", data_dir=folder)
    trial = run_study(Job(problem, "delta-stn@0.5", 0, trials=1, retrainings=0)).trials[0]
    assert set(trial.user_attrs["dstn:tuned"]) == set(problem.reference) == set(trial.params)
    assert len(trial.params) == {"lstm": 7, "transformer": 6}[problem.name]


@KINDS
def test_same_seed_same_run(kind: type[LanguageModelling], folder: Path) -> None:
    problem = kind.at("smoke", data_dir=folder)

    def run(seed: int) -> tuple[float, float]:
        trained = problem.train(FixedTrial(dict(problem.reference)), seed)
        return trained.validation_loss, trained.test_loss()

    assert run(1) == run(1) != run(2)


def ranges(problem: LanguageModelling) -> dict[str, tuple[float, float]]:
    trial = optuna.create_study().ask()
    problem.setup(trial, 0, 0)
    return {name: (d.low, d.high) for name, d in trial.distributions.items()}  # type: ignore[attr-defined]


def test_ranges_are_those_of_the_description(folder: Path) -> None:
    lstm = LSTM.at("smoke", data_dir=folder)
    of_lstm = ranges(lstm)
    assert {of_lstm.pop(name) for name in ("ar", "tar")} == {(0.0, 10.0)}
    assert set(of_lstm.values()) == {(0.0, 0.95)}
    assert "[0, 0.95]" in lstm.description
    assert "[0, 10]" in lstm.description
    transformer = Transformer.at("smoke", data_dir=folder)
    of_transformer = ranges(transformer)
    assert of_transformer.pop("weight_decay") == (1e-3, 10.0)
    assert set(of_transformer.values()) == {(0.0, 0.9)}
    assert "[0, 0.9]" in transformer.description
    assert "[0.001, 10]" in transformer.description


@KINDS
def test_missing_text_is_an_error_that_names_the_files(
    kind: type[LanguageModelling], tmp_path: Path
) -> None:
    problem = kind.at("smoke", data_dir=tmp_path)
    for call in (problem.require_data, problem.data):
        with pytest.raises(MissingDataError, match=r"ptb\.train\.txt.*wikitext2_part.*--data-dir"):
            call()
    assert "no file found" in problem.description
    write_text(tmp_path, PTB[:2])  # half a corpus is none
    with pytest.raises(MissingDataError):
        problem.require_data()


@pytest.mark.parametrize("place", [".", "ptb"])
def test_penn_treebank_is_preferred(place: str, folder: Path) -> None:
    problem = LSTM.at("smoke", data_dir=folder)
    problem.require_data()
    assert problem.description.startswith("WikiText-2")
    before = problem.data()
    (folder / place).mkdir(exist_ok=True)
    write_text(folder / place, PTB, words="xyz")
    problem.require_data()
    assert problem.description.startswith("Penn Treebank")
    assert not torch.equal(problem.data().train[0], before.train[0])


def test_words_are_numbered_by_their_frequency_in_the_training_text_alone(tmp_path: Path) -> None:
    for part, text in {
        "train": "a b a <unk> c\n\n \n<unk> <unk> a b",
        "valid": "new new new a <unk> b c",
        "test": "c c c c c c c c",
    }.items():
        (tmp_path / f"ptb.{part}.txt").write_text(text, encoding="utf-8")
    problem = LSTM.at("smoke", data_dir=tmp_path, vocabulary=4, length=3)
    train, valid, test = problem.data()
    a, b, eos = 1, 2, 3  # b and the end of a line are as frequent, b comes first; c is too rare
    stream = [a, b, a, 0, 0, eos, 0, 0, a, b, eos]
    assert train[0].tolist() == [stream[0:3], stream[3:6], stream[6:9]]
    assert train[1].tolist() == [stream[1:4], stream[4:7], stream[7:10]]
    assert valid[0].tolist() == [[0, 0, 0], [a, 0, b]]
    assert valid[1].tolist() == [[0, 0, a], [0, b, 0]]
    assert set(test[0].flatten().tolist()) == {0}


def test_data_are_cut_to_the_size_and_read_once(folder: Path) -> None:
    problem = LSTM.at("smoke", data_dir=folder, train=7, valid=1000)
    train, valid, _ = problem.data()
    assert train[0].shape == (7, 6)
    assert len(valid[0]) == (40 * 6 - 1) // 6
    (folder / WIKITEXT[0]).write_text("something else", encoding="utf-8")
    assert problem.data().train[0] is train[0]


def test_loss_of_a_sequence_is_the_mean_over_its_words() -> None:
    torch.manual_seed(0)
    logits, following = torch.randn(3, 4, 5), torch.randint(5, (3, 4))
    each = losses(logits, following)
    for i in range(3):
        torch.testing.assert_close(each[i], F.cross_entropy(logits[i], following[i]))


def test_penalties_of_the_lstm_are_of_each_sequence() -> None:
    torch.manual_seed(0)
    output = LSTMOutput(torch.randn(3, 4, 5), torch.randn(3, 4, 2), torch.randn(3, 4, 2))
    following = torch.randint(5, (3, 4))

    class Fixed(nn.Module):
        def forward(self, words: Tensor) -> LSTMOutput:
            return output

    def loss(ar: float, tar: float) -> Tensor:
        return penalised(ar, tar)(Fixed(), (following, following))

    free = loss(0.0, 0.0)
    torch.testing.assert_close(free, losses(output.logits, following))
    for i in range(3):
        activity = sum(float(h.square().sum()) for h in output.dropped[i]) / (4 * 2)
        steps = zip(output.states[i, :-1], output.states[i, 1:], strict=True)
        change = sum(float((h - after).square().sum()) for h, after in steps) / (3 * 2)
        assert (loss(2.0, 0.0) - free)[i].item() == pytest.approx(2 * activity, rel=1e-4)
        assert (loss(0.0, 3.0) - free)[i].item() == pytest.approx(3 * change, rel=1e-4)


def test_evaluation_reads_no_penalty(folder: Path) -> None:
    problem = LSTM.at("smoke", data_dir=folder)

    def valid_loss(ar: float) -> float:
        return problem.setup(
            FixedTrial({**problem.reference, "ar": ar, "tar": ar}), 0, 0
        ).test_loss()

    assert valid_loss(0.0) == valid_loss(10.0)


def test_networks_at_paper_scale(folder: Path) -> None:
    lstm = LSTM.at("paper", data_dir=folder, length=10)
    setup = lstm.setup(FixedTrial(dict(lstm.reference)), 0, 0)
    assert sum(p.numel() for p in setup.model.parameters()) == (
        10_000 * 651 + 2 * 4 * 650 * (650 + 650 + 2)
    )
    assert setup.options == {"max_grad_norm": 0.25}
    transformer = Transformer.at("paper", data_dir=folder)
    model = transformer.setup(FixedTrial(dict(transformer.reference)), 0, 0).model
    assert sum(p.numel() for p in model.parameters()) > 5_000_000


@KINDS
def test_model_can_overfit(kind: type[LanguageModelling], folder: Path) -> None:
    """Without regularisation it fits random words, which nothing can predict."""
    problem = kind.at("smoke", data_dir=folder, epochs=60, units=32)
    free = {name: 1e-3 if name == "weight_decay" else 0.0 for name in problem.reference}
    trial = FixedTrial(free)
    reported: list[float] = []
    trial.report = lambda value, step: reported.append(value)  # type: ignore[method-assign]
    problem.train(trial, 0)
    assert reported[-1] > 1.05 * min(reported)
