"""Every loss with hyperparameters against torch's own function, called at one value at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import inspect
from typing import Any

from _reference import perturbing
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn import HyperparameterError
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.linearize._torch_call_mode import CurrentValues
from optuna_dstn.rules import PerExample, hyperparameter_rules


EXAMPLES, CLASSES = 5, 3
REDUCTIONS = ["none", "mean", "sum"]
IGNORED = -100

generator = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return 0.1 + 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64)


def classes(*shape: int) -> Tensor:
    """Labels, every fifth of them ignored."""
    labels = torch.randint(CLASSES, shape, generator=generator)
    labels.view(-1)[1::5] = IGNORED
    return labels


def signs(*shape: int) -> Tensor:
    return torch.randint(2, shape, generator=generator).double() * 2 - 1


@dataclass
class Case:
    """A call of a loss: its arguments, and the values, (B, *s), of those that vary."""

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    values: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    def by_rule(self, values: dict[str, Tensor], **options: Any) -> Tensor:
        """The loss at one value per example."""
        perturbed = {name: PerExample(v, "h", "here") for name, v in values.items()}
        rule = hyperparameter_rules[self.function]
        assert rule.is_active(*self.inputs, **self.options, **options, **perturbed)
        return rule.apply(*self.inputs, **self.options, **options, **perturbed)

    def by_torch(self, values: dict[str, Tensor], **options: Any) -> Tensor:
        """The loss of the whole batch at one value, without a batch axis."""
        plain = {name: v if v.ndim else v.item() for name, v in values.items()}
        return self.function(*self.inputs, **self.options, **options, **plain)

    def by_loop(self, reduction: str) -> Tensor:
        """Σ_b L_b(λ_b), where Σ_b L_b(λ) is torch's loss of the whole batch at λ."""
        own = []
        for b in range(EXAMPLES):
            values = {name: v[b] for name, v in self.values.items()}
            losses = self.by_torch(values, reduction="none")
            if reduction == "mean":  # torch's own normaliser, whatever it is
                mean = self.by_torch(values, reduction="mean")
                losses = losses / (losses.sum() / mean).detach()
            own.append(losses[b])
        return (
            torch.stack(own) if reduction == "none" else torch.stack([o.sum() for o in own]).sum()
        )


