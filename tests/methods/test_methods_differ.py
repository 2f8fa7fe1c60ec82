"""Where the papers say that the methods differ: bias, conditioning, and the response's Jacobian.

Everything is compared in expectation over ε ~ N(0, σ²): each record is repeated with the nodes of
Gauss-Hermite quadrature as its perturbations, and weighs in the loss as those do.
"""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any, NamedTuple

from _reference import relative_error, started
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Optimizer

from optuna_dstn import Tuner, TunerConfig


METHODS = ("delta-stn", "centered-stn", "stn")
FEATURES, RECORDS = 3, 16


pytestmark = pytest.mark.usefixtures("double_precision")


class Batch(NamedTuple):
    x: Tensor
    y: Tensor
    z: Tensor
    weight: Tensor


def normal_nodes(count: int, scale: float) -> tuple[Tensor, Tensor]:
    """Values ε and weights w with Σ w·f(ε) = E f(ε), ε ~ N(0, σ²), for smooth f."""
    values, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(count))
    return scale * values, weights / weights.sum()


def records(weights: Tensor) -> Batch:
    """A few records, each repeated as often as there are weights."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(RECORDS, FEATURES, generator=generator)
    y, z = torch.randn(2, RECORDS, generator=generator)
    count = len(weights)
    return Batch(
        *(t.repeat_interleave(count, 0) for t in (x, y, z)), (weights * count).repeat(RECORDS)
    )


def raw_value(h: Any) -> Tensor:
    """λ of a hyperparameter from 0 to 1, in the user's code."""
    return torch.logit(torch.as_tensor(h))


def squared(residual: Tensor, batch: Batch) -> Tensor:
    """½·w·r² of each example, w its weight."""
    return batch.weight * residual.square() / 2


class Problem:
    """A model, one hyperparameter h in [0, 1], and a loss that reads it.

    Args:
        method: Of the configuration.
        loss: Of the model, the batch and h.
        model: The model.
        raw: λ at the start.
        scale: σ.
        lr: Of SGD on weights and response.
        nodes: Of the quadrature over ε.
        weight_decay: Of the weights.
    """

    def __init__(
        self,
        method: str,
        loss: Callable[[nn.Module, Batch, Any], Tensor],
        model: nn.Module,
        *,
        raw: float,
        scale: float,
        lr: float = 0.0,
        nodes: int = 12,
        weight_decay: float = 0.0,
    ) -> None:
        self.model = model
        self.is_uncentred = method == "stn"
        epsilon, weights = normal_nodes(nodes, scale)
        self.batch = records(weights)

        def make(trial: Any) -> tuple[nn.Module, Optimizer]:
            h = trial.suggest_float("h", 0.0, 1.0)
            self.loss = lambda model, batch: loss(model, batch, h)
            return model, SGD(model.parameters(), lr=lr, weight_decay=weight_decay)

        config = TunerConfig(
            method=method,
            response="full",
            response_interval=1,
            response_lr=None,
            warmup_steps=10**9,
            initial_scale=1.0,
        )
        self.tuner: Tuner = started(
            make,
            lambda model, batch: self.loss(model, batch),
            [self.batch],
            valid_loss_fn=lambda model, batch: squared(model(batch.x) - batch.y, batch),
            config=config,
            start={"h": torch.sigmoid(torch.tensor(raw)).item()},
        )
        self.training: Any = self.tuner._training
        self._epsilon = epsilon.repeat(RECORDS)[:, None]
        self._settle()

    def _settle(self) -> None:
        """Take the first step; from then on ε is as given, and Φ = 0 at the start."""
        self.tuner.step(self.batch)
        self.space = self.training.bilevel.space
        self.response = self.training.bilevel.response
        self.space.perturbation = lambda examples, shared=(): self._epsilon
        with torch.no_grad():
            for tensor in self.response.parameters():
                tensor.zero_()

    def step(self) -> None:
        self.tuner.step(self.batch)

    @property
    def point(self) -> Tensor:
        """Weights and Jacobian, flat: w0 and Θ, or φ0 and Φ."""
        return torch.cat([t.detach().flatten() for t in self._tensors()]) - self._folded()

    def put(self, point: Tensor) -> None:
        """Give the model and the response these weights and this Jacobian."""
        tensors = self._tensors()
        with torch.no_grad():
            for t, v in zip(tensors, point.split([t.numel() for t in tensors]), strict=True):
                t.copy_(v.view_as(t))
            folded = self._folded()
            for t, v in zip(tensors, folded.split([t.numel() for t in tensors]), strict=True):
                t += v.view_as(t)

    def gradient(self, point: Tensor) -> Tensor:
        """That of a step from there, whose learning rates are zero."""
        self.put(point)
        found: dict[int, Tensor] = {}  # they are let go within the step

        def note(tensor: Tensor) -> None:
            assert tensor.grad is not None
            found[id(tensor)] = tensor.grad.detach().clone()

        hooks = [t.register_post_accumulate_grad_hook(note) for t in self._tensors()]
        self.step()
        for hook in hooks:
            hook.remove()
        return torch.cat([found[id(t)].flatten() for t in self._tensors() if id(t) in found])

    def hessian(self, point: Tensor, step: float = 1.0) -> Tensor:
        """By central differences of the gradient: exact where it is affine."""
        change = step * torch.eye(len(point))
        columns = [self.gradient(point + c) - self.gradient(point - c) for c in change]
        return torch.stack(columns, dim=1) / (2 * step)

    def _tensors(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.response.parameters()]

    def _folded(self) -> Tensor:
        """Φλ where the model holds φ0 + Φλ, beside zeros in the place of Φ."""
        jacobian = torch.cat([t.detach().flatten() for t in self.response.parameters()])
        factor = self.space.raw.item() if self.is_uncentred else 0.0
        return torch.cat([factor * jacobian, torch.zeros_like(jacobian)])


