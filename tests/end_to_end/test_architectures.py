"""Real architectures, thin, under every response: what is tuned moves, and everything responds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

from _mixer import MLPMixer
from _reference import started
from _unet import UNet
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.networks import (
    MLP,
    VGG16,
    AlexNet,
    LSTMLanguageModel,
    LSTMOutput,
    ResNet18,
    SimpleCNN,
    Transformer,
)
from optuna_dstn import Tuner, TunerConfig


EXAMPLES, STEPS, WORDS, LENGTH = 8, 20, 20, 6
Batch = tuple[Tensor, Tensor]


class Architecture(NamedTuple):
    """A thin network, and what it is trained on.

    Attributes:
        make: The network at given dropout rates.
        rates: Names of the rates.
        batch: Makes a batch.
        loss: Of what the network returns, the targets, and the strength of each penalty.
        penalties: Names of the penalties.
    """

    make: Callable[[Sequence[float]], nn.Module]
    rates: tuple[str, ...]
    batch: Callable[[], Batch]
    loss: Callable[..., Tensor] = F.cross_entropy
    penalties: tuple[str, ...] = ()


def images(channels: int, size: int, classes: int = 10) -> Callable[[], Batch]:
    def batch() -> Batch:
        return torch.rand(EXAMPLES, channels, size, size), torch.randint(classes, (EXAMPLES,))

    return batch


def masked_images() -> Batch:
    x = torch.rand(EXAMPLES, 3, 8, 8)
    return x, (x.mean(1) > 0.5).long()


def labelled_text() -> Batch:
    return torch.randint(WORDS, (EXAMPLES, LENGTH)), torch.randint(3, (EXAMPLES,))


def text() -> Batch:
    words = torch.randint(WORDS, (EXAMPLES, LENGTH + 1))
    return words[:, :-1], words[:, 1:]


def language_loss(logits: Tensor, words: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), words.flatten())


def regularised_language_loss(
    output: LSTMOutput, words: Tensor, activation: float = 0.0, temporal: float = 0.0
) -> Tensor:
    """Cross entropy with activation and temporal activation regularisation."""
    change = output.states[:, 1:] - output.states[:, :-1]
    loss = F.cross_entropy(output.logits.transpose(1, 2), words, reduction="none").mean(1)
    return (
        loss
        + activation * output.dropped.square().mean((1, 2))
        + temporal * change.square().mean((1, 2))
    )


class StockTransformer(nn.Module):
    """As a user of torch's own encoder layers writes it."""

    RATES = ("rate_1", "rate_2")

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8)
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(8, 2, 16, dropout=r, batch_first=True) for r in rates)
        )
        self.output = nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.output(self.layers(self.embedding(words)).mean(1))
        return logits


ARCHITECTURES = {
    "mlp": Architecture(lambda r: MLP(r, inputs=64, hidden=12), MLP.RATES, images(1, 8)),
    "cnn": Architecture(lambda r: SimpleCNN(r, size=8, width=0.25), SimpleCNN.RATES, images(1, 8)),
    "alexnet": Architecture(lambda r: AlexNet(r, width=1 / 64), AlexNet.RATES, images(3, 32)),
    "vgg16": Architecture(lambda r: VGG16(r, width=1 / 16), VGG16.RATES, images(3, 32)),
    "resnet18": Architecture(lambda r: ResNet18(r, width=1 / 16), ResNet18.RATES, images(3, 16)),
    "unet": Architecture(lambda r: UNet(r, width=1 / 8), UNet.RATES, masked_images),
    "mixer": Architecture(
        lambda r: MLPMixer(r, size=8, units=12, blocks=2), MLPMixer.rate_names(2), images(3, 8)
    ),
    "lstm": Architecture(
        lambda r: LSTMLanguageModel(r, vocabulary=WORDS, units=10),
        LSTMLanguageModel.RATES,
        text,
        regularised_language_loss,
        ("activation", "temporal"),
    ),
    "transformer": Architecture(
        lambda r: Transformer(r, vocabulary=WORDS, outputs=3, units=8, heads=2, length=LENGTH),
        Transformer.rate_names(),
        labelled_text,
    ),
    "causal transformer": Architecture(
        lambda r: Transformer(r, vocabulary=WORDS, units=8, heads=2, length=LENGTH),
        Transformer.rate_names(),
        text,
        language_loss,
    ),
    "stock transformer": Architecture(StockTransformer, StockTransformer.RATES, labelled_text),
}


