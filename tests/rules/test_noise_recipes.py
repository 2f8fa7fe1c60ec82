"""Noise and penalties as users write them: the layers know nothing of this package."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

from _perturbed import response_pass, suggested
from _reference import Explicit, linearised_by_loops, started
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from optuna_dstn import HyperparameterError, TunerConfig
from optuna_dstn.linearize._linearize import at_response
from optuna_dstn.linearize._responding import RespondingValidation


EXAMPLES, CLASSES = 4, 3
VALUES = torch.tensor([0.15, 0.35, 0.6, 0.85], dtype=torch.float64)
SELU_FLOOR = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717


@pytest.fixture(autouse=True)
def _in_double_precision() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# -- layers --------------------------------------------------------------------------------------


class InTraining(nn.Module):
    """Applies ``noise(x, h)`` in training, nothing in evaluation.

    Args:
        noise: What a user's own layer would have in its ``forward``.
        h: A number, which may be a hyperparameter.
    """

    def __init__(self, noise: Callable[[Tensor, Any], Tensor], h: Any) -> None:
        super().__init__()
        self.noise, self.h = noise, h

    def forward(self, x: Tensor) -> Tensor:
        return self.noise(x, self.h) if self.training else x


def additive(x: Tensor, std: float) -> Tensor:
    return x + torch.randn_like(x) * std


def additive_of_normal(x: Tensor, std: float) -> Tensor:
    return x + torch.empty_like(x).normal_(mean=0, std=std)


def additive_of_zeros(x: Tensor, std: float) -> Tensor:
    return x + torch.normal(torch.zeros_like(x), std)


def additive_in_place(x: Tensor, std: float) -> Tensor:
    x = x.clone()
    return x.add_(torch.randn_like(x), alpha=std)


def additive_over_the_tensor(x: Tensor, std: float) -> Tensor:
    return x.add_(torch.randn_like(x) * std)


def additive_uniform(x: Tensor, width: float) -> Tensor:
    return x + torch.empty_like(x).uniform_(-width, width)


def multiplicative(x: Tensor, std: float) -> Tensor:
    return x * (1 + std * torch.randn_like(x))


def multiplicative_of_normal(x: Tensor, std: float) -> Tensor:
    return x * x.new_empty(x.shape).normal_(1, std)


def multiplicative_in_place(x: Tensor, std: float) -> Tensor:
    return x.mul_(1 + std * torch.randn_like(x))


def gaussian_dropout(x: Tensor, rate: float) -> Tensor:
    return x * (1 + (rate / (1 - rate)) ** 0.5 * torch.randn_like(x))


def per_example_shape(x: Tensor) -> tuple[int, ...]:
    return (x.shape[0],) + (1,) * (x.ndim - 1)


def depth_by_comparison(x: Tensor, rate: float) -> Tensor:
    keep = 1 - rate
    return x * (torch.rand(per_example_shape(x)) < keep) / keep


def depth_by_bernoulli(x: Tensor, rate: float) -> Tensor:
    keep = 1 - rate
    mask = x.new_empty(per_example_shape(x)).bernoulli_(keep)
    if keep > 0.0:
        mask.div_(keep)
    return x * mask


def depth_by_floor(x: Tensor, rate: float) -> Tensor:
    keep = 1 - rate
    mask = keep + torch.rand(per_example_shape(x), dtype=x.dtype, device=x.device)
    mask.floor_()
    return x.div(keep) * mask


def depth_of_a_tensor_of_rates(x: Tensor, rate: float) -> Tensor:
    rates = torch.empty(per_example_shape(x)).fill_(0.0) + (1 - rate)
    return x * torch.bernoulli(rates) / (1 - rate)


def masking(x: Tensor, rate: float) -> Tensor:
    return x.masked_fill(torch.rand_like(x) < rate, 0.0)


def masking_to_a_value(x: Tensor, value: float) -> Tensor:
    return torch.where(torch.rand_like(x) < 0.5, x, value)


def masking_in_place(x: Tensor, value: float) -> Tensor:
    return x.masked_fill_(torch.rand_like(x) < 0.5, value)


def salt_and_pepper(x: Tensor, rate: float) -> Tensor:
    u = torch.rand_like(x)
    return torch.where(u < rate / 2, -1.0, torch.where(u > 1 - rate / 2, 1.0, x))


def clipped(x: Tensor, bound: float) -> Tensor:
    return x.clamp(-bound, bound)


def leaky(x: Tensor, slope: float) -> Tensor:
    return F.leaky_relu(x, slope)


def soft_selection(x: Tensor, temperature: float) -> Tensor:
    return x * F.softmax(x / temperature, dim=-1)


def gumbel_selection(x: Tensor, temperature: float) -> Tensor:
    return x * F.gumbel_softmax(x, tau=temperature)


# -- networks ------------------------------------------------------------------------------------

Make = Callable[[Any], nn.Module]


def before(layer: Make) -> Callable[[Any], nn.Sequential]:
    return lambda h: nn.Sequential(layer(h), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, CLASSES))


def inside(layer: Make) -> Callable[[Any], nn.Sequential]:
    return lambda h: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), layer(h), nn.Linear(4, CLASSES))


def convolutional(layer: Make, axes: int = 2) -> Callable[[Any], nn.Sequential]:
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    return lambda h: nn.Sequential(
        convolution(2, 3, 2), nn.SELU(), layer(h), nn.Flatten(), nn.Linear(3 * 2**axes, CLASSES)
    )


def of(noise: Callable[[Tensor, Any], Tensor]) -> Make:
    return lambda h: InTraining(noise, h)


VECTORS, IMAGES = (5,), (2, 3, 3)
NETWORKS: dict[str, tuple[Callable[[Any], nn.Sequential], tuple[int, ...]]] = {
    **{
        f"{noise.__name__} {where.__name__}": (where(of(noise)), VECTORS)
        for where in (before, inside)
        for noise in (
            additive,
            additive_of_normal,
            additive_of_zeros,
            additive_in_place,
            additive_uniform,
            multiplicative,
            multiplicative_of_normal,
            gaussian_dropout,
            masking,
            masking_to_a_value,
            salt_and_pepper,
            clipped,
            leaky,
            soft_selection,
            gumbel_selection,
        )
    },
    **{
        noise.__name__: (convolutional(of(noise)), IMAGES)
        for noise in (
            depth_by_comparison,
            depth_by_bernoulli,
            depth_by_floor,
            depth_of_a_tensor_of_rates,
        )
    },
    # Over a hidden tensor that no derivative needs again: a convolution's own output.
    **{
        f"{noise.__name__} over the output": (
            lambda h, noise=noise: nn.Sequential(
                nn.Conv2d(2, 3, 2), InTraining(noise, h), nn.Flatten(), nn.Linear(12, CLASSES)
            ),
            IMAGES,
        )
        for noise in (additive_over_the_tensor, multiplicative_in_place, masking_in_place)
    },
    "dropout": (inside(nn.Dropout), VECTORS),
    "dropout1d": (convolutional(nn.Dropout1d, 1), (2, 3)),
    "dropout2d": (convolutional(nn.Dropout2d), IMAGES),
    "dropout3d": (convolutional(nn.Dropout3d, 3), (2, 3, 3, 3)),
    "alpha_dropout": (convolutional(nn.AlphaDropout), IMAGES),
    "feature_alpha_dropout": (convolutional(nn.FeatureAlphaDropout), IMAGES),
    "dropout in place": (
        lambda h: nn.Sequential(
            nn.Linear(5, 4), nn.Dropout(h, inplace=True), nn.Tanh(), nn.Linear(4, CLASSES)
        ),
        VECTORS,
    ),
    "leaky_relu in place": (
        lambda h: nn.Sequential(
            nn.Linear(5, 4), nn.LeakyReLU(h, inplace=True), nn.Linear(4, CLASSES)
        ),
        VECTORS,
    ),
}


class SameDraws(TorchFunctionMode):
    """Draws with a number where torch would use another stream than the per-example rules do.

    Each mask is written out here: uniform numbers, one for each entry or channel, below 1 − p.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.bernoulli_:
            return args[0].bernoulli_(torch.full(args[0].shape, args[1]))
        name = getattr(func, "__name__", "")
        if not name.endswith(("dropout", "dropout1d", "dropout2d", "dropout3d")):
            return func(*args, **kwargs)
        x, rate = args[0], args[1] if len(args) > 1 else kwargs["p"]
        is_by_channel = name not in ("dropout", "alpha_dropout")
        shape = (*x.shape[:2], *[1] * (x.ndim - 2)) if is_by_channel else x.shape
        keep = 1 - rate
        mask = (torch.rand(shape) < keep).to(x)
        if "alpha" not in name:
            return x * mask / keep
        a = (keep * (1 + rate * SELU_FLOOR**2)) ** -0.5
        return a * (x * mask + SELU_FLOOR * (1 - mask)) - a * rate * SELU_FLOOR


