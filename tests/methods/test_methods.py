"""One step of each method against one written out by hand, and what the methods share."""

from __future__ import annotations

import copy
import math
from typing import Any

from _decayed_regression import DecayedRegression
from _reference import Explicit, linearised_by_loops, moved_by_loops, relative_error, started
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

import optuna_dstn
from optuna_dstn import TunerConfig


METHODS = ("delta-stn", "centered-stn", "stn")
EXAMPLES, FEATURES, CLASSES = 6, 5, 3
LR, MOMENTUM, DECAY_OF_LAST = 0.05, 0.9, 0.03
SCALE = 1.7  # σ0
Batch = tuple[Tensor, Tensor]


pytestmark = pytest.mark.usefixtures("double_precision")


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(EXAMPLES, FEATURES, generator=generator)
    return x, torch.randint(CLASSES, (EXAMPLES,), generator=generator)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class Tuned:
    """A network with batch norm, a tuned weight decay of its first layer and of its logits.

    After the first step the response is set to random values: what follows is compared with
    :class:`ByHand`.
    """

    def __init__(self, method: str, **settings: Any) -> None:
        def make(trial: Any) -> tuple[nn.Module, Optimizer]:
            self.model = nn.Sequential(
                nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, CLASSES)
            )
            self.strength = trial.suggest_float("strength", 0.1, 0.5)
            groups = [
                {
                    "params": self.model[0].parameters(),
                    "weight_decay": trial.suggest_float("wd", 1e-3, 1e-1, log=True),
                },
                {"params": self.model[1:].parameters()},
            ]
            self.optimizer = SGD(groups, lr=LR, momentum=MOMENTUM, weight_decay=DECAY_OF_LAST)
            return self.model, self.optimizer

        chosen = {
            "warmup_steps": 10**9,
            "entropy_weight": 0.03,
            "response_interval": 1,
            "response_lr": None,
            "initial_scale": SCALE,
            **settings,
        }
        self.tuner = started(
            make,
            self.loss,
            [batch(1)],
            config=TunerConfig(method=method, **chosen),
            valid_loss_fn=cross_entropy,
            start={"strength": 0.35, "wd": 0.02},
        )
        self.tuner.step(batch())
        self.training: Any = self.tuner._training
        self.space, self.response = self.training.bilevel.space, self.training.bilevel.response
        with torch.no_grad():
            for tensor in self.response.parameters():
                tensor.normal_(std=0.3)
            self.space.raw_scale.normal_()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch[0])
        loss = F.cross_entropy(logits, batch[1], reduction="none")
        return loss + self.strength * logits.square().sum(1)