def line() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 1, bias=False), nn.Flatten(0))


# -- bias ---------------------------------------------------------------------------------------


def curved(model: nn.Module, batch: Batch, h: Any) -> Tensor:
    """½(y − wᵀx)² + ½·e^λ·(z·wᵀx)²: quadratic in w, with a curvature that depends on λ."""
    prediction = model(batch.x)
    penalty = squared(batch.z * prediction, batch)
    return squared(prediction - batch.y, batch) + raw_value(h).exp() * penalty


class Curved(NamedTuple):
    """The closed forms for ``curved``, where C(λ) = A + e^λ·D is the curvature."""

    gram: Tensor
    weighted: Tensor
    target: Tensor

    @classmethod
    def of(cls) -> Curved:
        x, y, z, _ = records(torch.ones(1))
        return cls(x.T @ x / RECORDS, (x * z[:, None].square()).T @ x / RECORDS, x.T @ y / RECORDS)

    def best(self, raw: Tensor) -> Tensor:
        """w*(λ) = C(λ)⁻¹ b."""
        return torch.linalg.solve(self.gram + raw.exp() * self.weighted, self.target)

    def moment(self, raw: Tensor, scale: float, power: int) -> Tensor:
        """E ε^k·C(λ + ε): E e^ε = e^s, E ε·e^ε = σ²e^s, E ε²e^ε = (σ² + σ⁴)e^s, s = σ²/2."""
        plain = (1.0, 0.0, scale**2)[power]
        tilted = (1.0, scale**2, scale**2 + scale**4)[power] * math.exp(scale**2 / 2)
        return plain * self.gram + tilted * raw.exp() * self.weighted

    def uncentred(self, raw: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Return what STN has in place of w* and of its Jacobian.

        With p = φ0 + Φλ its objective is E[½(p + Φε)ᵀC(p + Φε) − bᵀ(p + Φε)], so that

            E[C]·p + E[εC]·Φ = b,     E[εC]·p + E[ε²C]·Φ = 0.
        """
        zeroth, first, second = (self.moment(raw, scale, power) for power in range(3))
        through = torch.linalg.solve(second, first)
        weights = torch.linalg.solve(zeroth - first @ through, self.target)
        return weights, -through @ weights

    def centred(self, raw: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Return w* itself and the best linear response to ε: E[ε²C]·Θ = −E[εC]·w*."""
        first, second = (self.moment(raw, scale, power) for power in (1, 2))
        best = self.best(raw)
        return best, -torch.linalg.solve(second, first @ best)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_uncentred_weights_are_biased(method: str) -> None:
    """The weights reach w*(λ) where they see λ alone; STN averages the curvature over ε."""
    raw, scale = 1.0, 1.2
    problem = Problem(method, curved, line(), raw=raw, scale=scale)
    start = torch.zeros(2 * FEATURES)
    # Everything is quadratic: a step of Newton's method leads to where training ends.
    hessian = problem.hessian(start)
    ends = start - torch.linalg.solve(hessian, problem.gradient(start))
    assert (torch.linalg.eigvals(hessian).real > 0).all()  # small steps do lead there
    assert problem.gradient(ends).norm() < 1e-10 * problem.gradient(start).norm()

    here, forms = torch.tensor(raw), Curved.of()
    best = forms.best(here)
    closed = forms.uncentred if method == "stn" else forms.centred
    weights, jacobian = closed(here, scale)
    origin, response = ends.chunk(2)
    today = origin + raw * response if method == "stn" else origin
    bias, expected = relative_error(today, best), relative_error(weights, best)
    print(f"{method}: bias {bias:.4g}, in closed form {expected:.4g}")
    if method == "stn":
        assert relative_error(today - best, weights - best) < 1e-4
    assert relative_error(today, weights) < 1e-6
    assert relative_error(response, jacobian) < 1e-6
    assert (bias > 0.02) == (method == "stn")


# -- conditioning -------------------------------------------------------------------------------


def shifted(model: nn.Module, batch: Batch, h: Any) -> Tensor:
    """½(y + λz − wᵀx)²: quadratic in w and λ together."""
    return squared(batch.y + raw_value(h) * batch.z - model(batch.x), batch)


def joint_hessian(raw: float, scale: float, gram: Tensor) -> Tensor:
    """Of E L_T(λ + ε, φ0 + Φ(λ + ε)) in (φ0, Φ), with A the Hessian in w:

    [[A, λA], [λA, (λ² + σ²)A]].
    """
    return torch.kron(torch.tensor([[1.0, raw], [raw, raw**2 + scale**2]]), gram)


def centred_hessian(raw: float, scale: float, gram: Tensor) -> Tensor:
    """Of both objectives in (w0, Θ): [[A, 0], [0, σ²A]]."""
    return torch.kron(torch.tensor([[1.0, 0.0], [0.0, scale**2]]), gram)


def gram() -> Tensor:
    x = records(torch.ones(1)).x
    return x.T @ x / RECORDS


@pytest.mark.parametrize(("raw", "scale"), [(0.0, 1.0), (0.5, 0.7), (3.0, 1.0)])
def test_centring_improves_the_conditioning(raw: float, scale: float) -> None:
    """The Hessians of the engine's own losses are the closed forms (Bae & Grosse, section 4)."""
    conditions = {}
    for method, closed in (("stn", joint_hessian), ("centered-stn", centred_hessian)):
        problem = Problem(method, shifted, line(), raw=raw, scale=scale)
        hessian = problem.hessian(torch.randn(2 * FEATURES))
        expected = closed(raw, scale, gram())
        assert (hessian - expected).norm() < 1e-10 * expected.norm()
        conditions[method] = torch.linalg.cond(hessian).item()
    print(f"λ = {raw}, σ = {scale}: condition numbers {conditions}")
    if raw:
        assert conditions["stn"] > 1.3 * conditions["centered-stn"]
    else:
        assert conditions["stn"] == pytest.approx(conditions["centered-stn"], rel=1e-9)


@pytest.mark.parametrize("of_method", ["stn", "centered-stn"])
def test_centring_converges_faster_and_at_larger_learning_rates(of_method: str) -> None:
    """SGD leaves (1 − lr·H)ⁿ of the error, at a rate that suits one method or the other."""
    raw, scale, steps = 2.0, 1.0, 40
    hessians = {
        "stn": joint_hessian(raw, scale, gram()),
        "centered-stn": centred_hessian(raw, scale, gram()),
    }
    lr = 1 / torch.linalg.eigvalsh(hessians[of_method]).max().item()
    left = {}
    for method, hessian in hessians.items():
        problem = Problem(method, shifted, line(), raw=raw, scale=scale, lr=lr)
        x, y, z, _ = records(torch.ones(1))
        slope = torch.linalg.solve(gram(), x.T @ z / RECORDS)
        at_zero = torch.linalg.solve(gram(), x.T @ y / RECORDS)
        origin = at_zero if method == "stn" else at_zero + raw * slope
        exact = torch.cat([origin, slope])
        problem.put(torch.zeros(2 * FEATURES))
        for _ in range(steps):
            problem.step()
        decay = torch.linalg.matrix_power(torch.eye(2 * FEATURES) - lr * hessian, steps)
        error = problem.point - exact
        torch.testing.assert_close(error, -decay @ exact, rtol=1e-8, atol=1e-10)
        left[method] = (error.norm() / exact.norm()).item()
    print(f"learning rate {lr:.3f}: left after {steps} steps: {left}")
    if of_method == "stn":
        assert left["stn"] > 3 * left["centered-stn"]
    else:
        assert left["centered-stn"] < 0.02
        assert left["stn"] > 1e3  # diverges


# -- the response's Jacobian ---------------------------------------------------------------------


class Exact(NamedTuple):
    """A network of one hidden layer that fits its targets, and its best response's Jacobian.

    Attributes:
        model: f(x; w).
        jacobian: dw*/dλ = −H⁻¹ ∂²L/∂w∂λ = (JᵀJ/N + wd)⁻¹ Jᵀz/N at λ = 0, for the loss
            ½(f − f0 − λz)² and weight decay. Where f fits f0 the Hessian is the Gauss-Newton one,
            that of the linearised network.
    """

    model: nn.Module
    jacobian: Tensor


DECAY = 0.05


def exact() -> Exact:
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Linear(FEATURES, 2, bias=False), nn.Tanh(), nn.Linear(2, 1), nn.Flatten(0)
    )
    x, _, z, _ = records(torch.ones(1))
    parameters = dict(model.named_parameters())

    def prediction(flat: Tensor) -> Tensor:
        sizes = [p.numel() for p in parameters.values()]
        parts = zip(parameters.items(), flat.split(sizes), strict=True)
        return functional_call(model, {n: v.view_as(p) for (n, p), v in parts}, (x,))

    weights = torch.cat([p.detach().flatten() for p in parameters.values()])
    rows = torch.autograd.functional.jacobian(prediction, weights)
    hessian = rows.T @ rows / RECORDS + DECAY * torch.eye(len(weights))
    return Exact(model, torch.linalg.solve(hessian, rows.T @ z / RECORDS))