CASES = {
    "label smoothing": Case(
        F.cross_entropy,
        (normal(EXAMPLES, CLASSES), classes(EXAMPLES)),
        {"label_smoothing": uniform(EXAMPLES)},
    ),
    "label smoothing, plain weights": Case(
        F.cross_entropy,
        (normal(EXAMPLES, CLASSES, 2), classes(EXAMPLES, 2)),
        {"label_smoothing": uniform(EXAMPLES)},
        {"weight": uniform(CLASSES)},
    ),
    "label smoothing of probabilities": Case(
        F.cross_entropy,
        (normal(EXAMPLES, CLASSES), normal(EXAMPLES, CLASSES).softmax(1)),
        {"label_smoothing": uniform(EXAMPLES)},
    ),
    "label smoothing of probabilities, plain weights": Case(
        F.cross_entropy,
        (normal(EXAMPLES, CLASSES, 2, 3), normal(EXAMPLES, CLASSES, 2, 3).softmax(1)),
        {"label_smoothing": uniform(EXAMPLES)},
        {"weight": uniform(CLASSES)},
    ),
    "class weights": Case(
        F.cross_entropy,
        (normal(EXAMPLES, CLASSES), classes(EXAMPLES)),
        {"weight": uniform(EXAMPLES, CLASSES)},
    ),
    "class weights, plain smoothing": Case(
        F.cross_entropy,
        (normal(EXAMPLES, CLASSES), classes(EXAMPLES)),
        {"weight": uniform(EXAMPLES, CLASSES)},
        {"label_smoothing": 0.3},
    ),
    "class weights of pixels, another ignored label": Case(
        F.cross_entropy,
        (normal(EXAMPLES, CLASSES, 2, 3), classes(EXAMPLES, 2, 3).clamp(min=0)),
        {"weight": uniform(EXAMPLES, CLASSES)},
        {"ignore_index": 1},
    ),
    "class weights of probabilities": Case(
        F.cross_entropy,
        (normal(EXAMPLES, CLASSES, 2), normal(EXAMPLES, CLASSES, 2).softmax(1)),
        {"weight": uniform(EXAMPLES, CLASSES)},
    ),
    "class weights and label smoothing": Case(
        F.cross_entropy,
        (normal(EXAMPLES, CLASSES, 2), classes(EXAMPLES, 2)),
        {"weight": uniform(EXAMPLES, CLASSES), "label_smoothing": uniform(EXAMPLES)},
    ),
    "class weights and label smoothing of probabilities": Case(
        F.cross_entropy,
        (normal(EXAMPLES, CLASSES), normal(EXAMPLES, CLASSES).softmax(1)),
        {"weight": uniform(EXAMPLES, CLASSES), "label_smoothing": uniform(EXAMPLES)},
    ),
    "nll": Case(
        F.nll_loss,
        (normal(EXAMPLES, CLASSES).log_softmax(1), classes(EXAMPLES)),
        {"weight": uniform(EXAMPLES, CLASSES)},
    ),
    "nll of pixels": Case(
        F.nll_loss,
        (normal(EXAMPLES, CLASSES, 2, 3).log_softmax(1), classes(EXAMPLES, 2, 3)),
        {"weight": uniform(EXAMPLES, CLASSES)},
    ),
    "positive weight": Case(
        F.binary_cross_entropy_with_logits,
        (normal(EXAMPLES), uniform(EXAMPLES)),
        {"pos_weight": uniform(EXAMPLES, 1)},
    ),
    "positive weight without an axis": Case(
        F.binary_cross_entropy_with_logits,
        (normal(EXAMPLES, CLASSES), uniform(EXAMPLES, CLASSES)),
        {"pos_weight": uniform(EXAMPLES, 1)},
    ),
    "positive weights": Case(
        F.binary_cross_entropy_with_logits,
        (normal(EXAMPLES, CLASSES), uniform(EXAMPLES, CLASSES)),
        {"pos_weight": uniform(EXAMPLES, CLASSES)},
        {"weight": uniform(EXAMPLES, CLASSES)},
    ),
    "positive weights of channels": Case(
        F.binary_cross_entropy_with_logits,
        (normal(EXAMPLES, CLASSES, 2, 4), uniform(EXAMPLES, CLASSES, 2, 4)),
        {"pos_weight": uniform(EXAMPLES, CLASSES, 1, 1), "weight": uniform(EXAMPLES, 1)},
    ),
    "weights of examples": Case(
        F.binary_cross_entropy_with_logits,
        (normal(EXAMPLES), uniform(EXAMPLES)),
        {"weight": uniform(EXAMPLES, EXAMPLES)},
    ),
    "weights, the batch axis among them": Case(
        F.binary_cross_entropy_with_logits,
        (normal(EXAMPLES, CLASSES), uniform(EXAMPLES, CLASSES)),
        {"weight": uniform(EXAMPLES, EXAMPLES, 1), "pos_weight": uniform(EXAMPLES, 1, CLASSES)},
    ),
    "weights of probabilities": Case(
        F.binary_cross_entropy,
        (uniform(EXAMPLES, CLASSES), uniform(EXAMPLES, CLASSES)),
        {"weight": uniform(EXAMPLES, CLASSES)},
    ),
    "Huber": Case(F.huber_loss, (normal(EXAMPLES), normal(EXAMPLES)), {"delta": uniform(EXAMPLES)}),
    "Huber, plain weights": Case(
        F.huber_loss,
        (normal(EXAMPLES, 2, 3), normal(EXAMPLES, 2, 3)),
        {"delta": uniform(EXAMPLES)},
        {"weight": uniform(EXAMPLES, 2, 3)},
    ),
    "Huber, weights": Case(
        F.huber_loss,
        (normal(EXAMPLES, 2), normal(EXAMPLES, 2)),
        {"weight": uniform(EXAMPLES, EXAMPLES, 2)},
        {"delta": 0.4},
    ),
    "smooth L1": Case(
        F.smooth_l1_loss, (normal(EXAMPLES, 4), normal(EXAMPLES, 4)), {"beta": uniform(EXAMPLES)}
    ),
    "smooth L1, β = 0 among them": Case(
        F.smooth_l1_loss,
        (normal(EXAMPLES, 4), normal(EXAMPLES, 4)),
        {"beta": torch.tensor([0.0, 0.5, 1.0, 2.0, 9.0], dtype=torch.float64)},
    ),
    "ranking": Case(
        F.margin_ranking_loss,
        (normal(EXAMPLES), normal(EXAMPLES), signs(EXAMPLES)),
        {"margin": 2 * uniform(EXAMPLES)},
    ),
    "hinge embedding": Case(
        F.hinge_embedding_loss,
        (normal(EXAMPLES, 2), signs(EXAMPLES, 2)),
        {"margin": normal(EXAMPLES)},
    ),
    "cosine embedding": Case(
        F.cosine_embedding_loss,
        (normal(EXAMPLES, 4), normal(EXAMPLES, 4), signs(EXAMPLES)),
        {"margin": uniform(EXAMPLES) - 0.9},
    ),
    "triplet": Case(
        F.triplet_margin_loss,
        (normal(EXAMPLES, 4), normal(EXAMPLES, 4), normal(EXAMPLES, 4)),
        {"margin": 1 + uniform(EXAMPLES)},
    ),
    "triplet, swapped, another norm": Case(
        F.triplet_margin_loss,
        (normal(EXAMPLES, 4), normal(EXAMPLES, 4), normal(EXAMPLES, 4)),
        {"margin": 1 + uniform(EXAMPLES)},
        {"swap": True, "p": 3, "eps": 1e-3},
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def gradients(case: Case, loss: Callable[[], Tensor]) -> tuple[Tensor, ...]:
    """The derivatives of a loss, each entry of it weighed differently, in the first input."""
    prediction = case.inputs[0].requires_grad_()
    try:
        value = loss()
        weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)
        return (value.detach(), *torch.autograd.grad((weights * value).sum(), prediction))
    finally:
        prediction.requires_grad_(False)


@each_reduction
@each_case
def test_each_example_sees_its_own_value(case: Case, reduction: str) -> None:
    by_rule = gradients(case, lambda: case.by_rule(case.values, reduction=reduction))
    by_loop = gradients(case, lambda: case.by_loop(reduction))
    assert by_loop[1].any()
    torch.testing.assert_close(by_rule, by_loop, rtol=1e-11, atol=1e-14)


@each_reduction
@each_case
def test_equal_values_give_torchs_own_loss(case: Case, reduction: str) -> None:
    for b in range(EXAMPLES):
        one = {name: v[b] for name, v in case.values.items()}
        equal = {name: v.expand(EXAMPLES, *v.shape) for name, v in one.items()}
        by_rule = gradients(case, lambda v=equal: case.by_rule(v, reduction=reduction))
        by_torch = gradients(case, lambda v=one: case.by_torch(v, reduction=reduction))
        torch.testing.assert_close(by_rule, by_torch, rtol=1e-11, atol=1e-14)


@each_case
def test_the_mean_is_the_default(case: Case) -> None:
    torch.testing.assert_close(
        case.by_rule(case.values), case.by_rule(case.values, reduction="mean"), rtol=0, atol=0
    )


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
@pytest.mark.parametrize(
    "legacy",
    [
        {"size_average": True},
        {"size_average": False},
        {"reduce": False},
        {"reduce": True, "size_average": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("Huber")])
def test_the_deprecated_reductions(name: str, legacy: dict[str, bool]) -> None:
    case = CASES[name]
    one = {name: v[0] for name, v in case.values.items()}
    equal = {name: v.expand(EXAMPLES, *v.shape) for name, v in one.items()}
    torch.testing.assert_close(case.by_rule(equal, **legacy), case.by_torch(one, **legacy))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@each_case
def test_dtype_is_kept(case: Case, dtype: torch.dtype) -> None:
    """And that of the hyperparameters, here float64, does not matter."""
    expected = case.by_rule(case.values)

    def converted(value: Any) -> Any:
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if is_float else value

    low = Case(
        case.function,
        tuple(map(converted, case.inputs)),
        case.values,
        {name: converted(value) for name, value in case.options.items()},
    )
    result = low.by_rule(case.values)
    assert result.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.01}[dtype]
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance / 10)