def seeded(make: Callable[[Any], nn.Sequential], h: Any) -> nn.Sequential:
    """Return the network with the same weights whatever h is, and leave the generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(h)


def explicit_response(model: nn.Module) -> Explicit:
    torch.manual_seed(1)
    return Explicit(model, [n for n, _ in model.named_parameters()], EXAMPLES, 2)


def close(result: Any, expected: Any) -> None:
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_example_is_trained_at_its_own_value(name: str) -> None:
    """The linearised prediction and its gradients in the response, example by example."""
    make, shape = NETWORKS[name]
    x = torch.randn(EXAMPLES, *shape)
    weights = torch.randn(EXAMPLES, CLASSES)

    model = seeded(make, suggested("h"))
    explicit = explicit_response(model)
    torch.manual_seed(2)
    with at_response(model, response_pass(explicit.deltas(), h=VALUES)):
        result = model(x.clone())
    gradients = torch.autograd.grad((weights * result).sum(), explicit.tensors())

    rows = []
    for b, value in enumerate(VALUES.tolist()):
        torch.manual_seed(2)
        with SameDraws():
            rows.append(linearised_by_loops(seeded(make, value), x.clone(), explicit)[b])
    expected = torch.stack(rows)
    close(result, expected)
    close(gradients, torch.autograd.grad((weights * expected).sum(), explicit.tensors()))


# -- losses --------------------------------------------------------------------------------------


class Activations(nn.Module):
    """A network over time that returns its hidden units beside its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh())
        self.outer = nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.inner(x)
        return self.outer(hidden), hidden