def trained_jacobian(method: str, scale: float) -> tuple[Tensor, Tensor]:
    """Θ where its training with ε = ±σ ends, the weights being held, and the exact one."""
    model, jacobian = exact()
    _, weights = normal_nodes(2, scale)
    fitted = model(records(weights).x).detach()

    def loss(model: nn.Module, batch: Batch, h: Any) -> Tensor:
        return squared(model(batch.x) - fitted - raw_value(h) * batch.z, batch)

    problem = Problem(method, loss, model, raw=0.0, scale=scale, nodes=2, weight_decay=DECAY)
    held = problem.point[: len(jacobian)]

    def gradient(response: Tensor) -> Tensor:
        return problem.gradient(torch.cat([held, response]))[len(held) :]

    def hessian(response: Tensor) -> Tensor:
        change = 1e-5 * torch.eye(len(response))
        columns = [gradient(response + c) - gradient(response - c) for c in change]
        return torch.stack(columns, dim=1) / 2e-5

    response = torch.zeros_like(jacobian)
    for _ in range(1 if method == "delta-stn" else 6):  # Newton's method; Δ-STN's is quadratic
        response = response - torch.linalg.solve(hessian(response), gradient(response))
    assert gradient(response).norm() < 1e-8 * scale**2
    return response, jacobian