@each_case
def test_the_device_is_kept(case: Case) -> None:
    def moved(value: Any) -> Any:
        return value.to("meta") if isinstance(value, Tensor) else value

    elsewhere = Case(
        case.function,
        tuple(map(moved, case.inputs)),
        {name: moved(values) for name, values in case.values.items()},
        {name: moved(value) for name, value in case.options.items()},
    )
    assert elsewhere.by_rule(elsewhere.values).device.type == "meta"


def test_more_labels_than_half_precision_can_count() -> None:
    pixels, labels = torch.zeros(2, 3, 40_000, dtype=torch.float16), torch.ones(2, 40_000).long()
    case = Case(F.cross_entropy, (pixels, labels), {"label_smoothing": torch.tensor([0.1, 0.9])})
    expected = F.cross_entropy(pixels.double(), labels)
    torch.testing.assert_close(case.by_rule(case.values).double(), expected, rtol=1e-3, atol=0)


def test_labels_may_be_bytes() -> None:
    case = CASES["class weights"]
    logits, labels = case.inputs[0], case.inputs[1].clamp(min=0)
    small = Case(case.function, (logits, labels.byte()), case.values)
    torch.testing.assert_close(small.by_rule(small.values), small.by_loop("mean"))


def test_a_masked_class_keeps_the_loss_of_class_weights_finite() -> None:
    logits, labels = normal(EXAMPLES, CLASSES), torch.tensor([0, 1, 0, 1, 0])
    logits[:, 2] = -torch.inf
    case = Case(F.cross_entropy, (logits, labels), {"weight": uniform(EXAMPLES, CLASSES)})
    torch.testing.assert_close(case.by_rule(case.values), case.by_loop("mean"))