class ByHand:
    """The same network, σ0·U, R and λ in tensors of its own, trained by the papers' formulas."""

    def __init__(self, tuned: Tuned) -> None:
        self.tuned = tuned
        self.model = copy.deepcopy(tuned.model)
        self.raw = tuned.space.raw.detach().clone().requires_grad_()
        self.raw_scale = tuned.space.raw_scale.detach().clone().requires_grad_()
        self.explicit = Explicit(
            self.model, [n for n, _ in self.model.named_parameters()], EXAMPLES, 2
        )
        gains, directions = of_response(tuned)
        for name in self.explicit.parameters:
            self.explicit.gains[name] = gains[name].requires_grad_()
            self.explicit.directions[name] = directions[name].requires_grad_()
        weights = tuned.optimizer.state
        parameters = dict(tuned.model.named_parameters())
        self.velocity = {
            id(own): weights[parameters[name]]["momentum_buffer"].clone()
            for name, own in self.explicit.parameters.items()
        }
        # All gains of a group are one tensor in the engine, so a zero velocity each is the same.
        steps = tuned.training.bilevel.response_optimizer.optimizer.state
        assert all((s["momentum_buffer"] == 0).all() for s in steps.values()) or not steps

    @property
    def scale(self) -> Tensor:
        return torch.log1p(self.raw_scale.exp())

    def noise(self) -> Tensor:
        return self.scale * torch.randn(EXAMPLES, 2)

    def at(self, gate_input: Tensor) -> Explicit:
        self.explicit.epsilon = gate_input / SCALE
        return self.explicit

    def response_tensors(self) -> list[Tensor]:
        return [*self.explicit.gains.values(), *self.explicit.directions.values()]

    def training_loss(self, logits: Tensor, y: Tensor, values: Tensor) -> Tensor:
        """Of the user's loss function, at λ of each example."""
        strength = 0.1 + 0.4 * torch.sigmoid(values[:, 0])
        loss = F.cross_entropy(logits, y, reduction="none")
        return (loss + strength * logits.square().sum(1)).mean()

    def decay_loss(self, values: Tensor, *, of_weights: bool) -> Tensor:
        """(wd_b/2)·‖w_b‖² of every parameter, in the mean over examples."""
        total = torch.zeros(())
        for b in range(EXAMPLES):
            tuned = 1e-3 * 100 ** torch.sigmoid(values[b, 1])
            for name, parameter in self.explicit.parameters.items():
                decay = tuned if name.startswith("0.") else DECAY_OF_LAST
                weight = parameter if of_weights else parameter.detach()
                moved = weight + self.explicit.change(name, b)
                total = total + decay / 2 * moved.square().sum() / EXAMPLES
        return total

    def descend(self, tensors: list[Tensor], gradients: tuple[Tensor, ...]) -> None:
        """SGD with momentum."""
        with torch.no_grad():
            for tensor, gradient in zip(tensors, gradients, strict=True):
                before = self.velocity.get(id(tensor), torch.zeros_like(tensor))
                self.velocity[id(tensor)] = MOMENTUM * before + gradient
                tensor -= LR * self.velocity[id(tensor)]

    def move(self, displacement: Tensor) -> None:
        """Add Φ·displacement to the weights."""
        self.at(displacement.detach()[None])
        with torch.no_grad():
            for name, parameter in self.explicit.parameters.items():
                parameter += self.explicit.change(name, 0)

    # -- the steps ---------------------------------------------------------------------------

    def stn_step(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            values = self.raw + self.noise()
        self.move(-self.raw)  # φ0
        logits = moved_by_loops(self.model, x, self.at(values))
        loss = self.training_loss(logits, y, values)
        objective = loss + self.decay_loss(values, of_weights=True)
        tensors = [*self.explicit.parameters.values(), *self.response_tensors()]
        self.descend(tensors, torch.autograd.grad(objective, tensors))
        self.move(self.raw)  # φ0 + Φλ
        return loss

    def centered_step(self, x: Tensor, y: Tensor, *, is_linear: bool) -> Tensor:
        here = self.raw.detach().expand(EXAMPLES, -1)
        loss = self.training_loss(self.model(x), y, here)
        objective = loss + self.decay_loss_at_centre()
        weights = list(self.explicit.parameters.values())
        self.descend(weights, torch.autograd.grad(objective, weights))

        epsilon = self.noise().detach()
        network = linearised_by_loops if is_linear else moved_by_loops
        total = torch.zeros(())
        for change in (epsilon, -epsilon):
            logits = network(copy.deepcopy(self.model), x, self.at(change))
            total = total + self.training_loss(logits, y, here + change) / 2
            total = total + self.decay_loss(here + change, of_weights=False) / 2
        tensors = self.response_tensors()
        self.descend(tensors, torch.autograd.grad(total, tensors))
        return loss

    def decay_loss_at_centre(self) -> Tensor:
        tuned = 1e-3 * 100 ** torch.sigmoid(self.raw.detach()[1])
        return torch.stack(
            [
                (tuned if name.startswith("0.") else DECAY_OF_LAST) / 2 * parameter.square().sum()
                for name, parameter in self.explicit.parameters.items()
            ]
        ).sum()

    def hyperparameter_gradient(self, batch: Batch, *, is_linear: bool) -> tuple[Tensor, ...]:
        """Of L_V at λ + ε through the response, which is fixed, and of the entropy."""
        x, y = batch
        epsilon = self.raw - self.raw.detach() + self.noise()
        network = linearised_by_loops if is_linear else moved_by_loops
        self.model.eval()
        logits = network(self.model, x, self.at(epsilon))
        self.model.train()
        entropy = (self.scale * math.sqrt(2 * math.pi * math.e)).log().sum()
        objective = F.cross_entropy(logits, y) - 0.03 * entropy
        return torch.autograd.grad(objective, [self.raw, self.raw_scale])


def of_response(tuned: Tuned) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """σ0·U and R of each parameter, as the engine has them."""
    terms = tuned.response.deltas(tuned.response.gates(SCALE * torch.eye(2)))
    gains, directions = {}, {}
    for name, parameter in tuned.model.named_parameters():
        (term,) = terms[id(parameter)]
        assert term.axis == 0
        gains[name] = term.gate.detach().T.clone()
        directions[name] = term.direction.detach().clone()
    return gains, directions


def require_equal(tuned: Tuned, by_hand: ByHand, tolerance: float = 1e-10) -> None:
    for name, value in tuned.model.state_dict().items():
        torch.testing.assert_close(
            value, by_hand.model.state_dict()[name], rtol=tolerance, atol=tolerance, msg=name
        )
    gains, directions = of_response(tuned)
    for name in gains:
        assert relative_error(gains[name], by_hand.explicit.gains[name]) < tolerance
        assert relative_error(directions[name], by_hand.explicit.directions[name]) < tolerance


@pytest.mark.parametrize("method", METHODS)
def test_each_step_is_the_one_written_by_hand(method: str) -> None:
    """Weights, running averages, response and loss of three steps."""
    tuned = Tuned(method)
    forget_velocity(tuned)
    by_hand = ByHand(tuned)
    before = copy.deepcopy(tuned.model.state_dict())
    for step in range(2, 5):
        state = torch.get_rng_state()
        if method == "stn":
            loss = by_hand.stn_step(*batch(step))
        else:
            loss = by_hand.centered_step(*batch(step), is_linear=method == "delta-stn")
        torch.set_rng_state(state)
        assert tuned.tuner.step(batch(step)) == pytest.approx(loss.item(), rel=1e-10)
        require_equal(tuned, by_hand)
    assert all((v != before[n]).any() for n, v in tuned.model.state_dict().items())


def forget_velocity(tuned: Tuned) -> None:
    """Of the response, whose tensors were replaced after the first step."""
    tuned.training.bilevel.response_optimizer.optimizer.state.clear()


@pytest.mark.parametrize("method", METHODS)
def test_the_step_of_hyperparameters_and_scale(method: str) -> None:
    tuned = Tuned(method, tune_scale=True)
    forget_velocity(tuned)
    by_hand = ByHand(tuned)
    state = torch.get_rng_state()
    expected = by_hand.hyperparameter_gradient(batch(1), is_linear=method == "delta-stn")
    torch.set_rng_state(state)
    tuned.training.steps.hyperparameters.take()
    assert relative_error(tuned.space.raw.grad, expected[0]) < 1e-10
    assert relative_error(tuned.space.raw_scale.grad, expected[1]) < 1e-10
    assert (tuned.space.raw != by_hand.raw).all()
    if method == "stn":  # the weights are those of the new λ
        by_hand.move(tuned.space.raw - by_hand.raw)
    require_equal(tuned, by_hand)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", [{}, {"initial_scale": 3.0}])
def test_the_hypergradient_at_the_hyperparameters(method: str, settings: dict[str, Any]) -> None:
    """It is Θᵀ∇L_V(w), of the plain validation loss, whatever the perturbation's scale is."""
    tuned = Tuned(method, **settings)
    parameters = list(tuned.model.parameters())
    tuned.model.eval()
    gradients = torch.autograd.grad(cross_entropy(tuned.model, batch(1)), parameters)
    tuned.model.train()
    jacobian = tuned.response.deltas(tuned.response.gates(torch.eye(2)))  # a row for each λ
    expected = torch.zeros(2)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for term in jacobian[id(parameter)]:
            expected += (term.per_example().detach() * gradient).flatten(1).sum(1)
    raw_scale = tuned.space.raw_scale.detach().clone()
    random_state = torch.get_rng_state()

    tuned.training.steps.hyperparameters.take()
    assert relative_error(tuned.space.raw.grad, expected) < 1e-10
    assert (tuned.space.raw_scale == raw_scale).all()
    assert (torch.get_rng_state() == random_state).all()  # there is nothing to draw


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase] | None) -> None:
        super().__init__()
        self.cell = None if cell is None else cell(3, 3, batch_first=True)
        self.last = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x if self.cell is None else self.cell(x)[0])


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, None])
def test_recurrent_layers_can_be_differentiated_in_evaluation_mode(cell: Any) -> None:
    """cuDNN's cannot: it is off for them in a step on λ, and only then."""
    with_cudnn: dict[bool, set[bool]] = {True: set(), False: set()}  # by the model's mode

    def make(trial: Any) -> tuple[nn.Module, Optimizer]:
        model = Recurrent(cell)
        decay = trial.suggest_float("decay", 1e-3, 1e-1)
        return model, SGD(model.parameters(), lr=0.1, weight_decay=decay)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            with_cudnn[model.training].add(torch.backends.cudnn.enabled)
        return model(x).square().mean()

    x = torch.randn(2, 4, 3)
    tuner = started(make, loss, [x], config=TunerConfig(warmup_steps=0, train_steps=1))
    with torch.backends.cudnn.flags(enabled=True):
        tuner.step(x)  # the first one looks at the validation loss too
        for seen in with_cudnn.values():
            seen.clear()
        tuner.step(x)
        assert with_cudnn == {True: {True}, False: {cell is None}}
        assert torch.backends.cudnn.enabled


