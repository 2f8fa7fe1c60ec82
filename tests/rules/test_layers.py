"""Linear layers, convolutions and their like, every example at its own weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _models import EXAMPLES, rows
from _reference import AnyModel
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F


pytestmark = pytest.mark.usefixtures("double_precision")


def after_convolution(layer: nn.Module, channels: int, spatial: int, size: int = 5) -> Any:
    """A layer on images with a tangent, and images."""
    before = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[spatial - 1](2, channels, 1)
    x = torch.randn(EXAMPLES, 2, *[size] * spatial)
    return nn.Sequential(before, nn.Tanh(), layer, nn.SiLU()), x


CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "stride": lambda: nn.Conv2d(4, 3, 3, stride=2),
    "padding": lambda: nn.Conv2d(4, 3, 3, padding=1),
    "padding same": lambda: nn.Conv2d(4, 3, (3, 5), padding="same"),
    "padding valid": lambda: nn.Conv2d(4, 3, 3, padding="valid"),
    "padding same, dilated": lambda: nn.Conv2d(4, 3, 3, padding="same", dilation=2),
    "reflected": lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
    "dilation": lambda: nn.Conv2d(4, 3, 3, dilation=2),
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "depthwise with a multiplier": lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(4, 3, 3),
    "transposed with stride": lambda: nn.ConvTranspose2d(
        4, 3, 3, stride=2, padding=1, output_padding=1
    ),
    "transposed without bias": lambda: nn.ConvTranspose2d(4, 3, 2, bias=False, dilation=2),
    "transposed in groups": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "transposed depthwise": lambda: nn.ConvTranspose2d(4, 4, 3, groups=4, stride=2),
}


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_images(name: str, linear: bool) -> None:
    model, x = after_convolution(CONVOLUTIONS[name](), 4, 2)
    case = AnyModel(model, x, linear=linear, terms=2)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(
    ("layer", "spatial"),
    [
        (lambda: nn.Conv1d(4, 3, 2), 1),
        (lambda: nn.Conv3d(4, 3, 2, groups=1), 3),
        (lambda: nn.ConvTranspose1d(4, 3, 2, stride=2), 1),
        (lambda: nn.ConvTranspose1d(4, 6, 2, groups=2), 1),
        (lambda: nn.ConvTranspose3d(4, 3, 2), 3),
        (lambda: nn.ConvTranspose3d(4, 2, 2, groups=2), 3),
    ],
)
def test_convolutions_in_one_and_three_dimensions(
    layer: Callable[[], nn.Module], spatial: int, linear: bool
) -> None:
    model, x = after_convolution(layer(), 4, spatial, size=3)
    AnyModel(model, x, linear=linear).require_right()


def test_units_of_convolutions() -> None:
    """Outputs, but inputs where a weight of several groups has no axis of the outputs."""
    for layer, axis in [
        (nn.Conv2d(4, 6, 3), 0),
        (nn.Conv2d(4, 6, 3, groups=2), 0),
        (nn.ConvTranspose2d(4, 6, 3), 1),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), 0),
    ]:
        model, x = after_convolution(layer, 4, 2)
        assert AnyModel(model, x).axes["2.weight"] == axis


@pytest.mark.parametrize("linear", [True, False])
def test_a_convolution_and_its_transpose_share_a_weight(linear: bool) -> None:
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv_transpose1d(self.conv(x).tanh(), self.conv.weight)

    case = AnyModel(Autoencoder(), torch.randn(EXAMPLES, 2, 4), linear=linear)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
def test_a_linear_layer_and_its_transpose_share_a_weight(linear: bool) -> None:
    model, x = rows(lambda m, y: F.linear(F.linear(y, m.p).tanh(), m.p.t()), p=(3, 6))
    case = AnyModel(model, x, linear=linear)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((EXAMPLES,), 0), ((EXAMPLES,), 1), ((3,), 0)])
def test_features_as_many_as_the_batch(shape: tuple[int, ...], axis: int, linear: bool) -> None:
    """Rows of features, (B, B), have the batch in front, in a sequence-first model too."""
    model = nn.Sequential(
        nn.Linear(shape[0], EXAMPLES), nn.SiLU(), nn.Linear(EXAMPLES, EXAMPLES, bias=False)
    )
    case = AnyModel(model, torch.randn(EXAMPLES, *shape), linear=linear)
    assert not case.shared_in_batch
    case.require_right()
    if axis:
        whole = AnyModel(_LastStep(model), torch.randn(3, EXAMPLES, *shape), batch_axis=1)
        assert not whole.shared_in_batch
        mine, theirs = whole.by_engine(), whole.by_examples()
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


class _LastStep(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x[-1])[None]


class _Bilinear(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 2)
        self.layer = nn.Bilinear(3, 2, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.first(x).tanh(), self.second(x).tanh()).sin()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_bilinear(shape: tuple[int, ...], bias: bool, linear: bool) -> None:
    case = AnyModel(_Bilinear(bias=bias), torch.randn(EXAMPLES, *shape), linear=linear, terms=2)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("slopes", [1, 4])
@pytest.mark.parametrize("spatial", [0, 2])
def test_prelu(spatial: int, slopes: int, linear: bool) -> None:
    first: nn.Module = nn.Conv2d(2, 4, 2) if spatial else nn.Linear(2, 4)
    model = nn.Sequential(first, nn.PReLU(slopes, init=0.3), nn.SiLU())
    x = torch.randn(EXAMPLES, 2, *[3] * spatial)
    case = AnyModel(model, x, linear=linear, terms=2)
    assert not case.shared_in_batch
    case.require_right()


def test_one_slope_for_each_step_of_the_batch_axis_is_alike() -> None:
    """torch takes the second axis for the channels, and there the examples are."""
    model = nn.PReLU(EXAMPLES)
    with torch.no_grad():
        model.weight.copy_(torch.rand(EXAMPLES))
    case = AnyModel(model, torch.randn(3, EXAMPLES, 2), batch_axis=1)
    assert case.shared_in_batch == {"weight": ["torch.nn.functional.prelu"]}


def test_a_single_image_is_alike() -> None:
    """A convolution of (C, L), with a length or with channels as many as the batch."""
    for shape in ((2, EXAMPLES), (EXAMPLES, 6)):
        model, x = rows(
            lambda m, y: y + F.conv1d(m.grid, m.p).mean(),
            p=(3, shape[0], 2),
            buffers={"grid": torch.randn(shape)},
        )
        case = AnyModel(model, x)
        assert case.shared_in_batch.keys() == {"p"}
        case.require_right()


@pytest.mark.parametrize("linear", [True, False])
def test_without_a_response_the_output_is_the_plain_one_to_the_last_bit(linear: bool) -> None:
    for name in CONVOLUTIONS:
        model, x = after_convolution(CONVOLUTIONS[name](), 4, 2)
        case = AnyModel(model, x, linear=linear)
        case.terms = {n: [t._replace(gate=t.gate * 0) for t in of] for n, of in case.terms.items()}
        assert torch.equal(case.by_engine(), model(x))
