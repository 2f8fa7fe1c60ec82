"""Problems whose best response, its Jacobian and the best hyperparameters are known exactly.

The training loss is ½‖y − Xw‖²/N + ½wᵀP(λ)w with a diagonal P, so that

    w*(λ) = (XᵀX/N + P)⁻¹ Xᵀy/N,     dw*/dλ_j = −(XᵀX/N + P)⁻¹ (dP/dλ_j) w*(λ).

P is exp(λ) for weight decay; for dropout of the inputs at rates p it is, in expectation,
p/(1 − p)·diag(XᵀX/N).
"""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig


TRAINING, VALIDATION, FEATURES = 40, 200, 4
DECAY = (1e-3, 10.0)
DROPOUT = (0.0, 0.8)


class Data(NamedTuple):
    x: Tensor
    y: Tensor


def make_data(noise: float = 1.5) -> tuple[Data, Data]:
    """Correlated features of different importance, few noisy training examples."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    mixing = torch.eye(FEATURES, dtype=torch.float64) + 0.3 * normal(FEATURES, FEATURES)
    weights = torch.linspace(0.2, 1.0, FEATURES, dtype=torch.float64)

    def sample(count: int, noise: float) -> Data:
        x = normal(count, FEATURES) @ mixing
        return Data(x, x @ weights + noise * normal(count))

    return sample(TRAINING, noise), sample(VALIDATION, 0.3)


class ByFeature(nn.Module):
    """y = Σ_j w_j·x_j, each w_j a layer of its own, whose response can be any (1 x h) row."""

    def __init__(self, dropouts: list[float] | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(FEATURES)
        )
        self.dropouts = nn.ModuleList(nn.Dropout(p) for p in dropouts or [])

    def forward(self, x: Tensor) -> Tensor:
        columns = list(x.split(1, dim=1))
        for j, dropout in enumerate(self.dropouts):
            columns[j] = dropout(columns[j])
        return sum(layer(c) for layer, c in zip(self.layers, columns, strict=True)).squeeze(1)


class Whole(nn.Sequential):
    """y = wᵀx in one layer, whose response to one hyperparameter can be any row."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Dropout(dropout), nn.Linear(FEATURES, 1, bias=False, dtype=torch.float64)
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(1)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def loss_fn(model: nn.Module, batch: Data) -> Tensor:
    return F.mse_loss(model(batch.x), batch.y) / 2


class Problem(NamedTuple):
    """A way to regularise, in the code of a user and as a formula.

    Attributes:
        make: From a trial to the model and the optimizer.
        penalty: From the raw λ, shape (h,), to the diagonal of P, shape (FEATURES,).
        start: Raw λ.
        scale: σ. The response is the best linear one over that width: a wide one differs from the
            Jacobian, a narrow one is noisy.
        copies: Of the data in a batch: the same loss, with less noise of ε and of the masks.
    """

    make: Callable[[Any], tuple[nn.Module, torch.optim.Optimizer]]
    penalty: Callable[[Tensor, Data], Tensor]
    start: Tensor
    scale: float = 0.1
    copies: int = 100


def decayed(raw: Tensor) -> Tensor:
    low, high = map(math.log, DECAY)
    return (low + (high - low) * torch.sigmoid(raw)).exp()


def dropped(raw: Tensor) -> Tensor:
    low, high = DROPOUT
    return low + (high - low) * torch.sigmoid(raw)


def sgd(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, **options)