# -- what holds for each method -------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_each_method_tunes_a_weight_decay_from_either_side(method: str) -> None:
    def tuned_from(start: float) -> float:
        torch.manual_seed(0)
        small = DecayedRegression(method, start, response="full", initial_scale=1.0)
        small.steps(40)
        first = small.tuner.evaluate()
        small.steps(210)
        assert small.tuner.evaluate() < first
        return small.tuner.hyperparameters["decay"]

    low, high = tuned_from(0.003), tuned_from(5.0)
    print(f"{method}: 0.003 -> {low:.3f}, 5 -> {high:.3f}; the best is near 0.3")
    assert low > 0.03
    assert high < 1.0


@pytest.mark.parametrize("method", METHODS)
def test_a_training_resumes_where_it_stopped(method: str) -> None:
    def run(small: DecayedRegression, count: int) -> None:
        torch.manual_seed(2)
        small.steps(count)

    whole = DecayedRegression(method, warmup_steps=2)
    whole.steps(7)
    saved = copy.deepcopy(
        (whole.model.state_dict(), whole.optimizer.state_dict(), whole.tuner.state_dict())
    )
    run(whole, 5)
    resumed = DecayedRegression(method, warmup_steps=2)
    for part, state in zip((resumed.model, resumed.optimizer, resumed.tuner), saved, strict=True):
        part.load_state_dict(state)  # type: ignore[attr-defined]
    run(resumed, 5)
    assert resumed.tuner.hyperparameters == whole.tuner.hyperparameters
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_each_gradient_is_clipped_to_the_norm(method: str) -> None:
    """Weights and response each on their own."""
    small = DecayedRegression(
        method, kind=SGD, max_grad_norm=1e-3, response_interval=1, warmup_steps=10**9
    )
    small.steps(3)
    norms: list[float] = []

    def note(optimizer: Optimizer, *_: Any) -> None:
        tensors = [t for group in optimizer.param_groups for t in group["params"]]
        gradients = [t.grad.flatten() for t in tensors if t.grad is not None]
        norms.append(torch.cat(gradients).norm().item())

    small.optimizer.register_step_pre_hook(note)
    small.bilevel.response_optimizer.optimizer.register_step_pre_hook(note)
    small.steps(1)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)


