"""The passes of the methods that do not linearise, against networks run example by example."""

from __future__ import annotations

import copy
from typing import Any

from _reference import Explicit, moved_by_loops, relative_error
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.linearize._linearize import at_response
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.response._delta import Delta, Deltas


EXAMPLES, HYPERPARAMETERS = 5, 3


@pytest.fixture(autouse=True)
def seeded(double_precision: None) -> None:
    torch.manual_seed(0)


def mlp() -> tuple[nn.Sequential, Tensor]:
    net = nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8, momentum=None),
        nn.SiLU(),
        nn.Linear(8, 7, bias=False),
        nn.LayerNorm(7),
        nn.Linear(7, 4),
    )
    return net, torch.randn(EXAMPLES, 6)


def cnn() -> tuple[nn.Sequential, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False),
        nn.GroupNorm(2, 6),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    return net, torch.randn(EXAMPLES, 2, 7, 7)


def all_respond(net: nn.Module) -> Explicit:
    return Explicit(net, [n for n, _ in net.named_parameters()], EXAMPLES, HYPERPARAMETERS)


def moved_by_engine(
    net: nn.Module, x: Tensor, explicit: Explicit, *, trains_weights: bool = False
) -> Tensor:
    deltas = explicit.deltas(linear=False, trains_weights=trains_weights)
    with at_response(net, RespondingValidation({}, deltas)):
        output: Tensor = net(x)
    return output


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("problem", [mlp, cnn])
def test_a_pass_beside_the_weight_step(problem: Any, training: bool) -> None:
    """Prediction and gradients in Δ are those of the loops; the weights and the averages rest."""
    net, x = problem()
    net(torch.randn_like(x))
    net.train(training)
    before = copy.deepcopy(net.state_dict())
    explicit = all_respond(net)
    prediction = moved_by_engine(net, x, explicit)
    # The counts of batches are state, which ModelState puts back, not the pass itself.
    rests = {n: v for n, v in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert all(torch.equal(v, before[n]) for n, v in rests.items())

    reference = moved_by_loops(copy.deepcopy(net), x, explicit)
    assert relative_error(prediction, reference) < 1e-10
    target = torch.randint(4, (EXAMPLES,))
    mine, theirs = (
        torch.autograd.grad(F.cross_entropy(p, target), explicit.tensors())
        for p in (prediction, reference)
    )
    assert all(relative_error(m, t) < 1e-9 for m, t in zip(mine, theirs, strict=True))
    F.cross_entropy(moved_by_engine(net, x, explicit), target).backward()
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("problem", [mlp, cnn])
def test_a_pass_that_trains_the_weights(problem: Any) -> None:
    """Gradients of the weights too, and the averages count the batch, once."""
    net, x = problem()
    net[-1].bias.requires_grad_(False)
    copied = copy.deepcopy(net)
    explicit = all_respond(net)
    target = torch.randint(4, (EXAMPLES,))
    F.cross_entropy(moved_by_engine(net, x, explicit, trains_weights=True), target).backward()
    mine = [t.grad for t in explicit.tensors()]
    for tensor in explicit.tensors():
        tensor.grad = None
    F.cross_entropy(moved_by_loops(copied, x, explicit), target).backward()
    for tensor, gradient in zip(explicit.tensors(), mine, strict=True):
        assert gradient is not None
        assert tensor.grad is not None
        assert relative_error(gradient, tensor.grad) < 1e-9
    for own, other in zip(net.parameters(), copied.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None) == (not own.requires_grad)
        if own.grad is not None and other.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-13)
    for (name, value), theirs in zip(net.named_buffers(), copied.buffers(), strict=True):
        torch.testing.assert_close(value, theirs, rtol=1e-10, atol=1e-13, msg=name)