@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
def test_linearising_makes_the_response_the_jacobian_at_any_width(scale: float) -> None:
    error = relative_error(*trained_jacobian("delta-stn", scale))
    print(f"σ = {scale}: error of Θ {error:.2e}")
    assert error < 1e-8


def test_without_it_the_response_is_off_by_more_the_wider_the_perturbation() -> None:
    """By a term of the order of σ², the curvature of the network."""
    errors = [relative_error(*trained_jacobian("centered-stn", s)) for s in (0.05, 0.1, 0.4)]
    print(f"σ = 0.05, 0.1, 0.4: errors of Θ {errors}")
    assert errors[1] / errors[0] == pytest.approx(4, rel=0.1)
    assert errors[1] < 0.05
    assert errors[2] > 0.15


# -- the hypergradient ---------------------------------------------------------------------------


CHANCE = 0.9  # of the validation labels that are 1


def hypergradient(scale: float, *, tune_scale: bool) -> float:
    """dL_V/dλ of a logit z that λ moves one to one, where L_V is least: at z = logit(0.9)."""
    values, weights = normal_nodes(60, scale)
    model = nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, math.log(CHANCE / (1 - CHANCE)))
    ones = torch.ones(len(weights), 1)
    weight = (weights * len(weights))[:, None]

    def make(trial: Any) -> tuple[nn.Module, Optimizer]:
        decay = trial.suggest_float("decay", 1e-3, 1e-1)
        return model, SGD(model.parameters(), lr=0.0, weight_decay=decay)

    def loss(model: nn.Module, _: Any) -> Tensor:
        logit = model(ones)
        return (weight * (nn.functional.softplus(logit) - CHANCE * logit)).flatten()

    config = TunerConfig(
        response="full",
        warmup_steps=10**9,
        initial_scale=scale,
        tune_scale=tune_scale,
        entropy_weight=0.0,
    )
    tuner = started(make, loss, [ones], config=config, start={"decay": 0.01})
    tuner.step(ones)
    training: Any = tuner._training
    training.bilevel.space.perturbation = lambda examples, shared=(): values[:, None]
    with torch.no_grad():
        for tensor in training.bilevel.response.parameters():
            tensor.fill_(scale)  # it is stored as Θ·σ0
    training.steps.hyperparameters.take()
    return float(training.bilevel.space.raw.grad)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_hypergradient_vanishes_where_the_validation_loss_is_least(scale: float) -> None:
    assert abs(hypergradient(scale, tune_scale=False)) < 1e-12


def test_a_perturbed_one_asks_for_larger_logits_the_more_the_wider_the_perturbation() -> None:
    """Of noisier logits the mean probability is nearer to ½: E s(z + ε) < s(z) for z > 0."""
    perturbed = [hypergradient(scale, tune_scale=True) for scale in (0.5, 1.0, 2.0)]
    z = math.log(CHANCE / (1 - CHANCE))
    for gradient, scale in zip(perturbed, (0.5, 1.0, 2.0), strict=True):
        grid = torch.linspace(-12, 12, 200_001)
        density = torch.exp(-grid.square() / 2)
        mean = (density * torch.sigmoid(z + scale * grid)).sum() / density.sum()
        assert gradient == pytest.approx(float(mean) - CHANCE, abs=1e-7)
    assert 0 > perturbed[0] > perturbed[1] > perturbed[2]
