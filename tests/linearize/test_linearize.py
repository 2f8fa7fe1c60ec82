from __future__ import annotations

from typing import Any, NamedTuple

from _reference import (
    Explicit,
    deltas_of,
    linearised_by_engine,
    linearised_by_loops,
    relative_error,
)
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from optuna_dstn.linearize._linearize import at_response, merged_loss
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.training._model_state import ModelState


EXAMPLES = 5
HYPERPARAMETERS = 3


@pytest.fixture(autouse=True)
def seeded(double_precision: None) -> None:
    torch.manual_seed(0)


class LastStep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1]


def mlp() -> tuple[nn.Sequential, Tensor]:
    net = nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7, bias=False), nn.SiLU(), nn.Linear(7, 4)
    )
    return net, torch.randn(EXAMPLES, 6)


def cnn() -> tuple[nn.Sequential, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, padding="valid", groups=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    return net, torch.randn(EXAMPLES, 2, 7, 7)


def conv1d() -> tuple[nn.Sequential, Tensor]:
    net = nn.Sequential(
        nn.Conv1d(2, 4, 3, dilation=2, padding="same", padding_mode="circular"),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    return net, torch.randn(EXAMPLES, 2, 6)


def conv3d() -> tuple[nn.Sequential, Tensor]:
    net = nn.Sequential(nn.Conv3d(1, 3, 2), nn.Softplus(), nn.Flatten(), nn.Linear(24, 3))
    return net, torch.randn(EXAMPLES, 1, 3, 3, 3)


def sequence() -> tuple[nn.Sequential, Tensor]:
    net = nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.LeakyReLU(0.1), LastStep(), nn.Linear(6, 3)
    )
    return net, torch.randn(EXAMPLES, 3, 4)


def responding(net: nn.Sequential) -> list[str]:
    return [
        f"{index}.{name}"
        for index, layer in net.named_children()
        if not isinstance(layer, (nn.BatchNorm2d, nn.LayerNorm))
        for name, _ in layer.named_parameters()
    ]


NETS = [mlp, cnn, conv1d, conv3d, sequence]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("problem", NETS)
def test_prediction_equals_the_derivative_taken_example_by_example(
    problem: Any, training: bool
) -> None:
    net, x = problem()
    net(x)  # running averages other than 0 and 1
    net.train(training)
    explicit = Explicit(net, responding(net), EXAMPLES, HYPERPARAMETERS)

    with torch.no_grad():
        plain = net(x)
    reference = linearised_by_loops(net, x, explicit)
    prediction = linearised_by_engine(net, x, explicit)

    assert relative_error(prediction - plain, reference - plain) < 1e-10
    assert (prediction - plain).norm() > 0.1 * plain.norm()  # Δ was not small


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("problem", NETS)
def test_gradients_equal_those_of_the_loops(problem: Any, training: bool) -> None:
    net, x = problem()
    net.train(training)
    explicit = Explicit(net, responding(net), EXAMPLES, HYPERPARAMETERS)
    tensors = explicit.tensors()
    target = torch.randint(3, (EXAMPLES,))

    def gradients(prediction: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.cross_entropy(prediction, target), tensors)

    reference = gradients(linearised_by_loops(net, x, explicit))
    for mine, theirs in zip(
        gradients(linearised_by_engine(net, x, explicit)), reference, strict=True
    ):
        assert relative_error(mine, theirs) < 1e-9


@pytest.mark.parametrize("problem", NETS)
def test_gradients_at_a_zero_response(problem: Any) -> None:
    """At U = 0 the prediction is the plain one, and U alone gets a gradient."""
    net, x = problem()
    explicit = Explicit(net, responding(net), EXAMPLES, HYPERPARAMETERS, scale=0.0)
    target = torch.randint(3, (EXAMPLES,))

    def gradients(prediction: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.cross_entropy(prediction, target), explicit.tensors())

    mine = gradients(linearised_by_engine(net, x, explicit))
    theirs = gradients(linearised_by_loops(net, x, explicit))
    for gain, reference in zip(mine[1:], theirs[1:], strict=True):
        torch.testing.assert_close(gain, reference, rtol=1e-9, atol=1e-14)
    assert all(g.abs().max() > 0 for g in mine[1 : 1 + len(explicit.gains)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("problem", NETS)
def test_a_zero_response_leaves_the_prediction_as_it_is_to_the_last_bit(
    problem: Any, dtype: torch.dtype
) -> None:
    net, x = problem()
    net, x = net.to(dtype), x.to(dtype)
    torch.set_default_dtype(dtype)
    explicit = Explicit(net, responding(net), EXAMPLES, HYPERPARAMETERS, scale=0.0)
    with torch.no_grad():
        plain = net(x)
    assert torch.equal(linearised_by_engine(net, x, explicit), plain)


def test_one_responding_layer_among_others() -> None:
    net, x = mlp()
    for names in (["0.bias"], ["2.weight"], ["4.weight"]):
        explicit = Explicit(net, names, EXAMPLES, HYPERPARAMETERS)
        reference = linearised_by_loops(net, x, explicit)
        assert relative_error(linearised_by_engine(net, x, explicit), reference) < 1e-10


def test_a_shared_layer_responds_wherever_it_is_used() -> None:
    layer = nn.Linear(4, 4)
    net = nn.Sequential(layer, nn.Tanh(), layer)
    x = torch.randn(EXAMPLES, 4)
    explicit = Explicit(net, ["0.weight", "0.bias"], EXAMPLES, 2)
    # The loops know parameters by their place in the net: give the second place the same Δ.
    for of in (explicit.gains, explicit.directions):
        of.update({"2.weight": of["0.weight"], "2.bias": of["0.bias"]})
    reference = linearised_by_loops(net, x, explicit)
    assert relative_error(linearised_by_engine(net, x, explicit), reference) < 1e-10


class Answer(NamedTuple):
    logits: Tensor
    aux: dict[str, list[Tensor]]


class Structured(nn.Module):
    """Returns predictions inside a named tuple, a dict and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Answer:
        y = self.layer(x)
        return Answer(y, {"all": [y, x]})


def test_every_prediction_in_a_structure_is_completed() -> None:
    model, x = Structured(), torch.randn(EXAMPLES, 3)
    explicit = Explicit(model, ["layer.weight"], EXAMPLES, 1)
    with at_response(model, RespondingValidation({}, explicit.deltas())):
        answer = model(x)
        assert forward_ad.unpack_dual(answer.logits).tangent is None
    expected = linearised_by_loops(
        nn.Sequential(model.layer), x, _renamed(explicit, "layer.weight", "0.weight")
    )
    assert isinstance(answer, Answer)
    assert relative_error(answer.logits, expected) < 1e-10
    assert torch.equal(answer.aux["all"][0], answer.logits)
    assert answer.aux["all"][1] is x


def _renamed(explicit: Explicit, old: str, new: str) -> Explicit:
    for of in (explicit.gains, explicit.directions, explicit.parameters):
        of[new] = of.pop(old)  # type: ignore[attr-defined]
    return explicit


def _state(model: nn.Module) -> tuple[Any, ...]:
    return (
        [p.requires_grad for p in model.parameters()],
        len(model._forward_hooks),
        forward_ad._current_level,
    )


def test_the_model_is_left_as_it_was() -> None:
    model, x = mlp()
    model[0].weight.requires_grad_(False)
    before = _state(model)
    explicit = Explicit(model, ["2.weight"], EXAMPLES, 1)
    linearised_by_engine(model, x, explicit)
    assert _state(model) == before


def test_the_model_is_left_as_it_was_by_an_exception() -> None:
    model, x = mlp()
    before = _state(model)
    with (
        pytest.raises(ZeroDivisionError),
        at_response(model, RespondingValidation({}, deltas_of({}, EXAMPLES))),
    ):
        raise ZeroDivisionError
    assert _state(model) == before
    # and the next pass can open a dual level
    explicit = Explicit(model, ["2.weight"], EXAMPLES, 1)
    linearised_by_engine(model, x, explicit)


def test_running_statistics_are_left_alone() -> None:
    norm = nn.BatchNorm2d(4, momentum=None)  # momentum=None counts the batches
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    x = torch.randn(EXAMPLES, 2, 6, 6)
    state = ModelState(model, {})
    earlier = state.snapshot()
    model(torch.randn_like(x))  # another batch than that of the pass
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explicit = Explicit(model, ["0.weight"], EXAMPLES, 1)
    with state.rewound(earlier):
        linearised_by_engine(model, x, explicit)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_instance_norm_with_running_statistics() -> None:
    norm = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), norm, nn.Flatten(), nn.Linear(16, 2))
    x = torch.randn(EXAMPLES, 2, 6)
    model(torch.randn_like(x))  # another batch than that of the pass
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explicit = Explicit(model, ["0.weight", "0.bias", "3.weight"], EXAMPLES, 2)
    reference = linearised_by_loops(model, x, explicit)
    assert relative_error(linearised_by_engine(model, x, explicit), reference) < 1e-10
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_loss_of_an_unmerged_prediction_is_refused() -> None:
    model, x = mlp()
    explicit = Explicit(model, ["0.weight"], EXAMPLES, 1)
    with at_response(model, mode := RespondingValidation({}, explicit.deltas())):
        merged_loss(model(x).sum(), len(x), "loss_fn", mode)
        with pytest.raises(ValueError, match=r"loss_fn uses layers .* without calling model"):
            merged_loss(model[0](x).sum(), len(x), "loss_fn", mode)
