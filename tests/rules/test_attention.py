"""Attention, against one example after the other, each with its own moved parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _perturbed import response_pass, suggested
from _reference import relative_error
from optuna.distributions import FloatDistribution
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from optuna_dstn import HyperparameterError
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.linearize._linearize import _dual_level, at_response
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.response._delta import Delta, Deltas
from optuna_dstn.rules import forward_ad_rules


EXAMPLES, LENGTH, WIDTH = 3, 4, 8


@pytest.fixture(autouse=True)
def seeded(double_precision: None) -> None:
    torch.manual_seed(0)


class Terms:
    """U, R and the axis of each term of every parameter of a model, and ε.

    Args:
        model: All its parameters respond.
        axis: Where the units of weight matrices lie; those of vectors lie along their only axis.
        gated: Whether R is the weight itself, for matrices.
        count: How many terms each parameter has.
        scale: Multiplies U.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        axis: int = 0,
        gated: bool = False,
        count: int = 1,
        scale: float = 1.0,
        examples: int = EXAMPLES,
    ) -> None:
        self.parameters = dict(model.named_parameters())
        self.epsilon = torch.randn(examples, 2).requires_grad_()
        self.terms = {}
        for name, p in self.parameters.items():
            own = axis if p.ndim == 2 else p.ndim - 1
            self.terms[name] = [
                (
                    (scale * torch.randn(p.shape[own], 2)).requires_grad_(),
                    p if gated and p.ndim == 2 else torch.randn_like(p).requires_grad_(),
                    own,
                )
                for _ in range(count)
            ]

    def tensors(self) -> list[Tensor]:
        found = [t for terms in self.terms.values() for u, r, _ in terms for t in (u, r)]
        return [self.epsilon, *(t for t in found if not isinstance(t, nn.Parameter))]

    def deltas(self, *, linear: bool = True) -> Deltas:
        terms = {
            id(self.parameters[name]): [Delta(self.epsilon @ u.T, r, a) for u, r, a in mine]
            for name, mine in self.terms.items()
        }
        return Deltas(terms, BatchLayout(len(self.epsilon)), linear=linear)

    def change(self, name: str, example: int) -> Tensor:
        """Δp of one example, with explicit diagonal matrices."""
        change = torch.zeros_like(self.parameters[name])
        for u, r, axis in self.terms[name]:
            units = r.detach() if isinstance(r, nn.Parameter) else r
            rows = units.movedim(axis, 0)
            moved = torch.diag(u @ self.epsilon[example]) @ rows.reshape(len(rows), -1)
            change = change + moved.reshape(rows.shape).movedim(0, axis)
        return change


def by_loops(model: nn.Module, x: Tensor, terms: Terms, *, linear: bool = True) -> Tensor:
    """The prediction at Δ, or the network linearised there, by reverse mode taken twice."""

    def network(t: Tensor) -> Tensor:
        rows = []
        for b in range(len(x)):
            weights = {n: p.detach() + t * terms.change(n, b) for n, p in terms.parameters.items()}
            rows.append(functional_call(model, weights, (x[b : b + 1],))[0])
        return torch.stack(rows)

    with sdpa_kernel(SDPBackend.MATH):
        if not linear:
            return network(torch.ones(()))
        t = torch.zeros((), requires_grad=True)
        value = network(t)
        v = torch.zeros_like(value, requires_grad=True)
        (pulled_back,) = torch.autograd.grad(value, t, v, create_graph=True)
        (pushed_forward,) = torch.autograd.grad(pulled_back, v, create_graph=True)
        return value.detach() + pushed_forward


def by_engine(model: nn.Module, x: Tensor, terms: Terms, *, linear: bool = True) -> Tensor:
    with at_response(model, RespondingValidation({}, terms.deltas(linear=linear))):
        output: Tensor = model(x)
    return output


