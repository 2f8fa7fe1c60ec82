"""Normalisation layers, every example at its own scale and shift."""

from __future__ import annotations

from collections.abc import Callable

from _models import EXAMPLES
from _reference import AnyModel
import pytest
import torch
from torch import Tensor, nn


pytestmark = pytest.mark.usefixtures("double_precision")


def drawn(norm: nn.Module) -> nn.Module:
    """The norm with scales other than 1 and shifts other than 0."""
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    return norm


def between(norm: nn.Module, channels: int, *, spatial: int) -> nn.Sequential:
    """A norm of what has a tangent, before something that is not linear."""
    kind = {1: nn.Conv1d, 2: nn.Conv2d}.get(spatial)
    before = kind(3, channels, 1) if kind else nn.Linear(3, channels)
    return nn.Sequential(before, nn.SiLU(), drawn(norm), nn.SiLU())


# Each norm, its channels and the shape of an example; where spatial axes follow the channels.
BY_EXAMPLE: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...]]] = {
    "layer": (lambda: nn.LayerNorm(4), 0, (3,)),
    "layer of steps": (lambda: nn.LayerNorm(4), 0, (6, 3)),
    "layer of as many steps as examples": (lambda: nn.LayerNorm(4), 0, (EXAMPLES, 3)),
    "layer over two axes": (lambda: nn.LayerNorm((6, 4)), 0, (6, 3)),
    "layer over two axes, one as long as the batch": (
        lambda: nn.LayerNorm((EXAMPLES, 4)),
        0,
        (EXAMPLES, 3),
    ),
    "layer over three axes": (lambda: nn.LayerNorm((4, 2, 6)), 2, (3, 2, 6)),
    "layer without shift": (lambda: nn.LayerNorm(4, bias=False), 0, (3,)),
    "layer without both": (lambda: nn.LayerNorm(4, elementwise_affine=False), 0, (3,)),
    "group": (lambda: nn.GroupNorm(2, 4), 2, (3, 2, 3)),
    "group of sequences": (lambda: nn.GroupNorm(1, 4), 1, (3, 6)),
    "group of rows": (lambda: nn.GroupNorm(2, 4), 0, (3,)),
    "instance": (lambda: nn.InstanceNorm2d(4, affine=True), 2, (3, 2, 3)),
    "instance of sequences": (lambda: nn.InstanceNorm1d(4, affine=True), 1, (3, 6)),
    "RMS": (lambda: nn.RMSNorm(4), 0, (3,)),
    "RMS over two axes": (lambda: nn.RMSNorm((6, 4), eps=1e-3), 0, (6, 3)),
}


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("name", BY_EXAMPLE)
def test_norms_of_each_example(name: str, linear: bool) -> None:
    make, spatial, shape = BY_EXAMPLE[name]
    model = between(make(), 4, spatial=spatial)
    case = AnyModel(model, torch.randn(EXAMPLES, *shape), linear=linear, terms=2)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize(
    "write",
    [nn.LeakyReLU(0.3, inplace=True), nn.SiLU(inplace=True), nn.ReLU(inplace=True)],
    ids=["leaky relu", "silu", "relu"],
)
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.InstanceNorm2d(4),
        lambda: nn.InstanceNorm2d(4, affine=True),
        lambda: nn.GroupNorm(2, 4, affine=False),
        lambda: nn.LayerNorm((4, 2, 3), elementwise_affine=False),
        lambda: nn.RMSNorm((4, 2, 3), elementwise_affine=False),
        lambda: nn.BatchNorm2d(4, affine=False).eval(),
    ],
    ids=["instance", "instance with weights", "group", "layer", "RMS", "batch in evaluation"],
)
def test_an_operation_in_place_follows(norm: Callable[[], nn.Module], write: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm(), write, nn.Flatten(), nn.Linear(24, 2))
    AnyModel(model, torch.randn(EXAMPLES, 3, 2, 3)).require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(
    ("norm", "spatial", "shape"),
    [
        (lambda: nn.BatchNorm1d(4), 0, ()),
        (lambda: nn.BatchNorm1d(4, momentum=None), 1, (6,)),
        (lambda: nn.BatchNorm2d(4), 2, (2, 3)),
        (lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True), 1, (6,)),
    ],
)
def test_running_averages(
    norm: Callable[[], nn.Module], spatial: int, shape: tuple[int, ...], linear: bool
) -> None:
    """In evaluation they are constants."""
    model = between(norm(), 4, spatial=spatial)
    model(torch.randn(EXAMPLES, 3, *shape))  # averages other than 0 and 1
    model.eval()
    case = AnyModel(model, torch.randn(EXAMPLES, 3, *shape), linear=linear)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("steps", [3, EXAMPLES, 8])