def trained(name: str, **settings: Any) -> tuple[Tuner, nn.Module, dict[str, float], list[float]]:
    """A Tuner after some steps, its model, where it started, and the losses of the steps."""
    architecture = ARCHITECTURES[name]
    strengths: dict[str, float] = {}
    models: list[nn.Module] = []

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        rates = [trial.suggest_float(rate, 0.0, 0.5) for rate in architecture.rates]
        for penalty in architecture.penalties:
            strengths[penalty] = trial.suggest_float(penalty, 1e-3, 10.0, log=True)
        model = architecture.make(rates)
        models.append(model)
        return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return architecture.loss(model(x), y, **strengths)

    def valid_loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return architecture.loss(model(x), y)

    batches = [architecture.batch() for _ in range(2)]
    tuner = started(
        make,
        loss_fn,
        batches,
        config=TunerConfig(warmup_steps=2, train_steps=2, **settings),
        valid_loss_fn=valid_loss_fn,
        max_grad_norm=1.0,
    )
    start = tuner.hyperparameters
    losses = [tuner.step(batches[step % 2]) for step in range(STEPS)]
    return tuner, models[0], start, losses


@pytest.mark.parametrize(
    "settings",
    [
        {"response": "structured"},
        {"response": "gated"},
        {"method": "centered-stn"},
    ],
    ids=lambda settings: " ".join(settings.values()),
)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_responds_and_every_hyperparameter_moves(
    name: str, settings: dict[str, Any]
) -> None:
    tuner, model, start, losses = trained(name, **settings)
    architecture = ARCHITECTURES[name]
    summary = tuner.summary()
    assert tuner.tuned == (*architecture.rates, *architecture.penalties)
    assert set(summary.responding) == {parameter for parameter, _ in model.named_parameters()}
    assert summary.not_responding == {}
    assert summary.shared_in_batch == {}
    assert summary.hyperparameter_steps == (STEPS - 2) // 2
    assert all(map(math.isfinite, losses))
    assert losses[-1] != losses[0]
    end = tuner.hyperparameters
    assert all(end[name] != start[name] for name in tuner.tuned)
    assert math.isfinite(tuner.evaluate())
    assert model.training


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_trains_plainly_and_without_dropout_its_modes_agree(name: str) -> None:
    """In the networks nothing but dropout and batch norm may differ between the modes."""
    architecture = ARCHITECTURES[name]
    model = architecture.make([0.0] * len(architecture.rates))
    x, y = architecture.batch()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    in_training = model(x)
    loss = architecture.loss(in_training, y)
    loss.mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    in_evaluation = model.eval()(x)
    if isinstance(in_training, Tensor):
        in_training, in_evaluation = (in_training,), (in_evaluation,)
    for ours, theirs in zip(in_training, in_evaluation, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_rate_reaches_the_output(name: str) -> None:
    architecture = ARCHITECTURES[name]
    none = [0.0] * len(architecture.rates)
    x, y = architecture.batch()
    for index, rate in enumerate(architecture.rates):
        outputs = []
        for value in (0.0, 0.9):
            torch.manual_seed(0)
            model = architecture.make([*none[:index], value, *none[index + 1 :]])
            outputs.append(architecture.loss(model(x), y).mean().item())
        assert outputs[0] != outputs[1], rate


def test_a_wrong_number_of_rates_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Give 3 rates \(input_dropout, .*\), not 2"):
        MLP([0.1, 0.1])


def test_the_causal_transformer_does_not_see_what_follows() -> None:
    model = ARCHITECTURES["causal transformer"].make([0.0] * 5).eval()
    words, _ = text()
    changed = words.clone()
    changed[:, -1] = (changed[:, -1] + 1) % WORDS
    before, after = model(words), model(changed)
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_published_sizes() -> None:
    """Of the networks of Bae & Grosse (2020) and Merity et al. (2018), counted by hand."""

    def size(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    with torch.device("meta"):
        assert size(MLP([0.0] * 3)) == 785 * 1200 + 1201 * 1200 + 1201 * 10
        assert size(SimpleCNN([0.0] * 4)) == 26 * 16 + 401 * 32 + 1569 * 1568 + 1569 * 10
        convolutions = (3 * 9 + 1) * 64 + (64 * 9 + 1) * 192 + (192 * 9 + 1) * 384
        convolutions += (384 * 9 + 1) * 256 + (256 * 9 + 1) * 256
        fully_connected = 1025 * 4096 + 4097 * 4096 + 4097 * 10
        assert size(AlexNet([0.0] * 8)) == convolutions + fully_connected
        assert size(ResNet18([0.0] * 10)) == 11_173_962
        lstm = LSTMLanguageModel([0.0] * 5)
        assert size(lstm) == 10_000 * 651 + 2 * 4 * 650 * (650 + 650 + 2)