def activation_regularisation(logits: Tensor, hidden: Tensor, y: Tensor, strength: float) -> Tensor:
    loss = F.cross_entropy(logits, y, reduction="none")
    return loss + strength * hidden.pow(2).flatten(1).mean(1)


def temporal_activation_regularisation(
    logits: Tensor, hidden: Tensor, y: Tensor, strength: float
) -> Tensor:
    steps = (hidden[..., 1:] - hidden[..., :-1]).pow(2).flatten(1).mean(1)
    return F.cross_entropy(logits, y, reduction="none").add(steps, alpha=strength)


def label_noise(logits: Tensor, hidden: Tensor, y: Tensor, rate: float) -> Tensor:
    flips = torch.rand(len(y)) < rate
    return F.cross_entropy(
        logits, torch.where(flips, torch.randint_like(y, CLASSES), y), reduction="none"
    )


def label_noise_by_index(logits: Tensor, hidden: Tensor, y: Tensor, rate: float) -> Tensor:
    flips = torch.empty(len(y), dtype=torch.bool).bernoulli_(rate)
    y = y.clone()
    y[flips] = torch.randint_like(y, CLASSES)[flips]
    return F.cross_entropy(logits, y, reduction="none")


LOSSES = [
    activation_regularisation,
    temporal_activation_regularisation,
    label_noise,
    label_noise_by_index,
]


