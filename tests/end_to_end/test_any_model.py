"""Small models that use parameters in all sorts of ways, against their examples one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _models import EXAMPLES, rows, steps
from _reference import AnyModel
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.linearize._linearize import at_response
from optuna_dstn.linearize._responding import PerturbedValues
from optuna_dstn.response._delta import Deltas
from optuna_dstn.space import NamedColumns


pytestmark = pytest.mark.usefixtures("double_precision")


def _in_place(m: Any, y: Tensor) -> Tensor:
    y = y.clone()
    y += m.p
    return y


def _masked_attention(m: Any, y: Tensor) -> Tensor:
    heads = y.unflatten(-1, (2, 3)).transpose(1, 2)
    attended = F.scaled_dot_product_attention(
        heads, heads, heads, attn_mask=m.p[None], dropout_p=getattr(m, "rate", 0.0)
    )
    return attended.transpose(1, 2).flatten(2)


# By name: the model, and whether the network is linear in what is tested, or any.
OWN_VALUE_FOR_EACH: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "position": lambda: steps(lambda m, y: y + m.p, p=(1, 3, 6)),
    "position as long as the batch": lambda: steps(
        lambda m, y: y + m.p, length=EXAMPLES, p=(1, EXAMPLES, 6)
    ),
    "position sliced": lambda: steps(lambda m, y: y + m.p[:, : y.size(1)], p=(1, 8, 6)),
    "position narrowed": lambda: steps(lambda m, y: y + m.p.narrow(0, 2, 3), p=(8, 6)),
    "position with new axis": lambda: steps(lambda m, y: y + m.p[None], p=(3, 6)),
    "position unsqueezed": lambda: steps(lambda m, y: y + m.p[:3].unsqueeze(0), p=(8, 6)),
    "position of images": lambda: steps(
        lambda m, y: y + m.p.flatten(2).transpose(1, 2), length=4, p=(1, 6, 2, 2)
    ),
    "position permuted": lambda: steps(lambda m, y: y + m.p.permute(2, 0, 1), p=(3, 6, 1)),
    "class token": lambda: steps(
        lambda m, y: torch.cat([m.p.expand(len(y), -1, -1), y], 1), p=(1, 1, 6)
    ),
    "class token by minus one": lambda: steps(
        lambda m, y: torch.cat([m.p.expand(y.shape[0], 2, 6), y], 1)[:, 1:], p=(1, 6)
    ),
    "class token repeated": lambda: steps(
        lambda m, y: torch.cat([m.p.repeat(len(y), 2, 1), y], 1), p=(1, 2, 6)
    ),
    "queries": lambda: steps(
        lambda m, y: torch.softmax(m.p.expand(len(y), -1, -1) @ y.mT, -1) @ y, p=(2, 6)
    ),
    "scale": lambda: rows(lambda m, y: y * m.p, p=(6,)),
    "scale of sequences": lambda: steps(lambda m, y: y + m.p * y.sin(), p=(6,)),
    "in place": lambda: rows(_in_place, p=(6,)),
    "in place method": lambda: rows(lambda m, y: y.clone().mul_(m.p), p=(1, 6)),
    "scalar": lambda: rows(lambda m, y: y * m.p, p=()),
    "one number": lambda: rows(lambda m, y: y - m.p, p=(1,)),
    "division by": lambda: rows(lambda m, y: y / m.p, p=(6,)),
    "right-hand side": lambda: rows(lambda m, y: 1.0 - m.p * y, p=(6,)),
    "of the weight first": lambda: rows(lambda m, y: m.p + y, p=(6,)),
    "joined biases": lambda: rows(
        lambda m, y: F.linear(y, m.w, torch.cat([m.p, torch.zeros(2), m.q])),
        w=(6, 6),
        p=(2,),
        q=(2,),
    ),
    "joined weights": lambda: rows(
        lambda m, y: F.linear(y, torch.cat([m.w, m.v], dim=0)), w=(2, 6), v=(4, 6)
    ),
    "joined weights along the inputs": lambda: rows(
        lambda m, y: F.linear(y, torch.cat([m.w, m.v], dim=1)), w=(6, 2), v=(6, 4)
    ),
    "learned attention mask": lambda: steps(_masked_attention, p=(2, 3, 3)),
    "a choice": lambda: rows(lambda m, y: torch.where(y > 0, y, m.p), p=(6,)),
    "two of them": lambda: rows(lambda m, y: torch.addcmul(m.p, y, m.q), p=(6,), q=(6,)),
    "a mask token": lambda: steps(lambda m, y: torch.where(y[..., :1] > 0, y, m.p), p=(1, 1, 6)),
    "negative of": lambda: rows(lambda m, y: torch.lerp(y, m.p, 0.3), p=(6,)),
    "mean of the weight's own rows": lambda: rows(lambda m, y: y @ m.p[:, 2:5], p=(6, 6), width=3),
    "linear with a slice": lambda: rows(lambda m, y: F.linear(y, m.p[1:5]), p=(7, 6), width=4),
    "linear with every second": lambda: rows(
        lambda m, y: F.linear(y, m.p[::2], m.q[::2]), p=(8, 6), q=(8,), width=4
    ),
    "linear with picked rows": lambda: rows(
        lambda m, y: F.linear(y, m.p[[3, 0, 0]]), p=(5, 6), width=3
    ),
    "linear with transposed": lambda: rows(lambda m, y: F.linear(y, m.p.t()), p=(6, 5), width=5),
    "linear with T": lambda: rows(lambda m, y: F.linear(y, m.p.T), p=(6, 5), width=5),
    "linear with viewed": lambda: rows(
        lambda m, y: F.linear(y, m.p.view(4, 6)), p=(4, 2, 3), width=4
    ),
    "linear with a flat one": lambda: rows(
        lambda m, y: F.linear(y, m.p.reshape(-1, 6)), p=(2, 2, 6), width=4
    ),
    "linear with chunks": lambda: rows(
        lambda m, y: F.linear(y, m.p.chunk(3)[0]) * F.linear(y, m.p.chunk(3)[2]), p=(9, 6), width=3
    ),
    "linear with split": lambda: rows(
        lambda m, y: F.linear(y, *[w.squeeze(0) for w in m.p.split(1)]), p=(1, 4, 6), width=4
    ),
    "linear with joined inputs": lambda: rows(
        lambda m, y: F.linear(y, torch.cat([m.p, m.q], 1)), p=(4, 2), q=(4, 4), width=4
    ),
    "linear with joined outputs": lambda: rows(
        lambda m, y: F.linear(y, torch.cat([m.p, m.q])), p=(2, 6), q=(3, 6), width=5
    ),
    "linear with the negative": lambda: rows(
        lambda m, y: F.linear(y, 0.5 - m.p.t() / 3), p=(6, 4), width=4
    ),
    "linear with a sum": lambda: rows(
        lambda m, y: F.linear(y, m.p - m.q), p=(4, 6), q=(4, 6), width=4
    ),
    "linear with a sum of the same": lambda: rows(
        lambda m, y: F.linear(y, m.p + m.p), p=(5, 6), width=5
    ),
    "linear with the same joined": lambda: rows(
        lambda m, y: F.linear(y, torch.cat([m.p, m.p], 1)), p=(5, 3), width=5
    ),
    "matmul": lambda: rows(lambda m, y: y @ m.p, p=(6, 5), width=5),
    "matmul of sequences": lambda: steps(lambda m, y: torch.matmul(y, m.p), p=(6, 5), width=5),
    "mm": lambda: rows(lambda m, y: torch.mm(y, m.p), p=(6, 5), width=5),
    "matmul with transposed": lambda: rows(lambda m, y: y @ m.p.mT, p=(5, 6), width=5),
    "matmul from the left": lambda: steps(lambda m, y: m.p @ y, p=(2, 3)),
    "matmul with a vector": lambda: steps(lambda m, y: y @ m.p, p=(6,), width=3),
    "matmul with heads": lambda: steps(
        lambda m, y: (y[:, None] @ m.p).flatten(1), p=(2, 6, 5), width=30
    ),
    "matmul with stacked numbers": lambda: rows(
        lambda m, y: (y[:, :3] @ torch.stack([m.p, m.q, m.p])).unsqueeze(1), p=(), q=(), width=1
    ),
    "product with stacked numbers": lambda: rows(
        lambda m, y: y[:, :2] * torch.stack([m.p, m.q], -1), p=(), q=(), width=2
    ),
    "linear with stacked vectors of one unit": lambda: rows(
        lambda m, y: F.linear(y[:, :2], torch.stack([m.p, m.q], dim=1)), p=(1,), q=(1,), width=1
    ),
    "addmm": lambda: rows(lambda m, y: torch.addmm(m.q, y, m.p), p=(6, 5), q=(5,), width=5),
}

LINEARISED_OWN_VALUE: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "temperature": lambda: rows(lambda m, y: y * m.p.exp(), p=()),
    "temperature of one": lambda: steps(lambda m, y: y / F.softplus(m.p), p=(1,)),
    "positive weight": lambda: rows(lambda m, y: F.linear(y, m.p.square()), p=(5, 6), width=5),
    "softplus weight": lambda: rows(lambda m, y: y @ F.softplus(m.p), p=(6, 5), width=5),
    "masked weight": lambda: rows(
        lambda m, y: F.linear(y, m.p * m.mask),
        p=(EXAMPLES, 6),
        width=EXAMPLES,
        buffers={"mask": torch.ones(EXAMPLES, 6).tril()},
    ),
    "normalised rows": lambda: rows(
        lambda m, y: F.linear(F.normalize(y), F.normalize(m.p, dim=1)), p=(5, 6), width=5
    ),
    "standardised rows": lambda: rows(
        lambda m, y: F.linear(y, (m.p - m.p.mean(1, keepdim=True)) / m.p.std(1, keepdim=True)),
        p=(5, 6),
        width=5,
    ),
    "scaled rows": lambda: rows(
        lambda m, y: F.linear(y, m.p * m.q[:, None]), p=(5, 6), q=(5,), width=5
    ),
    "scaled columns": lambda: rows(lambda m, y: F.linear(y, m.p * m.q), p=(5, 6), q=(6,), width=5),
    "product of the same": lambda: rows(lambda m, y: F.linear(y, m.p * m.p), p=(5, 6), width=5),
    "product of weights": lambda: rows(
        lambda m, y: F.linear(y, m.p @ m.q), p=(5, 2), q=(2, 6), width=5
    ),
    "low rank": lambda: rows(
        lambda m, y: F.linear(y, m.w + m.p @ m.q), w=(5, 6), p=(5, 2), q=(2, 6), width=5
    ),
    "fixed operator": lambda: rows(
        lambda m, y: F.linear(y, m.p @ m.a), p=(5, 4), width=5, buffers={"a": torch.ones(4, 6)}
    ),
    "product of stacks": lambda: rows(
        lambda m, y: F.linear(y, torch.bmm(m.p, m.q).flatten(0, 1)),
        p=(2, 3, 4),
        q=(2, 4, 6),
        width=6,
    ),
    "largest of several": lambda: rows(
        lambda m, y: F.linear(y, m.p.max(0)[0]), p=(3, 5, 6), width=5
    ),
    "the larger of two": lambda: rows(
        lambda m, y: F.linear(y, torch.max(m.p, m.q)), p=(5, 6), q=(5, 6), width=5
    ),
    "gathered": lambda: rows(
        lambda m, y: F.linear(y, m.p.gather(1, m.index)),
        p=(5, 3),
        width=5,
        buffers={"index": torch.arange(6).remainder(3).expand(5, -1)},
    ),
    "probabilities": lambda: rows(
        lambda m, y: F.linear(y, torch.softmax(m.p, -1)), p=(5, 6), width=5
    ),
    "of no data": lambda: rows(
        lambda m, y: y + F.linear(torch.ones(1, 2), m.p, m.q), p=(6, 2), q=(6,)
    ),
    "sigmoid gate": lambda: rows(
        lambda m, y: m.p.sigmoid() * y + (1 - m.p.sigmoid()) * y.sin(), p=(6,)
    ),
    "gate of one number": lambda: rows(
        lambda m, y: torch.sigmoid(m.p) * y + (1 - torch.sigmoid(m.p)) * y.sin(), p=()
    ),
}


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("name", OWN_VALUE_FOR_EACH)
def test_each_example_has_its_own_parameters(name: str, linear: bool, terms: int) -> None:
    model, x = OWN_VALUE_FOR_EACH[name]()
    case = AnyModel(model, x, linear=linear, terms=terms)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("name", LINEARISED_OWN_VALUE)
def test_each_example_has_its_own_weights_made_of_parameters(name: str, terms: int) -> None:
    model, x = LINEARISED_OWN_VALUE[name]()
    case = AnyModel(model, x, terms=terms)
    assert not case.shared_in_batch
    case.require_right()


@pytest.mark.parametrize("name", LINEARISED_OWN_VALUE)
def test_weights_made_of_parameters_where_the_network_is_not_linearised(name: str) -> None:
    model, x = LINEARISED_OWN_VALUE[name]()
    AnyModel(model, x, linear=False).require_right()


@pytest.mark.parametrize("name", [*OWN_VALUE_FOR_EACH, *LINEARISED_OWN_VALUE])
def test_gates_that_all_parameters_share(name: str) -> None:
    model, x = {**OWN_VALUE_FOR_EACH, **LINEARISED_OWN_VALUE}[name]()
    AnyModel(model, x, terms=2, shared_gates=True).require_right()


def test_a_factor_of_no_axes_is_no_penalty(caplog: pytest.LogCaptureFixture) -> None:
    model, x = LINEARISED_OWN_VALUE["temperature"]()
    AnyModel(model, x)
    assert not caplog.records


def test_parameters_that_a_forward_pass_keeps_in_bounds() -> None:
    """What happens to them under no_grad is no part of the function that responds."""

    def clamped(m: Any, y: Tensor) -> Tensor:
        with torch.no_grad():
            m.p.clamp_(-4, 4)
            norm = m.p.norm()
        return F.linear(y, m.p) / norm

    model, x = rows(clamped, p=(5, 6), width=5)
    case = AnyModel(model, x)
    assert not case.shared_in_batch
    case.require_right()
    with torch.no_grad():
        model.p.fill_(5.0)
    case.by_engine()
    assert model.p.max() == 4


def test_noise_on_weights_is_one_draw_for_all_terms() -> None:
    model, x = rows(lambda m, y: F.linear(y, F.dropout(m.p, 0.5)), p=(5, 6), width=5)
    for linear in (True, False):
        case = AnyModel(model, x, linear=linear, terms=3)
        assert not case.shared_in_batch
        torch.manual_seed(1)
        mine = case.by_engine()
        following = torch.rand(())
        torch.manual_seed(1)
        mask = F.dropout(torch.ones(5, 6), 0.5)
        assert torch.rand(()) == following
        model.body = lambda m, y: F.linear(y, m.p * mask)  # noqa: B023
        torch.testing.assert_close(mine, case.by_examples(), rtol=1e-10, atol=1e-12)
        model.body = lambda m, y: F.linear(y, F.dropout(m.p, 0.5))


def test_a_learned_mask_responds_where_the_dropout_of_its_attention_is_tuned() -> None:
    model, x = steps(_masked_attention, p=(2, 3, 3))
    any_model = AnyModel(model, x)
    expected = any_model.by_examples()
    model.rate = hyperparameter(0.0, Symbol("rate"))
    parameters = dict(model.named_parameters())
    terms = {id(parameters[name]): of for name, of in any_model.terms.items()}
    columns = NamedColumns(torch.zeros(EXAMPLES, 1), {"rate": 0})
    mode = PerturbedValues({"rate": 0.0}, Deltas(terms, BatchLayout(EXAMPLES)), columns, {})
    with at_response(model, mode):
        mine = model(x)
    torch.testing.assert_close(mine, expected)
