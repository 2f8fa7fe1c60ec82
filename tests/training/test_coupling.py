"""The first step finds out whether the examples of a batch are coupled."""

from __future__ import annotations

from collections.abc import Callable
import random
from typing import Any, NamedTuple

from _reference import started
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import TunerConfig, augmentation


EXAMPLES, FEATURES, CLASSES = 12, 5, 3
X = torch.randn(EXAMPLES, FEATURES, generator=torch.Generator().manual_seed(0))
Y = torch.arange(EXAMPLES) % CLASSES
Batch = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Batch], Tensor]


class Case(NamedTuple):
    """A model, made with a dropout rate, and its training loss."""

    loss: Loss
    model: Callable[[Any], nn.Module]
    batch: Batch = (X, Y)


def net(*last: nn.Module, outputs: int = CLASSES) -> Callable[[Any], nn.Module]:
    def make(rate: Any) -> nn.Module:
        first = nn.Linear(FEATURES, 8)
        return nn.Sequential(first, nn.ReLU(), nn.Dropout(rate), nn.Linear(8, outputs), *last)

    return make


class Tokens(nn.Module):
    """Logits of each token of sequences (B, T)."""

    def __init__(self, rate: Any) -> None:
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(9, 6), nn.Dropout(rate)
        self.recurrent, self.last = nn.GRU(6, 7, batch_first=True), nn.Linear(7, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.recurrent(self.dropout(self.embedding(tokens)))[0])


class Normalised(nn.Module):
    """Batch normalisation of images and of rows, also without running statistics."""

    def __init__(self, rate: Any) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(rate), nn.Flatten()
        )
        self.rows = nn.Sequential(nn.Linear(36, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU())
        self.untracked = nn.BatchNorm1d(8, track_running_stats=False)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.untracked(self.rows(self.features(x))))


class OverBatch(nn.Module):
    """A layer, then ``mix``, which combines the rows of a batch, then a layer."""

    def __init__(self, rate: Any, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)
        self.dropout, self.mix = nn.Dropout(rate), mix

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mix(self.first(self.dropout(x))).relu())


def over_batch(mix: Callable[[Tensor], Tensor]) -> Callable[[Any], nn.Module]:
    return lambda rate: OverBatch(rate, mix)


def mixed_first(rate: Any) -> nn.Module:
    """Only the inputs of the single layer that responds are mixed, behind the dropout."""
    return nn.Sequential(nn.Dropout(rate), Neighbours(), nn.Linear(FEATURES, CLASSES))