def two_steps(tuner: optuna_dstn.Tuner) -> None:
    for _ in range(2):
        tuner.step(batch())


@pytest.mark.parametrize("method", METHODS)
def test_what_the_first_step_misses_is_found_later(method: str) -> None:
    """A tensor of the hyperparameter that is kept from the first step gets no gradient."""
    kept: list[Tensor] = []

    def make(trial: Any) -> tuple[nn.Module, Optimizer]:
        strengths.append(trial.suggest_float("strength", 0.0, 1.0))
        model = nn.Linear(FEATURES, CLASSES)
        return model, SGD(model.parameters(), lr=0.1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        if not kept:
            kept.append(torch.as_tensor(strengths[0]))
        return F.cross_entropy(model(batch[0]) * kept[0], batch[1])

    strengths: list[Any] = []
    config = TunerConfig(method=method, warmup_steps=0, train_steps=1)
    tuner = started(make, loss, [batch(1)], config=config, valid_loss_fn=cross_entropy)
    with pytest.raises(optuna_dstn.HyperparameterError, match="'strength' was read in the first"):
        two_steps(tuner)


@pytest.mark.parametrize("method", METHODS)
def test_a_graph_that_is_cut_is_an_error(method: str) -> None:
    def make(trial: Any) -> tuple[nn.Module, Optimizer]:
        rate = trial.suggest_float("rate", 0.0, 0.9)
        models.append(nn.Sequential(nn.Linear(FEATURES, 4), nn.Dropout(rate)))
        outside.append(nn.Parameter(torch.randn(4, CLASSES)))
        return models[0], SGD([*models[0].parameters(), outside[0]], lr=0.1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]).detach() @ outside[0], batch[1])

    models: list[nn.Module] = []
    outside: list[nn.Parameter] = []
    config = TunerConfig(method=method)
    tuner = started(make, loss, [batch(1)], config=config, valid_loss_fn=loss)
    with pytest.raises(optuna_dstn.HyperparameterError, match="no gradient reaches it"):
        two_steps(tuner)


