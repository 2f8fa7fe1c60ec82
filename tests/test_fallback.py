"""What has no rule of its own: one Δ for the whole batch, the examples' mean."""

from __future__ import annotations

from collections.abc import Callable

from _models import rows, steps
from _reference import AnyModel
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F


pytestmark = pytest.mark.usefixtures("double_precision")

ALIKE: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], set[str]]] = {
    "einsum": (
        lambda: rows(lambda m, y: torch.einsum("bi,io->bo", y, m.p), p=(6, 5), width=5),
        {"p"},
    ),
    "joined along the outputs": (
        lambda: rows(lambda m, y: F.linear(y, torch.cat([m.p, m.q])), p=(2, 6), q=(3, 6), width=5),
        set(),
    ),
    "inverse": (
        lambda: rows(lambda m, y: y @ torch.linalg.inv(m.p + 9 * torch.eye(6)), p=(6, 6)),
        {"p"},
    ),
    "changed in place": (
        lambda: rows(lambda m, y: F.linear(y, _zeroed(m.p)), p=(5, 6), width=5),
        {"p"},
    ),
    "written into data": (lambda: steps(lambda m, y: _written(y, m.p), p=(6,)), {"p"}),
    "of the mean": (lambda: rows(lambda m, y: y * m.p.mean(), p=(6,)), {"p"}),
    "a row for each example": (
        lambda: rows(lambda m, y: y + m.p.sum() + m.p[:1] * 0.5, p=(3, 6)),
        {"p"},
    ),
    "in two ways": (
        lambda: rows(lambda m, y: torch.cumprod(m.p, 0)[0] * (y @ m.p), p=(6, 6)),
        set(),
    ),
}


def _zeroed(weight: Tensor) -> Tensor:
    weight = weight.clone()
    weight[0] = 0
    return weight


def _written(y: Tensor, token: Tensor) -> Tensor:
    y = y.clone()
    y[:, 0] = token
    return y


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("name", ALIKE)
def test_what_has_no_rule_has_one_change_for_the_batch(name: str, linear: bool) -> None:
    problem, alike = ALIKE[name]
    model, x = problem()
    case = AnyModel(model, x, linear=linear)
    assert case.alike.keys() >= alike
    case.require_right()
