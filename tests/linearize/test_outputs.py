"""Models with outputs of any structure, and with several inputs."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable
import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

from _reference import Explicit, relative_error
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig
from optuna_dstn.linearize._linearize import at_response, merged_loss
from optuna_dstn.linearize._responding import RespondingValidation
from optuna_dstn.tensors._structure import with_tensors_replaced


pytestmark = pytest.mark.usefixtures("double_precision")
EXAMPLES, FEATURES, CLASSES = 6, 4, 3


class ModelOutput(OrderedDict[str, Any]):
    """A dictionary that is a dataclass too, as those of Hugging Face's models."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None:
                self[field.name] = value

    def __getitem__(self, key: Any) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self and value is not None:
            super().__setitem__(name, value)
        super().__setattr__(name, value)


@dataclass
class ClassifierOutput(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class Named(NamedTuple):
    logits: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class Frozen:
    logits: Tensor


@dataclass
class Derived:
    logits: Tensor
    twice: Tensor = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.twice = 2 * self.logits


@dataclass(slots=True)
class Slots:
    logits: Tensor
    name: str = "slots"


class Custom:
    def __init__(self, logits: Tensor) -> None:
        self.inner = {"logits": logits}
        self.myself = self

    @property
    def logits(self) -> Tensor:
        return self.inner["logits"]


class Body(nn.Module):
    """Puts its logits into a structure."""

    def __init__(self, into: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 5), nn.Linear(5, CLASSES)
        self.into = into

    def forward(self, x: Tensor) -> Any:
        return self.into(self.last(torch.tanh(self.first(x))))


STRUCTURES: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tensor": (lambda y: y, lambda o: o),
    "tuple with nothing": (lambda y: (None, y, 3, "text"), lambda o: o[1]),
    "nested": (lambda y: {"a": [(y, None)], "b": y}, lambda o: (o["a"][0][0] + o["b"]) / 2),
    "named tuple": (Named, lambda o: o.logits),
    "default dictionary": (
        lambda y: defaultdict(list, {"a": [y]}),
        lambda o: o["a"][0] if not o["none"] else o,
    ),
    "user dictionary": (lambda y: UserDict(logits=y), lambda o: o["logits"]),
    "frozen dataclass": (Frozen, lambda o: o.logits),
    "field of its own": (Derived, lambda o: o.twice - o.logits),
    "slots": (Slots, lambda o: o.logits),
    "object": (Custom, lambda o: o.logits),
    "namespace": (lambda y: SimpleNamespace(logits=y), lambda o: o.logits),
    "model output": (
        lambda y: ClassifierOutput(logits=y, hidden_states=(y, y)),
        lambda o: (o.logits + o["logits"] + o[0] + o.hidden_states[1] + o["hidden_states"][0]) / 5,
    ),
    "several returned": (lambda y: y.T.sort(dim=0), lambda o: o.values.T),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_prediction_is_completed_wherever_it_is(name: str) -> None:
    into, out = STRUCTURES[name]
    model, x = Body(into), torch.randn(EXAMPLES, FEATURES)
    model.last.weight.data *= 10  # sorted alike with and without the response
    names = [n for n, _ in model.named_parameters()]
    explicit = Explicit(model, names, EXAMPLES, 2, scale=1e-2)
    with torch.no_grad():
        before = out(model(x))
    with at_response(model, mode := RespondingValidation({}, explicit.deltas())):
        output = model(x)
        found = out(output)
        merged_loss(found.sum(), len(x), "loss_fn", mode)

    plain = Body(lambda y: y)
    plain.load_state_dict(model.state_dict())
    reference = Explicit(plain, names, EXAMPLES, 2)
    reference.epsilon, reference.gains = explicit.epsilon, explicit.gains
    reference.directions = explicit.directions
    with at_response(plain, RespondingValidation({}, reference.deltas())):
        expected = plain(x)
    if name == "several returned":
        expected = expected.gather(1, model(x).indices.T)
    assert relative_error(found, expected) < 1e-12
    assert relative_error(found, before) > 1e-4
    assert type(output) is type(model(x))
    tensors = explicit.tensors()
    for mine, theirs in zip(
        torch.autograd.grad(found.sin().sum(), tensors),
        torch.autograd.grad(expected.sin().sum(), tensors),
        strict=True,
    ):
        assert relative_error(mine, theirs) < 1e-10


def test_a_structure_without_another_tensor_is_the_same_object() -> None:
    structure = Custom(torch.ones(2))
    assert with_tensors_replaced(structure, lambda t: t) is structure
    held = {"a": [structure], "b": (1, None)}
    assert with_tensors_replaced(held, lambda t: t) is held
    other = with_tensors_replaced(held, lambda t: t + 1)
    assert torch.equal(other["a"][0].logits, torch.full((2,), 2.0))
    assert torch.equal(structure.logits, torch.ones(2))
    assert other["b"] is held["b"]


# -- losses inside, and inputs -------------------------------------------------------------------


class HuggingFace(nn.Module):
    """Computes its loss when it is given labels."""

    def __init__(self, rate: float, of: str) -> None:
        super().__init__()
        self.dropout = nn.Dropout(rate)
        self.body, self.classifier = nn.Linear(FEATURES, 5), nn.Linear(5, CLASSES)
        self.of = of

    def forward(
        self,
        inputs: Tensor,
        bias: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        hidden = torch.tanh(self.body(self.dropout(inputs)))
        logits = self.classifier(hidden)
        if bias is not None:
            logits = logits + bias
        loss = None
        if labels is not None:
            loss = self.loss(logits, labels)
        if not return_dict:
            return (logits, hidden) if loss is None else (loss, logits, hidden)
        return ClassifierOutput(loss=loss, logits=logits, hidden_states=(hidden,))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.of == "classes":
            loss_fct = nn.CrossEntropyLoss()
            result: Tensor = loss_fct(logits.view(-1, CLASSES), labels.view(-1))
        elif self.of == "next token":
            shifted = logits.float()[..., :-1, :].contiguous()
            labels = labels[..., 1:].contiguous()
            result = F.cross_entropy(
                shifted.view(-1, CLASSES), labels.view(-1), ignore_index=-100, reduction="sum"
            )
            result = result / (labels != -100).sum()
        else:
            result = nn.MSELoss()(logits[:, 0].squeeze(), labels.double().squeeze()) + 0.5 * (
                nn.CrossEntropyLoss()(logits, labels)
            )
        return result


class Inputs:
    def __init__(self, of: str) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (EXAMPLES, 7) if of == "next token" else (EXAMPLES,)
        self.x = torch.randn(*shape, FEATURES, generator=generator)
        self.bias = torch.randn(*shape, CLASSES, generator=generator)
        self.y = torch.randint(CLASSES, shape, generator=generator)
        if of == "next token":
            self.y[:, -2:] = -100


@dataclass
class Batch:
    x: Tensor
    bias: Tensor
    y: Tensor


CALLS: dict[str, tuple[Callable[[Inputs], Any], Callable[[Any, Any], Tensor]]] = {
    "keywords of a dictionary": (
        lambda i: {"inputs": i.x, "bias": i.bias, "labels": i.y},
        lambda model, batch: model(**batch).loss,
    ),
    "by index": (
        lambda i: UserDict(inputs=i.x, bias=i.bias, labels=i.y),
        lambda model, batch: model(**batch)[0],
    ),
    "by name": (
        lambda i: Batch(i.x, i.bias, i.y),
        lambda model, batch: model(batch.x, bias=batch.bias, labels=batch.y)["loss"],
    ),
    "a tuple": (
        lambda i: ((i.x, i.bias), i.y),
        lambda model, batch: model(*batch[0], batch[1], return_dict=False)[0],
    ),
}


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn", "stn"])
@pytest.mark.parametrize("of", ["classes", "next token", "several"])
def test_a_loss_that_the_model_returns_trains_as_one_outside(of: str, method: str) -> None:
    def trained(make: Any, loss_fn: Any) -> tuple[list[float], float, float]:
        config = TunerConfig(method=method, warmup_steps=0, train_steps=1, hyper_lr=0.1)
        study = optuna_dstn.create_study(config=config)
        study.enqueue_trial({"rate": 0.3})
        trial = study.ask()
        torch.manual_seed(0)
        model = HuggingFace(trial.suggest_float("rate", 0.0, 0.9), of)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batch = make(Inputs(of))
        tuner = Tuner(trial, model, optimizer, loss_fn, [batch])
        losses = [tuner.step(batch) for _ in range(8)]
        return losses, tuner.hyperparameters["rate"], tuner.evaluate()

    def outside(model: Any, batch: Any) -> Tensor:
        x, bias, y = batch
        loss: Tensor = model.loss(model(x, bias=bias).logits, y)
        return loss

    losses, rate, value = trained(lambda i: (i.x, i.bias, i.y), outside)
    assert rate != pytest.approx(0.3, abs=1e-3)
    for make, loss_fn in CALLS.values():
        mine, own_rate, own_value = trained(make, loss_fn)
        assert mine == pytest.approx(losses, rel=1e-5)
        assert own_rate == pytest.approx(rate, rel=1e-5)
        assert own_value == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("method", ["delta-stn", "centered-stn"])
def test_a_distribution_that_the_model_returns(method: str) -> None:
    """Where the network is not linearised, it is one of moved weights; else a clear error."""

    def trained(into: Any, loss: Any) -> tuple[list[float], float]:
        config = TunerConfig(method=method, warmup_steps=0, train_steps=1)
        study = optuna_dstn.create_study(config=config)
        study.enqueue_trial({"rate": 0.3})
        trial = study.ask()
        torch.manual_seed(0)
        rate = trial.suggest_float("rate", 0.0, 0.9)
        model = Body(into)
        model.first = nn.Sequential(nn.Dropout(rate), model.first)  # type: ignore[assignment]
        batch = Inputs("classes")
        data = (batch.x, batch.y)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        tuner = Tuner(trial, model, optimizer, lambda m, b: loss(m(b[0]), b[1]), [data])
        return [tuner.step(data) for _ in range(6)], tuner.hyperparameters["rate"]

    def of_distribution() -> tuple[list[float], float]:
        return trained(lambda y: Categorical(logits=y), lambda d, y: -d.log_prob(y))

    if method == "delta-stn":
        with pytest.raises(ValueError, match=r"distribution, Categorical.*Return its parameters"):
            of_distribution()
    else:
        mine, rate = of_distribution()
        theirs, expected = trained(lambda y: y, F.cross_entropy)
        assert mine == pytest.approx(theirs, rel=1e-6)
        assert rate == pytest.approx(expected, rel=1e-6)