class Neighbours(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.roll(1, 0)


class WithOwnLoss(nn.Module):
    """A model that returns its logits and a scalar made of them."""

    def __init__(self, rate: Any, own_loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.own_loss = net()(rate), own_loss

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(x)
        return logits, self.own_loss(logits)


def with_own_loss(own_loss: Callable[[Tensor], Tensor]) -> Callable[[Any], nn.Module]:
    return lambda rate: WithOwnLoss(rate, own_loss)


def both_losses(model: nn.Module, batch: Batch) -> Tensor:
    logits, own_loss = model(batch[0])
    return F.cross_entropy(logits, batch[1]) + own_loss


def of(loss: Callable[..., Tensor], **options: Any) -> Loss:
    return lambda model, batch: loss(model(batch[0]), batch[1], **options)


def of_tokens(model: nn.Module, batch: Batch) -> Tensor:
    targets = batch[0].roll(-1, 1).masked_fill(batch[0] < 2, -100)
    return F.cross_entropy(model(batch[0]).flatten(0, 1), targets.flatten())


def ctc(model: nn.Module, batch: Batch) -> Tensor:
    log_probabilities = model(batch[0]).log_softmax(2).transpose(0, 1)
    lengths = torch.full((EXAMPLES,), 6), torch.arange(EXAMPLES) % 2 + 1
    return F.ctc_loss(log_probabilities, batch[0][:, :2].clamp(min=1), *lengths)


def on_mixed_images(model: nn.Module, batch: Batch) -> Tensor:
    x, partner, weight = augmentation.mixup(batch[0], 0.4)
    x = x + 0.1 * torch.randn_like(x)
    losses = [F.cross_entropy(model(x), y, reduction="none") for y in (batch[1], batch[1][partner])]
    return weight * losses[0] + (1 - weight) * losses[1]


def on_noise_of_numpy(model: nn.Module, batch: Batch) -> Tensor:
    noise = torch.from_numpy(np.random.standard_normal((EXAMPLES, FEATURES))).float()
    return F.cross_entropy(model(batch[0] + random.random() * noise), batch[1])


def hinge_of_pairs(model: nn.Module, batch: Batch) -> Tensor:
    """Piecewise linear in the scores, and far from a kink: all second derivatives are zero."""
    scores = model(batch[0])[:, 0]
    return F.relu(5 - scores[:, None] + scores[None])[batch[1][:, None] > batch[1]].mean()


def contrastive(model: nn.Module, batch: Batch) -> Tensor:
    """Supervised contrastive, with normalised embeddings."""
    z = F.normalize(model(batch[0]), dim=1)
    own = torch.eye(len(z)) > 0
    scores = (z @ z.T / 0.5).masked_fill(own, -1e9)
    positive = (batch[1][:, None] == batch[1]) & ~own
    return -(scores.log_softmax(1) * positive).sum(1).mean()


def in_pairs(model: nn.Module, batch: Batch) -> Tensor:
    """Siamese: row 2k beside row 2k + 1, where the gradient reaches one side only."""
    z = model(batch[0])
    return F.mse_loss(z[::2], z[1::2].detach())


IMAGES = (X.repeat(1, 5)[:, :25].reshape(EXAMPLES, 1, 5, 5), Y)
TOKENS = (torch.arange(EXAMPLES * 6).mul(7).remainder(9).view(EXAMPLES, 6),)
TARGETS = (X, X[:, :CLASSES])
SEPARATE = {
    "cross entropy": Case(of(F.cross_entropy), net()),
    "a loss of each example": Case(of(F.cross_entropy, reduction="none"), net()),
    "label smoothing": Case(of(F.cross_entropy, label_smoothing=0.1), net()),
    "class weights": Case(of(F.cross_entropy, weight=torch.tensor([1.0, 2.0, 5.0])), net()),
    "ignore_index": Case(of(F.cross_entropy, ignore_index=1), net()),
    "log-softmax in the model": Case(of(F.nll_loss), net(nn.LogSoftmax(1))),
    "MSE": Case(of(F.mse_loss), net(), TARGETS),
    "Huber": Case(of(F.huber_loss), net(), TARGETS),
    "BCE": Case(of(F.binary_cross_entropy), net(nn.Sigmoid()), (X, (X[:, :CLASSES] > 0).float())),
    "multi-class hinge": Case(of(F.multi_margin_loss), net()),
    "tokens": Case(of_tokens, Tokens, TOKENS),
    "CTC": Case(ctc, Tokens, TOKENS),
    "batch normalisation": Case(of(F.cross_entropy), Normalised, IMAGES),
    "layer normalisation": Case(of(F.cross_entropy), net(nn.LayerNorm(CLASSES))),
    "mixup": Case(on_mixed_images, net()),
    "NumPy's random numbers": Case(on_noise_of_numpy, net()),
    "a penalty in the model": Case(both_losses, with_own_loss(lambda y: y.square().mean())),
}
COUPLED = {
    "hinge of pairs": Case(hinge_of_pairs, net()),
    "supervised contrastive": Case(contrastive, net()),
    "pairs of rows": Case(in_pairs, net()),
    "root of the mean": Case(lambda m, b: F.mse_loss(m(b[0]), b[1]).sqrt(), net(), TARGETS),
    "graph": Case(of(F.cross_entropy), over_batch(lambda y: y + y.roll(1, 0))),
    "attention over the batch": Case(
        of(F.cross_entropy), over_batch(lambda y: (y @ y.T).softmax(1) @ y)
    ),
    "mean of the batch": Case(of(F.cross_entropy), over_batch(lambda y: y - y.mean(0))),
    "inputs only": Case(of(F.cross_entropy), mixed_first),
    "balance in the model": Case(
        both_losses, with_own_loss(lambda y: y.softmax(1).mean(0).square().sum())
    ),
}


def tuner_of(case: Case, **settings: Any) -> optuna_dstn.Tuner:
    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = case.model(trial.suggest_float("rate", 0.0, 0.9))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    config = TunerConfig(warmup_steps=0, train_steps=1, **settings)
    return started(
        make,
        case.loss,
        [case.batch],
        valid_loss_fn=lambda model, batch: case.loss(model, batch),
        start={"rate": 0.3},
        config=config,
    )


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn"])
@pytest.mark.parametrize("name", SEPARATE)
def test_examples_of_an_ordinary_loss_keep_their_own_perturbations(name: str, method: str) -> None:
    tuner = tuner_of(SEPARATE[name], method=method)
    tuner.step(SEPARATE[name].batch)
    assert tuner.summary().one_perturbation == ""
    assert "one perturbation" not in str(tuner.summary())


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn", "stn"])
@pytest.mark.parametrize("name", COUPLED)
def test_coupled_examples_share_one_perturbation(name: str, method: str) -> None:
    tuner = tuner_of(COUPLED[name], method=method)
    for _ in range(3):
        tuner.step(COUPLED[name].batch)
    state: Any = tuner._training
    assert state.bilevel.shared_draws == state.bilevel.shared_validation_draws == ("rate",)
    assert (
        "one perturbation for the whole batch: the training loss of an example depends on other "
        "examples of its batch\n"
    ) in str(tuner.summary())


@pytest.mark.parametrize("seed", range(4))
def test_random_numbers_that_other_examples_shift_do_not_count(seed: int) -> None:
    """The example with most holes decides how many numbers Cutout draws."""

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        holes, length = trial.suggest_int("holes", 0, 5), trial.suggest_int("length", 1, 3)
        cutout = augmentation.Cutout(holes=holes, length=length)
        model = nn.Sequential(cutout, nn.Flatten(), nn.Linear(25, 8), nn.Linear(8, CLASSES))
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    torch.manual_seed(seed)
    tuner = started(make, of(F.cross_entropy), [IMAGES], start={"holes": 2, "length": 2})
    tuner.step(IMAGES)
    assert set(tuner.tuned) == {"holes", "length"}
    assert tuner.summary().one_perturbation == ""


@pytest.mark.parametrize("response", ["gated", "full"])
def test_coupling_is_found_with_every_response(response: str) -> None:
    for case, is_coupled in ((COUPLED["graph"], True), (SEPARATE["cross entropy"], False)):
        tuner = tuner_of(case, response=response)
        tuner.step(case.batch)
        assert bool(tuner.summary().one_perturbation) == is_coupled


@pytest.mark.parametrize(("perturbation", "shared"), [("example", ()), ("batch", ("rate",))])
def test_the_user_may_decide(perturbation: str, shared: tuple[str, ...]) -> None:
    for case in (COUPLED["graph"], SEPARATE["cross entropy"]):
        tuner = tuner_of(case, perturbation=perturbation)
        tuner.step(case.batch)
        state: Any = tuner._training
        assert state.bilevel.shared_draws == shared
        assert ('TunerConfig(perturbation="batch")' in str(tuner.summary())) == bool(shared)


def test_the_passes_of_each_step() -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(model.training)
        return F.cross_entropy(model(batch[0]), batch[1])

    calls: list[bool] = []
    tuner = tuner_of(Case(loss, net()), response_interval=3)
    counts = []
    for _ in range(4):
        calls.clear()
        tuner.step((X, Y))
        counts.append((calls.count(True), calls.count(False)))
    assert counts == [(6, 2), (1, 1), (1, 1), (3, 1)]  # each with a step on λ in evaluation mode


def test_where_it_cannot_be_found_out_the_examples_share() -> None:
    """A loss function that fails at the random responses of the test, and then never again."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(model.training)
        if sum(calls) == 2:
            raise ValueError("out of range")
        return F.cross_entropy(model(batch[0]), batch[1])

    calls: list[bool] = []
    tuner = tuner_of(Case(loss, net()))
    tuner.step((X, Y))
    assert "could not be found out" in tuner.summary().one_perturbation


@pytest.mark.parametrize("case", [SEPARATE["NumPy's random numbers"], COUPLED["graph"]])
def test_the_test_leaves_no_trace(case: Case) -> None:
    """Random numbers, and everything that is trained, are as without the test."""
    after = []
    for perturbation in ("auto", "batch" if case is COUPLED["graph"] else "example"):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        tuner = tuner_of(case, perturbation=perturbation)
        tuner.step(case.batch)
        state: Any = tuner._training
        tensors = [*state.context.model.parameters(), *state.bilevel.response.parameters()]
        drawn = torch.rand(3), torch.from_numpy(np.random.rand(3)), torch.tensor(random.random())
        after.append([t.detach().clone() for t in (*tensors, *drawn)])
    assert all(torch.equal(one, other) for one, other in zip(*after, strict=True))


@pytest.mark.parametrize(
    ("name", "is_recording"), [("graph", False), ("balance in the model", True)]
)
def test_a_resumed_training_knows(name: str, is_recording: bool) -> None:
    case = COUPLED[name]
    tuner = tuner_of(case)
    tuner.step(case.batch)
    resumed = tuner_of(case)
    resumed.load_state_dict(tuner.state_dict())
    assert resumed.summary().one_perturbation == tuner.summary().one_perturbation != ""
    state: Any = resumed._training
    assert state.bilevel.records_calls == is_recording