class Masked(nn.Module):
    """DropConnect by a mask, on a layer with as many outputs as the batch has examples."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(6, EXAMPLES)
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight * self.mask, self.layer.bias)


@pytest.mark.parametrize("trains_weights", [False, True])
def test_a_masked_weight_moves_by_one_change_for_all_examples(trains_weights: bool) -> None:
    """Also where its units are as many as the examples."""
    mask = (torch.rand(EXAMPLES, 6) < 0.5).double()
    model, x = Masked(mask), torch.randn(EXAMPLES, 6)
    gate = torch.randn(1, EXAMPLES).expand(EXAMPLES, -1).requires_grad_()
    direction = torch.randn(EXAMPLES, 6).requires_grad_()
    terms = {id(model.layer.weight): [Delta(gate, direction)]}
    deltas = Deltas(terms, BatchLayout(EXAMPLES), linear=False, trains_weights=trains_weights)
    with at_response(model, RespondingValidation({}, deltas)):
        prediction = model(x)
    weight = model.layer.weight + gate[0][:, None] * direction
    reference = F.linear(x, weight * mask, model.layer.bias)
    assert relative_error(prediction, reference) < 1e-12
    mine, theirs = (
        torch.autograd.grad(p.square().sum(), direction, retain_graph=True)[0]
        for p in (prediction, reference)
    )
    assert relative_error(mine, theirs) < 1e-11


ENDS = {
    "log-softmax": lambda y: y.log_softmax(1),
    "sigmoid": torch.sigmoid,
    "softmax, then log": lambda y: y.softmax(1).log(),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_output_activation_acts_on_the_moved_prediction(end: str) -> None:
    net, x = mlp()

    class Ending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return ENDS[end](self.net(x))

    explicit = all_respond(net)
    reference = ENDS[end](moved_by_loops(copy.deepcopy(net), x, explicit))
    assert relative_error(moved_by_engine(Ending(), x, explicit), reference) < 1e-10


def test_a_loss_of_the_models_own_making_needs_no_completion() -> None:
    """A linearised loss has no minimum in Δ; that of the moved network has its own."""
    net, x = mlp()
    target = torch.randint(4, (EXAMPLES,))

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            logits = self.net(x)
            return (logits.logsumexp(1) - logits.gather(1, target[:, None])[:, 0]).mean()

    explicit = all_respond(net)
    reference = F.cross_entropy(moved_by_loops(copy.deepcopy(net), x, explicit), target)
    assert relative_error(moved_by_engine(WithLoss(), x, explicit), reference) < 1e-10


def moved_example_by_example(model: nn.Module, x: Tensor, explicit: Explicit) -> Tensor:
    """f(x_b; w + Δ_b) of a whole model, each example in a call of its own."""
    parameters = dict(model.named_parameters())
    rows = []
    for b in range(EXAMPLES):
        moved = {name: p + explicit.change(name, b) for name, p in parameters.items()}
        rows.append(functional_call(model, moved, (x[b : b + 1],))[0])
    return torch.stack(rows)


class Attending(nn.Module):
    """A transformer's layer between a learned offset for each place and a mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(4, 6))
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.scale = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x + self.place) * self.scale).mean(1)


class Scaled(nn.Module):
    """Parameters in arithmetic with the examples, and one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.randn(6))
        self.shift = nn.Parameter(torch.randn(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.shared(x)) * self.scale + self.shift
        return self.shared(y)


class Recurrent(nn.Module):
    """Two recurrent layers, the latter's last state multiplied by a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(10, 4, batch_first=True)
        self.out = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.lstm(x)[0])[0][:, -1] @ self.out


class Normalised(nn.Module):
    """A convolution, and a norm of each example by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)
        self.norm = nn.InstanceNorm2d(3, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.norm(self.conv(x))).mean((2, 3))


WHOLE = [
    (Attending, (EXAMPLES, 4, 6)),
    (Scaled, (EXAMPLES, 6)),
    (Recurrent, (EXAMPLES, 4, 6)),
    (Normalised, (EXAMPLES, 2, 3, 3)),
]


@pytest.mark.parametrize("trains_weights", [False, True])
@pytest.mark.parametrize(("make", "shape"), WHOLE)
def test_whole_models(make: Any, shape: tuple[int, ...], trains_weights: bool) -> None:
    """Also the gradients of the weights, where they are trained."""
    model, x = make(), torch.randn(shape)
    explicit = all_respond(model)
    tensors = explicit.tensors() + (list(model.parameters()) if trains_weights else [])
    prediction = moved_by_engine(model, x, explicit, trains_weights=trains_weights)
    reference = moved_example_by_example(model, x, explicit)
    assert relative_error(prediction, reference) < 1e-10
    outwards = torch.randn_like(reference)
    mine, theirs = (
        torch.autograd.grad((p * outwards).sum(), tensors) for p in (prediction, reference)
    )
    for own, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("make", "shape"), WHOLE)
def test_whole_models_linearised(make: Any, shape: tuple[int, ...]) -> None:
    """f + d/dt f(w + tΔ), the derivative taken in reverse mode twice."""
    model, x = make(), torch.randn(shape)
    explicit = all_respond(model)
    with at_response(model, RespondingValidation({}, explicit.deltas())):
        prediction = model(x)

    def moved(t: Tensor) -> Tensor:
        scaled = copy.copy(explicit)
        scaled.epsilon = t * explicit.epsilon.detach()
        return moved_example_by_example(model, x, scaled)

    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        value, change = torch.autograd.functional.jvp(moved, torch.zeros(()), torch.ones(()))
    assert relative_error(prediction - value, change) < 1e-10