def test_what_the_logits_of_an_ignored_label_are_does_not_matter() -> None:
    logits, labels = normal(EXAMPLES, CLASSES, 2), torch.ones(EXAMPLES, 2).long()
    logits[:, 2, 1], labels[:, 1] = -torch.inf, IGNORED
    case = Case(F.cross_entropy, (logits, labels), {"label_smoothing": uniform(EXAMPLES)})
    torch.testing.assert_close(case.by_rule(case.values), case.by_loop("mean"))


@each_reduction
def test_a_batch_of_ignored_labels_is_as_in_torch(reduction: str) -> None:
    labels = torch.full((EXAMPLES,), IGNORED)
    case = Case(
        F.cross_entropy, (normal(EXAMPLES, CLASSES), labels), {"label_smoothing": uniform(EXAMPLES)}
    )
    expected = F.cross_entropy(*case.inputs, reduction=reduction)
    torch.testing.assert_close(
        case.by_rule(case.values, reduction=reduction), expected, equal_nan=True
    )


@pytest.mark.parametrize("function", [F.smooth_l1_loss, F.huber_loss])
def test_no_gradient_is_nan_at_distance_zero(function: Callable[..., Tensor]) -> None:
    name = "beta" if function is F.smooth_l1_loss else "delta"
    smallest = 0.0 if function is F.smooth_l1_loss else 1e-300
    x, values = torch.zeros(2, dtype=torch.float64), torch.tensor([smallest, 1.0])
    case = Case(function, (x, torch.zeros_like(x)), {name: values})
    loss, gradient = gradients(case, lambda: case.by_rule(case.values))
    assert (loss, *gradient) == (0, 0, 0)


@pytest.mark.parametrize("large", [1e3, 1e30])
def test_large_logits_stay_finite(large: float) -> None:
    logits = torch.tensor([[large, -large], [-large, large]], dtype=torch.float64)
    smoothing = Case(
        F.cross_entropy, (logits, torch.tensor([0, 0])), {"label_smoothing": torch.tensor([0.1, 0])}
    )
    positive = Case(
        F.binary_cross_entropy_with_logits,
        (logits, torch.ones(2, 2, dtype=torch.float64)),
        {"pos_weight": torch.tensor([[2.0], [3.0]])},
    )
    for case in smoothing, positive:
        assert all(v.isfinite().all() for v in gradients(case, lambda c=case: c.by_rule(c.values)))


@each_case
def test_a_loss_whose_first_axis_is_not_the_batch_is_refused(case: Case) -> None:
    lengths = {length for tensor in case.inputs for length in tensor.shape}
    size = next(size for size in (4, 3, 2, 1) if size not in lengths)
    fewer = {name: v[:size] for name, v in case.values.items()}
    with pytest.raises(HyperparameterError, match=r"h meets a tensor of shape .* in here"):
        case.by_rule(fewer)


# -- domains --------------------------------------------------------------------------------------


@each_case
def test_a_domain_is_that_of_an_argument(case: Case) -> None:
    rule = hyperparameter_rules[case.function]
    assert rule.domain.keys() <= inspect.signature(case.function).parameters.keys()
    assert rule.domain.keys() <= inspect.signature(rule.apply).parameters.keys()
    for name, values in case.values.items():
        domain = rule.domain.get(name)
        assert domain is None or all(v in domain for v in values.flatten().tolist())


