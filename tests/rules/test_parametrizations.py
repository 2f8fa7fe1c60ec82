"""Weights that are computed from other parameters."""

from __future__ import annotations

from collections.abc import Callable
import warnings

from _models import EXAMPLES
from _reference import AnyModel
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune


pytestmark = pytest.mark.usefixtures("double_precision")


def after_linear(layer: nn.Module) -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), layer, nn.SiLU(), nn.Linear(4, 3))
    return model, torch.randn(EXAMPLES, 4)


def after_convolution(layer: nn.Module) -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Tanh(), layer, nn.SiLU())
    return model, torch.randn(EXAMPLES, 2, 5)


def old(norm: Callable[..., nn.Module], layer: nn.Module, **options: int | None) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return norm(layer, **options)


BY_ROWS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear": lambda: after_linear(parametrizations.weight_norm(nn.Linear(4, 4))),
    "linear by inputs": lambda: after_linear(parametrizations.weight_norm(nn.Linear(4, 4), dim=1)),
    "conv": lambda: after_convolution(parametrizations.weight_norm(nn.Conv1d(4, 3, 2))),
    "transposed conv": lambda: after_convolution(
        parametrizations.weight_norm(nn.ConvTranspose1d(4, 3, 2), dim=1)
    ),
    "old": lambda: after_linear(old(nn.utils.weight_norm, nn.Linear(4, 4))),
    "old conv": lambda: after_convolution(old(nn.utils.weight_norm, nn.Conv1d(4, 3, 2))),
}


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("name", BY_ROWS)
def test_weight_norm(name: str, terms: int) -> None:
    """g and v have gates of their own, and W̃ responds to both, row by row."""
    model, x = BY_ROWS[name]()
    case = AnyModel(model, x, terms=terms)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("name", BY_ROWS)
def test_weight_norm_at_a_zero_response(name: str) -> None:
    model, x = BY_ROWS[name]()
    case = AnyModel(model, x)
    case.terms = {n: [t._replace(gate=t.gate * 0) for t in of] for n, of in case.terms.items()}
    assert torch.equal(case.by_engine(), model(x))


def test_weight_norm_where_the_network_is_not_linearised() -> None:
    for make in BY_ROWS.values():
        model, x = make()
        case = AnyModel(model, x, linear=False)
        assert len(case.shared_in_batch) == 2
        case.require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: parametrizations.weight_norm(nn.Linear(4, 4), dim=None),
        lambda: old(nn.utils.weight_norm, nn.Linear(4, 4), dim=None),
    ],
)
def test_weight_norm_of_the_whole_weight_is_alike(
    make: Callable[[], nn.Module], linear: bool
) -> None:
    case = AnyModel(*after_linear(make()), linear=linear)
    assert any("_weight_norm" in f for of in case.shared_in_batch.values() for f in of)
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_is_alike(
    norm: Callable[..., nn.Module], training: bool, linear: bool
) -> None:
    """Its norm takes all rows together. In training, iterations change its buffers first."""
    model, x = after_linear(old(norm, nn.Linear(4, 4)))
    for _ in range(50):  # until the iterations change nothing: then Δ does not depend on them
        model(x)
    model.train(training)
    case = AnyModel(model, x, linear=linear)
    assert len(case.shared_in_batch) == 1
    if linear or not training:
        case.require_right(1e-7)
    else:
        assert case.by_engine().isfinite().all()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "cayley", "householder"])
def test_orthogonal_weights_are_alike(orthogonal_map: str, linear: bool) -> None:
    layer = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map=orthogonal_map)
    case = AnyModel(*after_linear(layer), linear=linear)
    assert len(case.shared_in_batch) == 1
    case.require_right()


class _Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight)


class _Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class _UnitRows(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / weight.norm(dim=1, keepdim=True)


class _LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(4, 2))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


@pytest.mark.parametrize("parametrization", [_Positive, _UnitRows, _LowRank])
def test_own_parametrizations(parametrization: type[nn.Module]) -> None:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", parametrization())
    model, x = after_linear(layer)
    case = AnyModel(model, x, terms=2)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
def test_a_parametrization_that_mixes_rows_is_alike(linear: bool) -> None:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", _Symmetric())
    case = AnyModel(*after_linear(layer), linear=linear)
    assert len(case.shared_in_batch) == 1
    case.require_right()


def test_a_pruned_layer() -> None:
    layer = prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)
    case = AnyModel(*after_linear(layer))
    assert not case.shared_in_batch
    case.require_right()


def test_cached_parametrizations() -> None:
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    model, x = after_linear(layer)
    case = AnyModel(model, x)
    expected = case.by_engine()
    with parametrize.cached():
        assert torch.equal(case.by_engine(), expected)
