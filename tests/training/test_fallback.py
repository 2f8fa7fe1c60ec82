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

PROBLEMS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "einsum": lambda: rows(lambda m, y: torch.einsum("bi,io->bo", y, m.p), p=(6, 5), width=5),
    "inverse": lambda: rows(lambda m, y: y @ torch.linalg.inv(m.p + 9 * torch.eye(6)), p=(6, 6)),
    "changed in place": lambda: rows(lambda m, y: F.linear(y, _zeroed(m.p)), p=(5, 6), width=5),
    "written into data": lambda: steps(lambda m, y: _written(y, m.p), p=(6,)),
    "of the mean": lambda: rows(lambda m, y: y * m.p.mean(), p=(6,)),
    "by its rows and by their sum": lambda: rows(
        lambda m, y: y + m.p.sum() + m.p[:1] * 0.5, p=(3, 6)
    ),
    "in two ways": lambda: rows(lambda m, y: torch.cumprod(m.p, 0)[0] * (y @ m.p), p=(6, 6)),
    "over all groups": lambda: rows(lambda m, y: F.linear(y, m.p.reshape(4, 6)), p=(3, 8), width=4),
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
@pytest.mark.parametrize("name", PROBLEMS)
def test_what_has_no_rule_has_one_change_for_the_batch(name: str, linear: bool) -> None:
    model, x = PROBLEMS[name]()
    case = AnyModel(model, x, linear=linear, terms=2)
    assert case.shared_in_batch.keys() == {"p"}
    case.require_right()


@pytest.mark.parametrize("linear", [True, False])
def test_the_change_is_the_mean_of_the_examples(linear: bool) -> None:
    """Where all share an ε they have it in common; where they do not, none is preferred."""
    model, x = PROBLEMS["einsum"]()
    case = AnyModel(model, x, linear=linear)
    common = case.by_engine()
    spread = torch.linspace(-1, 1, len(x))[:, None]
    case.terms["p"] = [t._replace(gate=t.gate + spread) for t in case.terms["p"]]
    torch.testing.assert_close(case.by_engine(), common, rtol=1e-10, atol=1e-12)