@pytest.mark.parametrize(
    ("name", "argument", "outside", "edge"),
    [
        ("label smoothing", "label_smoothing", 1.01, 1.0),
        ("Huber", "delta", 0.0, 1e-6),
        ("smooth L1", "beta", -0.01, 0.0),
        ("triplet", "margin", 0.0, 1e-6),
    ],
)
def test_a_domain_ends_where_torch_refuses(
    name: str, argument: str, outside: float, edge: float
) -> None:
    case = CASES[name]
    domain = hyperparameter_rules[case.function].domain[argument]
    assert outside not in domain
    assert edge in domain
    with pytest.raises((RuntimeError, ValueError)):
        case.function(*case.inputs, **{argument: outside})
    assert case.function(*case.inputs, **{argument: edge}).isfinite()


@pytest.mark.parametrize(
    ("name", "argument"), [("positive weights", "pos_weight"), ("class weights", "weight")]
)
def test_weights_are_not_negative(name: str, argument: str) -> None:
    domain = hyperparameter_rules[CASES[name].function].domain[argument]
    assert -0.01 not in domain
    assert 100.0 in domain


# -- as modules -----------------------------------------------------------------------------------

h: Any = hyperparameter(0.5, Symbol("h"))
MODULES: dict[str, Callable[[Any], nn.Module]] = {
    "label smoothing": lambda h: nn.CrossEntropyLoss(label_smoothing=h),
    "label smoothing of probabilities": lambda h: nn.CrossEntropyLoss(label_smoothing=h),
    "Huber": lambda h: nn.HuberLoss(delta=h),
    "smooth L1": lambda h: nn.SmoothL1Loss(beta=h),
    "ranking": lambda h: nn.MarginRankingLoss(margin=h),
    "hinge embedding": lambda h: nn.HingeEmbeddingLoss(margin=h),
    "cosine embedding": lambda h: nn.CosineEmbeddingLoss(margin=h),
    "triplet": lambda h: nn.TripletMarginLoss(margin=h),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_reaches_the_rule_of_its_function(name: str) -> None:
    case, module = CASES[name], MODULES[name](h)
    (values,) = case.values.values()
    with perturbing({"h": values}, {"h": 0.5}):
        perturbed = module(*case.inputs)
    torch.testing.assert_close(perturbed, case.by_loop("mean"))
    with CurrentValues({"h": 0.75}, frozenset({"h"})):
        today = module(*case.inputs)
    torch.testing.assert_close(today, MODULES[name](0.75)(*case.inputs), rtol=0, atol=0)


# -- with tensors of hyperparameters --------------------------------------------------------------

double = {"dtype": torch.float64}
TENSORS: dict[str, Callable[[Any, Any, Any], Tensor]] = {
    "class weights": lambda x, y, h: F.cross_entropy(
        x, y % CLASSES, weight=torch.tensor([1.0, h, 2 * h], **double)
    ),
    "positive weight": lambda x, y, h: F.binary_cross_entropy_with_logits(
        x, (y[:, None] > 0).expand_as(x).double(), pos_weight=torch.tensor([h], **double)
    ),
    "positive weight of one logit": lambda x, y, h: F.binary_cross_entropy_with_logits(
        x[:, 0], (y > 0).double(), pos_weight=torch.tensor([h], **double)
    ),
    "positive weight without an axis": lambda x, y, h: F.binary_cross_entropy_with_logits(
        x, (y[:, None] > 0).expand_as(x).double(), pos_weight=torch.tensor(h, **double)
    ),
    "label smoothing of sequences": lambda x, y, h: F.cross_entropy(
        x[:, :, None].expand(-1, -1, 4), (y % CLASSES)[:, None].expand(-1, 4), label_smoothing=h
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_of_hyperparameters_has_each_examples_own(name: str) -> None:
    """By its derivative: in the prediction of b, Σ_b L_b(λ_b) has that of L(λ_b)."""
    use, x, y = TENSORS[name], normal(EXAMPLES, CLASSES), torch.arange(EXAMPLES)
    values = uniform(EXAMPLES)

    def own(b: int) -> Tensor:
        logits = x.clone().requires_grad_()
        return torch.autograd.grad(use(logits, y, values[b].item()), logits)[0][b]

    prediction = x.clone().requires_grad_()
    with perturbing({"h": values}, {"h": 0.5}):
        loss = use(prediction, y, h)
    (gradient,) = torch.autograd.grad(loss, prediction)
    torch.testing.assert_close(gradient, torch.stack([own(b) for b in range(EXAMPLES)]))