def test_sequence_first(norm: Callable[[int], nn.Module], steps: int, linear: bool) -> None:
    model = between(norm(4), 4, spatial=0)
    case = AnyModel(model, torch.randn(steps, EXAMPLES, 3), batch_axis=1, linear=linear)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", ["layer", "group", "instance", "RMS", "batch"])
def test_gradients_in_the_input(name: str, first: bool) -> None:
    """A loss may take them, and those of a penalty on them, of the merged prediction."""
    make, spatial, shape = {**BY_EXAMPLE, "batch": (lambda: nn.BatchNorm1d(4), 0, (3,))}[name]
    model = between(make(), 4, spatial=spatial)
    if first:  # no tangent has come up before the norm
        model, shape = model[2:], (4, *shape[1:])
    case = AnyModel(model, torch.randn(EXAMPLES, *shape))

    def prediction(x: Tensor) -> Tensor:
        case.inputs = (x,)
        return case.by_engine()

    x = case.inputs[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(prediction, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(prediction, x, fast_mode=True)


class Written(nn.Module):
    """Linear, batch norm by the batch's own mean and variance, SiLU, for weights of each example.

    Args:
        shape: Of the examples behind the channels.
    """

    def __init__(self, shape: tuple[int, ...], momentum: float | None, *, tracks: bool) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        norm = nn.BatchNorm1d(4, momentum=momentum, track_running_stats=tracks)
        self.norm = drawn(norm)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:  # x: (B, s, 3)
        y = self.first(x)
        return nn.functional.silu(self.norm(y.mT if self.shape else y))

    def by_examples(self, x: Tensor, changes: dict[str, Tensor], t: Tensor) -> Tensor:
        """The same, with w_b + t·Δ_b for example b."""
        w = {n: p.detach() + t * changes[n] for n, p in self.named_parameters()}
        y = torch.einsum("boi,b...i->b...o", w["first.weight"], x)
        bias = w["first.bias"]
        y = y + (bias[:, None] if self.shape else bias)
        axes = [0, 1] if self.shape else [0]
        mean, variance = y.mean(axes), y.var(axes, unbiased=False)
        y = (y - mean) / (variance + 1e-5).sqrt()
        scale, shift = w["norm.weight"], w["norm.bias"]
        y = y * (scale[:, None] if self.shape else scale)
        y = y + (shift[:, None] if self.shape else shift)
        return nn.functional.silu(y.mT if self.shape else y)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("shape", [(), (6,)])
def test_batch_norm_by_the_batch(
    shape: tuple[int, ...], tracks: bool, momentum: float | None, linear: bool
) -> None:
    """The examples meet in the mean and the variance, and nothing is counted twice."""
    model = Written(shape, momentum, tracks=tracks)
    x = torch.randn(EXAMPLES, *shape, 3)
    model(torch.randn_like(x))
    case = AnyModel(model, x, linear=linear)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    mine = case.by_engine()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name

    changes = {n: torch.stack([case.change(n, b) for b in range(EXAMPLES)]) for n in case.terms}
    if linear:
        t = torch.zeros((), requires_grad=True)
        value = model.by_examples(x, changes, t)
        v = torch.zeros_like(value, requires_grad=True)
        (back,) = torch.autograd.grad(value, t, v, create_graph=True)
        (forth,) = torch.autograd.grad(back, v, create_graph=True)
        theirs = value.detach() + forth
    else:
        theirs = model.by_examples(x, changes, torch.ones(()))
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    weights = torch.randn(mine.shape)
    gradients = [
        torch.autograd.grad((y * weights).sin().sum(), case.leaves) for y in (mine, theirs)
    ]
    largest = max(g.abs().max() for g in gradients[1])
    for own, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-8, atol=float(1e-9 * largest))


def test_a_norm_that_does_not_see_the_batch_is_alike() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = drawn(nn.LayerNorm(4)), nn.Linear(4, 3)
            self.latents = nn.Parameter(torch.randn(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            latents = self.norm(self.latents)
            return self.last((x[:, None] * latents).sum(1))

    case = AnyModel(Model(), torch.randn(EXAMPLES, 4))
    assert case.shared_in_batch.keys() == {"norm.weight", "norm.bias", "latents"}
    case.require_right()


def test_channels_as_many_as_the_batch() -> None:
    """Group norm of sequence-first tensors has its channels where the batch is."""
    model = drawn(nn.GroupNorm(1, EXAMPLES))
    case = AnyModel(model, torch.randn(3, EXAMPLES, 2), batch_axis=1)
    assert case.shared_in_batch.keys() == {"weight", "bias"}