class Attention(nn.Module):
    """Self-attention, or attention of ``x`` to half of its tokens, whose width is halved."""

    def __init__(
        self,
        *,
        need_weights: bool = False,
        average: bool = True,
        causal: bool = False,
        masked: str = "",
        padded: bool = False,
        cross: bool = False,
        narrow: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if narrow:
            options |= {"kdim": WIDTH // 2, "vdim": WIDTH // 2}
        self.attention = nn.MultiheadAttention(WIDTH, 2, **options)
        self.need_weights, self.average, self.causal = need_weights, average, causal
        self.masked, self.padded, self.cross, self.narrow = masked, padded, cross, narrow

    def forward(self, x: Tensor) -> Tensor:
        attention = self.attention
        memory = x[:, ::2] if self.cross or self.narrow else x
        memory = memory[..., : WIDTH // 2] if self.narrow else memory
        shape = (x.shape[1], memory.shape[1])
        options: dict[str, Any] = {}
        if self.causal:
            options["attn_mask"] = torch.ones(shape).triu(1).bool()
            options["is_causal"] = True
        if self.masked == "per example":
            mask = x[:, :, None, 0] * memory[:, None, :, 0]
            options["attn_mask"] = mask.repeat_interleave(2, dim=0)
        elif self.masked == "boolean":
            options["attn_mask"] = torch.arange(shape[1]) > 2 + torch.arange(shape[0])[:, None] % 2
        elif self.masked:
            options["attn_mask"] = torch.arange(float(shape[0] * shape[1])).view(shape).cos()
        if self.padded:
            options["key_padding_mask"] = memory[..., 0] > 0.5
            options["key_padding_mask"][:, 0] = False
        if not attention.batch_first:
            x = x.transpose(0, 1)
            memory = (
                x if memory.shape[1:] == x.transpose(0, 1).shape[1:] else memory.transpose(0, 1)
            )
        y, weights = attention(
            x,
            memory,
            memory,
            need_weights=self.need_weights,
            average_attn_weights=self.average,
            **options,
        )
        y = y if attention.batch_first else y.transpose(0, 1)
        return y.flatten(1) if weights is None else torch.cat([y.flatten(1), weights.flatten(1)], 1)


OPTIONS: dict[str, dict[str, Any]] = {
    "self": {},
    "batch first": {"batch_first": True},
    "with weights": {"need_weights": True, "batch_first": True},
    "with weights of each head": {"need_weights": True, "average": False, "padded": True},
    "causal": {"causal": True},
    "causal with weights": {"causal": True, "need_weights": True},
    "causal and padded": {"causal": True, "padded": True, "batch_first": True},
    "boolean mask": {"masked": "boolean"},
    "mask": {"masked": "alike", "batch_first": True},
    "mask per example": {"masked": "per example", "need_weights": True},
    "padded": {"padded": True, "batch_first": True},
    "to others": {"cross": True, "padded": True},
    "to narrow others": {"narrow": True, "batch_first": True},
    "to narrow others without bias": {"narrow": True, "bias": False, "need_weights": True},
    "without bias": {"bias": False},
    "additional keys": {"add_bias_kv": True, "padded": True},
    "additional keys, causal": {"add_bias_kv": True, "add_zero_attn": True, "causal": True},
    "zero key": {"add_zero_attn": True, "need_weights": True, "masked": "alike"},
    "narrow, additional keys": {"narrow": True, "add_bias_kv": True},
}


def problem(name: str, length: int = LENGTH) -> tuple[nn.Module, Tensor]:
    model = Attention(**OPTIONS[name])
    for parameter in model.parameters():  # biases start at zero
        nn.init.normal_(parameter, std=0.7)
    return model, torch.randn(EXAMPLES, length, WIDTH)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_projection_responds(name: str, training: bool, linear: bool) -> None:
    model, x = problem(name)
    model.train(training)
    terms = Terms(model)
    with torch.no_grad():
        plain = model(x)
    reference = by_loops(model, x, terms, linear=linear)
    prediction = by_engine(model, x, terms, linear=linear)

    assert relative_error(prediction - plain, reference - plain) < 1e-10
    assert (prediction - plain).norm() > 0.1 * plain.norm()  # Δ was not small
    seed = torch.randn_like(plain)
    mine = torch.autograd.grad(prediction, terms.tensors(), seed)
    theirs = torch.autograd.grad(reference, terms.tensors(), seed)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


class Encoder(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.batch_first = options["batch_first"]

    def forward(self, x: Tensor) -> Tensor:
        mask = x[..., 0] > 1
        mask[:, 0] = False
        x = x if self.batch_first else x.transpose(0, 1)
        y: Tensor = self.encoder(x, src_key_padding_mask=mask)
        return y if self.batch_first else y.transpose(0, 1)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_encoder_layers(
    batch_first: bool, norm_first: bool, activation: str, training: bool, linear: bool
) -> None:
    """In evaluation PyTorch has fused kernels for whole layers: the passes must not take them."""
    model = Encoder(batch_first=batch_first, norm_first=norm_first, activation=activation)
    model.train(training)
    x = torch.randn(EXAMPLES, LENGTH, WIDTH)
    terms = Terms(model, scale=0.5)
    reference = by_loops(model, x, terms, linear=linear)
    prediction = by_engine(model, x, terms, linear=linear)
    assert relative_error(prediction, reference) < 1e-10
    seed = torch.randn_like(prediction)
    mine = torch.autograd.grad(prediction, terms.tensors(), seed)
    theirs = torch.autograd.grad(reference, terms.tensors(), seed)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["self", "to others", "to narrow others", "additional keys"])
@pytest.mark.parametrize("options", [{"axis": 1}, {"gated": True}, {"count": 2}])
def test_every_kind_of_term(name: str, options: dict[str, Any]) -> None:
    model, x = problem(name)
    terms = Terms(model, **options)
    prediction, reference = by_engine(model, x, terms), by_loops(model, x, terms)
    assert relative_error(prediction, reference) < 1e-10
    seed = torch.randn_like(prediction)
    mine = torch.autograd.grad(prediction, terms.tensors(), seed)
    theirs = torch.autograd.grad(reference, terms.tensors(), seed)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["self", "batch first", "additional keys"])
def test_as_many_tokens_as_examples(name: str, axis: int) -> None:
    model, x = problem(name, length=EXAMPLES)
    terms = Terms(model)
    deltas = terms.deltas()
    deltas.batch = BatchLayout(EXAMPLES, axis)
    with at_response(model, RespondingValidation({}, deltas)):
        prediction = model(x)
    assert relative_error(prediction, by_loops(model, x, terms)) < 1e-10


@pytest.mark.parametrize("name", OPTIONS)
def test_without_a_response_it_is_what_it_was(name: str) -> None:
    model, x = problem(name)
    prediction = by_engine(model, x, Terms(model, scale=0.0))
    with torch.no_grad():
        torch.testing.assert_close(prediction, model(x), rtol=1e-12, atol=1e-14)


SHAPES = {
    "one head": ((3, 4, 5), (3, 6, 5), (3, 6, 2)),
    "heads": ((3, 2, 4, 5), (3, 2, 6, 5), (3, 2, 6, 5)),
    "no batch": ((4, 5), (6, 5), (6, 5)),
    "shared keys": ((3, 2, 4, 5), (1, 2, 6, 5), (1, 1, 6, 5)),
    "groups of heads": ((3, 4, 4, 5), (3, 2, 6, 5), (3, 2, 6, 3)),
}
DIRECT: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scale": 0.3},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) > 0.5},
    "float": {},  # the mask is drawn in the test
}


@pytest.mark.parametrize(
    ("options", "duals"),
    [
        *((name, duals) for name in DIRECT for duals in ("q", "k", "v", "qk", "qkv")),
        *(("float", duals) for duals in ("m", "qkvm")),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_scaled_dot_product_attention(shape: str, options: str, duals: str) -> None:
    """Against the derivative that PyTorch's unfused form has; of the tangent, gradients too."""
    tensors = dict(zip("qkv", map(torch.randn, SHAPES[shape]), strict=True))
    named = dict(DIRECT[options], enable_gqa=shape == "groups of heads")
    if options == "float":
        tensors["m"] = torch.randn(4, 6)
    changes = {n: torch.randn_like(t).requires_grad_() for n, t in tensors.items() if n in duals}

    def attention(function: Callable[..., Tensor]) -> list[Tensor]:
        own = {n: forward_ad.make_dual(t, changes[n]) if n in changes else t for n, t in items}
        mask = {"attn_mask": own.pop("m")} if "m" in own else {}
        output = forward_ad.unpack_dual(function(*own.values(), **named, **mask))
        gradients = torch.autograd.grad(output.tangent, list(changes.values()), seed)
        return [output.primal, output.tangent, *gradients]

    items = tensors.items()
    seed = torch.randn(*SHAPES[shape][0][:-1], SHAPES[shape][2][-1])
    function = F.scaled_dot_product_attention
    with _dual_level():
        mine = attention(forward_ad_rules[function])
        with sdpa_kernel(SDPBackend.MATH):
            theirs = attention(function)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_query_without_keys_attends_to_nothing() -> None:
    """PyTorch's own result is zero, and its derivative in forward mode is NaN."""
    q, k, v = (torch.randn(3, 2, 4, 5) for _ in range(3))
    changes = [torch.randn_like(t).requires_grad_() for t in (q, k, v)]
    rule = forward_ad_rules[F.scaled_dot_product_attention]
    masks = (torch.tensor([False, True, True, False])[:, None].expand(4, 4), None)
    results = []
    with _dual_level():
        own = [forward_ad.make_dual(*pair) for pair in zip((q, k, v), changes, strict=True)]
        for mask in masks:
            output = forward_ad.unpack_dual(rule(*own, mask))
            seen = output.tangent[..., 1:3, :]
            gradients = torch.autograd.grad(seen.square().sum(), changes)
            results.append((output, gradients))
    (masked, mine), (whole, theirs) = results
    torch.testing.assert_close(
        masked.primal, F.scaled_dot_product_attention(q, k, v, masks[0]), rtol=1e-12, atol=1e-14
    )
    for one, other in zip(masked, whole, strict=True):
        assert not one[..., [0, 3], :].any()
        torch.testing.assert_close(one[..., 1:3, :], other[..., 1:3, :])
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_attention_of_plain_tensors_is_torchs_own() -> None:
    q = torch.randn(3, 2, 4, 5)
    function = F.scaled_dot_product_attention
    assert torch.equal(forward_ad_rules[function](q, q, q), function(q, q, q))


def test_dropout_of_the_weights() -> None:
    """Its mask is what the result at V = 1, V̇ = 0 says; the derivative sees the same mask."""
    q, k, q_change = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    v = torch.eye(4).expand(3, 2, 4, 4)  # the output is the dropped weights themselves
    with _dual_level():
        query = forward_ad.make_dual(q, q_change)
        rule = forward_ad_rules[F.scaled_dot_product_attention]
        output = forward_ad.unpack_dual(rule(query, k, v, dropout_p=0.4))
        weights = torch.softmax(query @ k.mT / 5**0.5, -1)
        kept = output.primal / forward_ad.unpack_dual(weights).primal
        assert torch.isclose(kept, torch.zeros(())).any()
        assert torch.logical_or(kept.abs() < 1e-9, (kept - 1 / 0.6).abs() < 1e-9).all()
        expected = forward_ad.unpack_dual(weights * kept)
    torch.testing.assert_close(output.tangent, expected.tangent)


RATES = torch.tensor([0.0, 0.3, 0.8])


def fraction_dropped(weights: Tensor, rates: Tensor) -> Tensor:
    """The fraction of zeros in each example's (dropped) weights, the others being 1/(1 − p)."""
    for of_example, rate in zip(weights, rates, strict=True):
        others = of_example[of_example != 0]
        torch.testing.assert_close(others, torch.full_like(others, 1 / (1 - rate)))
    return (weights == 0).double().flatten(1).mean(1)


def require_close_to(fraction: Tensor, rates: Tensor, count: int) -> None:
    assert fraction[0] == 0
    assert ((fraction - rates).abs() <= 5 * (rates * (1 - rates) / count).sqrt()).all()


@pytest.mark.parametrize("is_linear", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
def test_each_example_drops_weights_at_its_own_rate(axis: int, is_linear: bool) -> None:
    """As many heads as examples, which come first whatever the axis of the data's batch."""
    q = torch.zeros(3, 3, 40, 5)  # attends to all keys alike
    v = torch.eye(40).expand(3, 3, 40, 40) * 40
    deltas = Deltas({}, BatchLayout(3, axis), linear=is_linear)
    with response_pass(deltas, h=RATES), _dual_level():
        query = forward_ad.make_dual(q, torch.randn_like(q)) if is_linear else q
        output = F.scaled_dot_product_attention(query, q, v, dropout_p=suggested("h"))
        weights = forward_ad.unpack_dual(output).primal
    require_close_to(fraction_dropped(weights, RATES), RATES, 3 * 40 * 40)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_each_example_of_a_layer_drops_at_its_own_rate(
    batch_first: bool, need_weights: bool
) -> None:
    layer = nn.MultiheadAttention(40, 1, dropout=suggested("h"), batch_first=batch_first)
    assert layer.dropout is not None
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.in_proj_weight[80:] = torch.eye(40) * 40  # values are the keys; 0 queries
        layer.out_proj.weight.copy_(torch.eye(40))
    x = torch.eye(40).expand(3, 40, 40) if batch_first else torch.eye(40)[:, None].expand(40, 3, 40)
    with response_pass(None, h=RATES):
        y, weights = layer(x, x, x, need_weights=need_weights)
    y = y if batch_first else y.transpose(0, 1)
    require_close_to(fraction_dropped(y, RATES), RATES, 40 * 40)
    if weights is not None:
        torch.testing.assert_close(weights * 40, y)


def test_a_layer_whose_dropout_is_off_reads_no_rate() -> None:
    layer = nn.MultiheadAttention(8, 2, dropout=suggested("h")).eval()
    x = torch.randn(4, 3, 8)
    with response_pass(None, h=RATES) as mode:
        y, _ = layer(x, x, x)
    torch.testing.assert_close(y, layer(x, x, x)[0])
    assert not mode.names


def test_a_rate_outside_its_domain_is_refused() -> None:
    layer = nn.MultiheadAttention(8, 2, dropout=suggested("h"))
    x = torch.randn(4, 3, 8)
    met = Discovery({"h": 0.5}, BatchLayout(3), {"h": FloatDistribution(0.0, 1.5)})
    with met, pytest.raises(HyperparameterError, match=r"dropout_p of .*multi_head_attention"):
        layer(x, x, x)
    with met, pytest.raises(HyperparameterError, match=r"dropout_p of .*scaled_dot_product"):
        F.scaled_dot_product_attention(x, x, x, dropout_p=suggested("h"))


def test_how_the_parameters_of_a_layer_respond() -> None:
    layer = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    x = torch.randn(4, 3, 8)
    mask = nn.Parameter(torch.randn(4, 4))
    met = Discovery({}, BatchLayout(3), {})
    met.in_model = True
    with met:
        layer(x, x, x, attn_mask=mask)
    uses = {name: met.uses[id(p)] for name, p in [*layer.named_parameters(), ("mask", mask)]}
    assert {n for n, use in uses.items() if use.shared_in_batch} == {"mask"}
    assert uses["in_proj_weight"].axes == uses["out_proj.weight"].axes == (0, 1)
    assert uses["bias_k"].axes == uses["bias_v"].axes == (2,)


def test_a_layer_that_sees_no_batch_moves_alike() -> None:
    """One sequence after the other: the mean of the examples' Δ serves all of them."""
    layer = nn.MultiheadAttention(WIDTH, 2)
    x = torch.randn(5, WIDTH)
    terms = Terms(layer)
    met = Discovery({}, BatchLayout(EXAMPLES), {})
    met.in_model = True
    with met:
        layer(x, x, x)
    assert all(met.uses[id(p)].shared_in_batch for p in layer.parameters())
    weights = {
        name: p.detach() + torch.stack([terms.change(name, b) for b in range(EXAMPLES)]).mean(0)
        for name, p in terms.parameters.items()
    }
    expected = functional_call(layer, weights, (x, x, x))[0]
    model = Unbatched(layer)
    with at_response(model, RespondingValidation({}, terms.deltas(linear=False))):
        moved = model(x)
    torch.testing.assert_close(moved, expected)
    small = {name: p.detach() + 1e-6 * (weights[name] - p) for name, p in layer.named_parameters()}
    slope = (functional_call(layer, small, (x, x, x))[0] - layer(x, x, x)[0]) / 1e-6
    with at_response(model, RespondingValidation({}, terms.deltas())):
        linearised = model(x)
    torch.testing.assert_close(linearised - layer(x, x, x)[0], slope, rtol=1e-4, atol=1e-4)


class Unbatched(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x, x, x)[0]
        return y