@pytest.mark.parametrize("loss_of", LOSSES)
def test_each_examples_loss_has_its_own_value(loss_of: Callable[..., Tensor]) -> None:
    x, y = torch.randn(EXAMPLES, 2, 5), torch.randint(CLASSES, (EXAMPLES,))
    model = Activations()
    explicit = explicit_response(model)
    torch.manual_seed(2)
    with at_response(model, response_pass(explicit.deltas(), h=VALUES)):
        result = loss_of(*model(x), y, suggested("h"))
    gradients = torch.autograd.grad(result.sum(), explicit.tensors())

    with at_response(model, RespondingValidation({}, explicit.deltas())):
        logits, hidden = model(x)
    rows = []
    for b, value in enumerate(VALUES.tolist()):
        torch.manual_seed(2)
        with SameDraws():
            rows.append(loss_of(logits, hidden, y, value)[b])
    expected = torch.stack(rows)
    close(result, expected)
    close(gradients, torch.autograd.grad(expected.sum(), explicit.tensors()))


# -- whole trainings -----------------------------------------------------------------------------


def trained(
    make: Callable[[Any], nn.Module], loss_of: Callable[..., Tensor], shape: tuple[int, ...]
) -> None:
    """Six steps of tuning one hyperparameter in [0.1, 0.9]: it is tuned, moves, and is finite."""
    suggestions: list[Any] = []
    batches = [
        (torch.randn(EXAMPLES, *shape), torch.randint(CLASSES, (EXAMPLES,))) for _ in range(6)
    ]

    def make_both(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        suggestions.append(trial.suggest_float("h", 0.1, 0.9))
        model = make(suggestions[0])
        return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    tuner = started(
        make_both,
        lambda model, batch: loss_of(model(batch[0]), batch[1], suggestions[0]),
        batches[:1],
        start={"h": 0.3},
        config=TunerConfig(warmup_steps=0, train_steps=1),
        valid_loss_fn=lambda model, batch: plain_loss(model(batch[0]), batch[1]),
    )
    losses = [tuner.step(batch) for batch in batches]
    assert tuner.tuned == ("h",)
    assert all(math.isfinite(loss) for loss in losses)
    assert math.isfinite(tuner.evaluate())
    assert 0.1 <= tuner.hyperparameters["h"] <= 0.9
    assert tuner.hyperparameters["h"] != 0.3


def plain_loss(output: Any, y: Tensor, h: Any = None) -> Tensor:
    return F.cross_entropy(output[0] if isinstance(output, tuple) else output, y)


# Their activation is the same function in evaluation, and so is read in validation: see below.
READ_IN_EVALUATION = {"leaky_relu in place"}


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in READ_IN_EVALUATION])
def test_noise_is_tuned(name: str) -> None:
    make, shape = NETWORKS[name]
    trained(make, plain_loss, shape)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_the_strength_in_a_loss_is_tuned(loss_of: Callable[..., Tensor]) -> None:
    trained(lambda h: Activations(), lambda output, y, h: loss_of(*output, y, h), (2, 5))


class ResidualNetwork(nn.Module):
    """Residual blocks that are dropped whole, for each example by itself."""

    def __init__(self, rate: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
            for _ in range(2)
        )
        # The deeper, the more often, as in Huang et al. (2016).
        self.drops = [InTraining(depth_by_bernoulli, rate * (i + 1) / 2) for i in range(2)]
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, drop in zip(self.blocks, self.drops, strict=True):
            x = x + drop.train(self.training)(block(x))
        return self.head(x.mean((2, 3)))


def test_stochastic_depth_of_a_residual_network_is_tuned() -> None:
    trained(ResidualNetwork, plain_loss, IMAGES)


@pytest.mark.parametrize("name", sorted(READ_IN_EVALUATION))
def test_an_activation_of_evaluation_too_is_an_error(name: str) -> None:
    make, shape = NETWORKS[name]
    with pytest.raises(HyperparameterError, match="The validation loss reads hyperparameter 'h'"):
        trained(make, plain_loss, shape)