def decay_for_each_feature(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = ByFeature()
    groups = [
        {
            "params": layer.parameters(),
            "weight_decay": trial.suggest_float(f"h{j}", *DECAY, log=True),
        }
        for j, layer in enumerate(model.layers)
    ]
    return model, sgd(groups)


def one_decay(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Whole()
    decay = trial.suggest_float("h0", *DECAY, log=True)
    return model, sgd(model.parameters(), weight_decay=decay)


def dropout_for_each_feature(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = ByFeature([trial.suggest_float(f"h{j}", *DROPOUT) for j in range(FEATURES)])
    return model, sgd(model.parameters())


def one_dropout(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Whole(trial.suggest_float("h0", *DROPOUT))
    return model, sgd(model.parameters())


def decay_penalty(raw: Tensor, data: Data) -> Tensor:
    return decayed(raw).expand(FEATURES)


def dropout_penalty(raw: Tensor, data: Data) -> Tensor:
    p = dropped(raw)
    return (p / (1 - p)).expand(FEATURES) * data.x.square().mean(0)


PROBLEMS = {
    "one weight decay": Problem(one_decay, decay_penalty, torch.tensor([0.3])),
    "a weight decay for each feature": Problem(
        decay_for_each_feature, decay_penalty, torch.tensor([-0.5, 0.6, 0.2, 0.9])
    ),
    "one input dropout": Problem(
        one_dropout, dropout_penalty, torch.tensor([-0.4]), scale=0.2, copies=400
    ),
    "an input dropout for each feature": Problem(
        dropout_for_each_feature,
        dropout_penalty,
        torch.tensor([-0.5, 0.4, -1.0, 0.2]),
        scale=0.2,
        copies=200,
    ),
}


def best_response(problem: Problem, raw: Tensor, data: Data) -> Tensor:
    gram = data.x.T @ data.x / len(data.y)
    return torch.linalg.solve(
        gram + torch.diag(problem.penalty(raw, data)), data.x.T @ data.y / len(data.y)
    )


def validation_loss(w: Tensor, data: Data) -> Tensor:
    return (data.y - data.x @ w).square().mean() / 2


def best_validation_loss(problem: Problem, train: Data, valid: Data) -> float:
    """The minimum of L_V(w*(λ)), by a general optimiser from several starts."""
    results = []
    for start in (-2.0, 0.0, 2.0):
        raw = torch.full_like(problem.start, start, dtype=torch.float64).requires_grad_()
        lbfgs = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            lbfgs.zero_grad()  # noqa: B023
            loss = validation_loss(best_response(problem, raw, train), valid)  # noqa: B023
            loss.backward()
            return loss

        lbfgs.step(closure)
        results.append(closure().item())
    return min(results)


def start_values(problem: Problem) -> dict[str, float]:
    values = (
        dropped(problem.start) if problem.penalty is dropout_penalty else decayed(problem.start)
    )
    return {f"h{j}": value for j, value in enumerate(values.tolist())}


def jacobian(tuner: Tuner, model: nn.Module) -> Tensor:
    """Θ, (FEATURES, h): what the response makes of each unit vector of λ."""
    training: Any = tuner._training
    count = len(tuner.tuned)
    response = training.bilevel.response
    gates = response.gates(torch.eye(count, dtype=torch.float64))
    deltas = {key: terms[0] for key, terms in response.deltas(gates).items()}
    rows = [
        (deltas[id(p)].gate[:, :, None] * deltas[id(p)].direction).flatten(1)
        for p in model.parameters()
    ]
    return torch.cat(rows, dim=1).T.detach()


class Converged(NamedTuple):
    """Weights and response trained to their optimum at fixed hyperparameters.

    Attributes:
        jacobian: Θ, the mean over the last steps.
    """

    problem: Problem
    tuner: Tuner
    model: nn.Module
    train: Data
    valid: Data
    jacobian: Tensor


@pytest.fixture(params=PROBLEMS, scope="module")
def converged(request: pytest.FixtureRequest) -> Converged:
    torch.manual_seed(0)
    problem = PROBLEMS[request.param]
    train, valid = make_data(noise=0.5)
    config = TunerConfig(
        warmup_steps=10**9,
        initial_scale=problem.scale,
        hyper_lr=1e-9,
    )
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial(start_values(problem))
    trial = study.ask()
    model, optimizer = problem.make(trial)
    made: list[torch.optim.Optimizer] = []

    def response_optimizer(tensors: list[Tensor]) -> torch.optim.Optimizer:
        made.append(torch.optim.Adam(tensors, lr=0.01))
        return made[0]

    many = Data(train.x.repeat(problem.copies, 1), train.y.repeat(problem.copies))
    tuner = Tuner(trial, model, optimizer, loss_fn, [valid], response_optimizer=response_optimizer)
    total: Any = 0.0
    for step in range(1200):
        tuner.step(many)
        falling = 1 - step / 1200
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * falling**2
        made[0].param_groups[0]["lr"] = 0.01 * falling
        if step >= 800:
            total = total + jacobian(tuner, model) / 400
    return Converged(problem, tuner, model, train, valid, total)


def test_weights_reach_the_exact_optimum(converged: Converged) -> None:
    problem, _, model, train, _, _ = converged
    exact = best_response(problem, problem.start.double(), train)
    assert (weights(model) - exact).norm() < 0.02 * exact.norm()


def test_the_response_is_the_exact_jacobian(converged: Converged) -> None:
    problem, _, _, train, _, response = converged
    exact = torch.autograd.functional.jacobian(
        lambda raw: best_response(problem, raw, train), problem.start.double()
    )
    error = (response - exact).norm() / exact.norm()
    print(f"Jacobian: relative error {error:.4f}")
    assert error <= 0.05


def test_the_hypergradient_points_where_the_exact_one_does(converged: Converged) -> None:
    problem, tuner, _, train, valid, _ = converged
    training: Any = tuner._training
    raw = problem.start.double().requires_grad_()
    loss = validation_loss(best_response(problem, raw, train), valid)
    (exact,) = torch.autograd.grad(loss, raw)
    total = torch.zeros_like(exact)
    for _ in range(200):
        training.steps.hyperparameters.take()
        total += training.bilevel.space.raw.grad
    cosine = F.cosine_similarity(total, exact, dim=0).item()
    ratio = (total / 200).norm() / exact.norm()
    print(f"hypergradient: cosine {cosine:.5f}, length {ratio:.4f}")
    assert cosine >= 0.99
    assert ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", PROBLEMS)
def test_tuning_ends_at_the_best_hyperparameters(name: str) -> None:
    problem = PROBLEMS[name]
    train, valid = make_data()
    config = TunerConfig(
        warmup_steps=50, train_steps=2, initial_scale=0.5, hyper_lr=0.01, response_lr=0.01
    )
    study = optuna_dstn.create_study(direction="minimize", config=config)
    study.enqueue_trial(start_values(problem))
    many = Data(train.x.repeat(4, 1), train.y.repeat(4))

    def objective(trial: Any) -> float:
        model, optimizer = problem.make(trial)
        tuner = Tuner(trial, model, optimizer, loss_fn, [valid])
        for step in range(2000):
            tuner.step(many)
            if step == 1400:
                for group in optimizer.param_groups:
                    group["lr"] = 0.01
        return tuner.evaluate()

    study.optimize(objective, n_trials=1)
    found = torch.tensor([study.best_params[f"h{j}"] for j in range(len(problem.start))])
    best = best_validation_loss(problem, train, valid)
    if problem.penalty is dropout_penalty:
        raw = torch.logit((found - DROPOUT[0]) / (DROPOUT[1] - DROPOUT[0]))
    else:
        low, high = map(math.log, DECAY)
        raw = torch.logit((found.log() - low) / (high - low))
    reached = validation_loss(best_response(problem, raw.double(), train), valid).item()
    start = validation_loss(best_response(problem, problem.start.double(), train), valid).item()
    print(f"validation loss: start {start:.5f}, reached {reached:.5f}, best {best:.5f}")
    assert start > 1.4 * best  # there was something to tune
    assert reached <= 1.05 * best