class EveryKind(nn.Module):
    """Dropout of activations and of a weight, a convolution, norms, a bare scale, a loss end."""

    def __init__(self, rate: Any, drop_connect: Any) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 2)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(rate)
        self.drop_connect = drop_connect
        self.scale = nn.Parameter(torch.ones(12))
        self.free = nn.Linear(12, EXAMPLES)  # as many outputs as the batch has examples
        self.head = nn.Linear(EXAMPLES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(F.relu(self.norm(self.conv(x[:, None])))).flatten(1) * self.scale
        weight = F.dropout(self.free.weight, self.drop_connect, self.training)
        y = torch.tanh(F.linear(y, weight, self.free.bias))
        return self.head(y).log_softmax(1)


@pytest.mark.parametrize("perturbation", ["auto", "example", "batch"])
@pytest.mark.parametrize("method", METHODS)
def test_each_method_takes_layers_dropout_and_penalties_of_all_sorts(
    method: str, perturbation: str
) -> None:
    """Everything responds and is trained."""

    def make(trial: Any) -> tuple[nn.Module, Optimizer]:
        rates = [trial.suggest_float(name, 0.0, 0.8) for name in ("rate", "drop_connect")]
        models.append(EveryKind(*rates))
        strengths.extend(trial.suggest_float(n, 1e-4, 1e-1, log=True) for n in ("l2", "l1"))
        return models[0], Adam(models[0].parameters(), lr=0.02)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nll = F.nll_loss(model(batch[0]), batch[1])
        l2 = optuna_dstn.l2_penalty(model.parameters(), strengths[0])
        return nll + l2 + optuna_dstn.l1_penalty(models[0].head.weight, strengths[1])

    def valid_loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.nll_loss(model(batch[0]), batch[1])

    models: list[EveryKind] = []
    strengths: list[Any] = []
    config = TunerConfig(
        method=method, perturbation=perturbation, warmup_steps=2, train_steps=2, response_interval=1
    )
    tuner = started(make, loss, [batch(1)], config=config, valid_loss_fn=valid_loss)
    losses = [tuner.step(batch()) for _ in range(40)]
    assert sum(losses[-10:]) < sum(losses[:10])
    summary = tuner.summary()
    assert summary.method == method
    assert set(summary.tuned) == {"rate", "drop_connect", "l2", "l1"}
    assert tuple(summary.not_responding) == tuple(summary.shared_in_batch) == ()
    training: Any = tuner._training
    moved = training.bilevel.response_optimizer.optimizer.state
    assert all(moved[t]["exp_avg_sq"].any() for t in training.bilevel.response.parameters())
    assert models[0].norm.num_batches_tracked == 40
    assert forward_ad._current_level == -1
