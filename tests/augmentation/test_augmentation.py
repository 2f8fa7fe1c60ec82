"""Properties of every augmentation."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

from _fixed_draws import FixedDraws
from _problems import QUICK
from _reference import perturbing
import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import optuna_dstn
from optuna_dstn import Hyperparameter, HyperparameterError
from optuna_dstn.augmentation import (
    ColorJitter,
    Cutout,
    RandomAffine,
    RandomHorizontalFlip,
    cutmix,
    mixup,
)
from optuna_dstn.hyperparameter._number import Symbol, hyperparameter
from optuna_dstn.linearize._responding import PerturbedValues
from optuna_dstn.linearize._torch_call_mode import CurrentValues, ValidationValues


# Each augmentation, and a value of each of its strengths for each of four examples.
Strengths = dict[str, list[Any]]
CASES: dict[str, tuple[type[nn.Module], Strengths]] = {
    "brightness": (ColorJitter, {"brightness": [0.0, 0.3, 0.7, 1.0]}),
    "contrast": (ColorJitter, {"contrast": [0.0, 0.3, 0.7, 1.0]}),
    "saturation": (ColorJitter, {"saturation": [0.0, 0.3, 0.7, 1.0]}),
    "hue": (ColorJitter, {"hue": [0.0, 0.1, 0.3, 0.5]}),
    "all colours": (
        ColorJitter,
        {
            "brightness": [0.0, 0.3, 0.7, 1.0],
            "contrast": [1.0, 0.7, 0.3, 0.0],
            "saturation": [0.5, 0.0, 1.0, 0.2],
            "hue": [0.5, 0.1, 0.3, 0.0],
        },
    ),
    "affine": (
        RandomAffine,
        {
            "degrees": [0.0, 20.0, 45.0, 180.0],
            "shear": [45.0, 0.0, 30.0, 10.0],
            "scale": [0.5, 0.1, 0.0, 0.3],
            "translate_x": [0.3, 0.5, 0.1, 0.0],
            "translate_y": [0.0, 0.1, 0.5, 1.0],
        },
    ),
    "flip": (RandomHorizontalFlip, {"probability": [0.0, 0.4, 0.6, 1.0]}),
    "cutout": (Cutout, {"holes": [0, 1, 5, 2], "length": [4, 3, 2, 0]}),
}
MIXING = {"mixup": mixup, "cutmix": cutmix}
EXAMPLES = 4

all_cases = pytest.mark.parametrize(("kind", "strengths"), CASES.values(), ids=CASES)
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def images(dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = (3, 6, 7)) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(EXAMPLES, *shape, generator=generator, dtype=dtype)


def tracked(kind: Any, strengths: Strengths, example: int = 0) -> nn.Module:
    """Return the augmentation with a hyperparameter for each strength of one example."""
    return kind(**{n: hyperparameter(v[example], Symbol(n)) for n, v in strengths.items()})


def perturbed(strengths: Strengths, device: str = "cpu") -> PerturbedValues:
    values = {n: torch.tensor(v, dtype=torch.float64, device=device) for n, v in strengths.items()}
    return perturbing(values, {name: v[0] for name, v in strengths.items()})


# -- strengths -------------------------------------------------------------------------------------


@dtypes
@all_cases
def test_each_image_is_changed_as_by_its_own_plain_number(
    kind: type[nn.Module], strengths: Strengths, dtype: torch.dtype, draws: FixedDraws
) -> None:
    x = images(dtype)
    with draws(), perturbed(strengths):
        result = tracked(kind, strengths)(x)
    assert result.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for b in range(EXAMPLES):
        plain = kind(**{name: values[b] for name, values in strengths.items()})
        with draws(first=b):
            expected = plain(x[b : b + 1])[0]
        torch.testing.assert_close(result[b], expected, rtol=0, atol=tolerance)
    assert not torch.allclose(result, x, atol=0.1)


@all_cases
def test_the_weight_step_has_todays_value(
    kind: type[nn.Module], strengths: Strengths, draws: FixedDraws
) -> None:
    x, today = images(), {name: values[2] for name, values in strengths.items()}
    with draws(), CurrentValues(today, frozenset(today)):
        result = tracked(kind, strengths)(x)
    with draws():
        torch.testing.assert_close(result, kind(**today)(x), rtol=0, atol=0)


@dtypes
@all_cases
def test_strength_zero_changes_nothing(
    kind: type[nn.Module], strengths: Strengths, dtype: torch.dtype
) -> None:
    x = images(dtype)
    tolerance = 1e-6 if dtype == torch.float64 else 2e-5
    nothing = kind(**{name: type(values[0])(0) for name, values in strengths.items()})
    torch.testing.assert_close(nothing(x), x, rtol=0, atol=tolerance)


@all_cases
def test_evaluation_does_not_read_the_strengths(
    kind: type[nn.Module], strengths: Strengths
) -> None:
    x, module = images(), tracked(kind, strengths).eval()
    with ValidationValues({name: values[0] for name, values in strengths.items()}):
        assert module(x) is x


@all_cases
def test_draws_differ_between_examples_and_calls(
    kind: type[nn.Module], strengths: Strengths
) -> None:
    module = kind(**{name: values[1] for name, values in strengths.items()})
    x = images()[:1].expand(16, -1, -1, -1)
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    assert not torch.equal(first[:1].expand_as(first), first)


@all_cases
def test_the_input_is_not_changed_in_place(kind: type[nn.Module], strengths: Strengths) -> None:
    x = images()
    before = x.clone()
    with perturbed(strengths):
        tracked(kind, strengths)(x)
    assert torch.equal(x, before)


@all_cases
def test_copies_keep_the_hyperparameters(kind: type[nn.Module], strengths: Strengths) -> None:
    module = copy.deepcopy(tracked(kind, strengths))
    assert isinstance(module.strengths, dict)
    assert all(isinstance(s, Hyperparameter) for s in module.strengths.values())
    assert next(iter(strengths)) + "=" in repr(module)


# -- devices and precisions --------------------------------------------------------------------


@all_cases
def test_everything_is_made_on_the_device_of_the_images(
    kind: type[nn.Module], strengths: Strengths
) -> None:
    """A tensor made without a device is on ``meta``, and an operation with the images fails."""
    module, x, mode = tracked(kind, strengths), images(), perturbed(strengths)
    with torch.device("meta"), mode:
        assert module(x).device.type == "cpu"


@pytest.mark.parametrize("name", MIXING)
def test_mixing_makes_everything_on_the_device_of_the_images(name: str) -> None:
    x = images()
    with torch.device("meta"):
        assert {t.device.type for t in MIXING[name](x, 0.7)} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@all_cases
def test_a_gpu_does_the_same(
    kind: type[nn.Module], strengths: Strengths, draws: FixedDraws
) -> None:
    results = []
    for device in ("cpu", "cuda"):
        with draws(), perturbed(strengths, device):
            results.append(tracked(kind, strengths)(images().to(device)))
    assert results[1].is_cuda
    torch.testing.assert_close(results[1].cpu(), results[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@all_cases
def test_half_precision_is_kept_and_right(
    kind: type[nn.Module], strengths: Strengths, dtype: torch.dtype, draws: FixedDraws
) -> None:
    x = images(dtype)
    with draws(), perturbed(strengths):
        result = tracked(kind, strengths)(x)
    with draws(), perturbed(strengths):
        expected = tracked(kind, strengths)(x.double())
    assert result.dtype == dtype
    error = (result.double() - expected).abs()
    assert error.max() < 40 * torch.finfo(dtype).eps


def test_autocast_does_not_blur_positions(draws: FixedDraws) -> None:
    module, x = RandomAffine(degrees=45, translate_x=0.5), images(torch.float32, (1, 64, 64))
    with draws(), torch.autocast("cpu", torch.bfloat16):
        result = module(x)
    with draws():
        torch.testing.assert_close(result, module(x))


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "value", "domain"),
    [
        (ColorJitter, "brightness", -0.1, "[0, 1]"),
        (ColorJitter, "contrast", 1.5, "[0, 1]"),
        (ColorJitter, "saturation", float("nan"), "[0, 1]"),
        (ColorJitter, "hue", 0.8, "[0, 0.5]"),
        (RandomAffine, "degrees", -1, "[0, 180]"),
        (RandomAffine, "shear", 90, "[0, 90)"),
        (RandomAffine, "scale", 1.0, "[0, 1)"),
        (RandomAffine, "translate_x", 1.1, "[0, 1]"),
        (RandomAffine, "translate_y", -0.1, "[0, 1]"),
        (RandomHorizontalFlip, "probability", 1.1, "[0, 1]"),
    ],
)
def test_a_strength_out_of_range_is_refused(kind: Any, name: str, value: Any, domain: str) -> None:
    with pytest.raises(ValueError, match=name) as error:
        kind(**{name: value})
    assert f"{kind.__name__}({name}=" in str(error.value)
    assert f"give a number in {domain}" in str(error.value)
    with pytest.raises(HyperparameterError, match=f"'mine' reaches {kind.__name__}"):
        kind(**{name: hyperparameter(value, Symbol("mine"))})
    start = hyperparameter(0.25, Symbol("mine"))
    values = {"mine": torch.tensor([0.25, 0.25, value, 0.25], dtype=torch.float64)}
    with (
        perturbing(values, {"mine": 0.25}),
        pytest.raises(HyperparameterError, match="'mine' reaches") as error,
    ):
        kind(**{name: start})(images())
    assert f"{kind.__name__}({name}=...)" in str(error.value)
    assert f"not in {domain}: suggest it from a range within" in str(error.value)


@pytest.mark.parametrize("value", [-1, hyperparameter(-1, Symbol("mine"))])
@pytest.mark.parametrize("name", ["holes", "length"])
def test_cutout_refuses_less_than_nothing(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"Cutout\({name}=.*\[0, inf\)"):
        Cutout(**{"holes": 1, "length": 1, name: value})


@pytest.mark.parametrize("value", [1.5, hyperparameter(2.0, Symbol("mine"))])
def test_cutout_refuses_fractions(value: Any) -> None:
    with pytest.raises(TypeError, match=r"Cutout\(length=.*whole number.*suggest_int"):
        Cutout(1, value)


def test_a_strength_must_be_a_number() -> None:
    with pytest.raises(TypeError, match=r"ColorJitter\(hue=...\) takes a number.*not a tuple"):
        ColorJitter(hue=(0.1, 0.2))


@pytest.mark.parametrize("strength", [-0.5, hyperparameter(-0.5, Symbol("mine"))])
@pytest.mark.parametrize("name", MIXING)
def test_mixing_refuses_a_negative_strength(name: str, strength: float) -> None:
    with (
        CurrentValues({"mine": -0.5}, frozenset({"mine"})),
        pytest.raises(ValueError, match=rf"{name}\(strength=.*\[0, inf\)"),
    ):
        MIXING[name](images(), strength)


@all_cases
def test_images_of_the_wrong_kind_are_refused(kind: type[nn.Module], strengths: Strengths) -> None:
    module = kind(**{name: values[1] for name, values in strengths.items()})
    name = kind.__name__
    with pytest.raises(ValueError, match=rf"{name} takes images.*\(4, 126\).*Unflatten"):
        module(images().flatten(1))
    with pytest.raises(ValueError, match=rf"{name} .*\(4, 6, 7\).*unsqueeze"):
        module(images()[:, 0])
    with pytest.raises(ValueError, match=rf"{name} takes floating-point.*uint8.*255"):
        module((255 * images()).byte())
    module.eval()(images().flatten(1))


def test_cutmix_takes_images_and_mixup_floating_point() -> None:
    with pytest.raises(ValueError, match=r"cutmix takes images.*Unflatten"):
        cutmix(images().flatten(1), 1.0)
    for function in (mixup, cutmix):
        with pytest.raises(ValueError, match=rf"{function.__name__} takes floating-point.*uint8"):
            function((255 * images()).byte(), 1.0)


def test_color_jitter_refuses_what_it_would_clip() -> None:
    jitter = ColorJitter(brightness=0.1)
    for scaled in (255 * images(), images() - 0.5):
        with pytest.raises(ValueError, match=r"ColorJitter takes images in \[0, 1\], not in .*255"):
            jitter(scaled)
    jitter(images() + 1e-5 * torch.randn_like(images()))  # as after an interpolation


@pytest.mark.parametrize("name", ["saturation", "hue"])
@pytest.mark.parametrize("channels", [1, 4])
def test_colours_need_three_channels(name: str, channels: int) -> None:
    x = images(shape=(channels, 6, 7))
    with pytest.raises(ValueError, match=rf"ColorJitter .*saturation or hue.*not {channels}"):
        ColorJitter(**{name: 0.0})(x)
    assert ColorJitter(brightness=0.1, contrast=0.1)(x).shape == x.shape


def test_a_jitter_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="one of brightness, contrast, saturation, hue"):
        ColorJitter()


# -- kornia ----------------------------------------------------------------------------------------


def test_kornia_is_asked_for_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    for make in (lambda: ColorJitter(hue=0.1), RandomAffine, RandomHorizontalFlip):
        with pytest.raises(ImportError, match=r"pip install optuna-dstn\[vision\]"):
            make()
    assert mixup(*cutmix(Cutout(1, 2)(images()), 1.0)[:1], 1.0)[0].shape == images().shape


def test_the_package_alone_does_not_import_kornia() -> None:
    code = "import optuna_dstn.augmentation, sys; assert 'kornia' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- tuning ----------------------------------------------------------------------------------------

START = {
    "degrees": 10.0,
    "shear": 10.0,
    "scale": 0.2,
    "translate": 0.1,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.1,
    "flip": 0.4,
    "holes": 2,
    "length": 4,
    "mixing": 0.5,
}


def make_model(trial: optuna.Trial) -> nn.Module:
    translate = trial.suggest_float("translate", 0.0, 0.5)
    return nn.Sequential(
        RandomHorizontalFlip(trial.suggest_float("flip", 0.0, 1.0)),
        RandomAffine(
            degrees=trial.suggest_float("degrees", 0.0, 45.0),
            shear=trial.suggest_float("shear", 0.0, 45.0),
            scale=trial.suggest_float("scale", 0.0, 0.5),
            translate_x=translate,
            translate_y=translate,
        ),
        ColorJitter(
            brightness=trial.suggest_float("brightness", 0.0, 1.0),
            contrast=trial.suggest_float("contrast", 0.0, 1.0),
            saturation=trial.suggest_float("saturation", 0.0, 1.0),
            hue=trial.suggest_float("hue", 0.0, 0.5),
        ),
        Cutout(trial.suggest_int("holes", 0, 5), trial.suggest_int("length", 2, 6)),
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


@pytest.mark.parametrize("mix", MIXING.values())
def test_every_strength_is_tuned(mix: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(24, 3, 8, 8, generator=generator), torch.arange(24) % 3
    tuned = []

    def objective(trial: optuna.Trial) -> float:
        model = make_model(trial)
        strength = trial.suggest_float("mixing", 0.0, 1.0)

        def loss_fn(model: nn.Module, batch: Any) -> Tensor:
            x, y = batch
            if not model.training:
                return F.cross_entropy(model(x), y)
            x, partner, weight = mix(x, strength)
            output = model(x)
            own = F.cross_entropy(output, y, reduction="none")
            other = F.cross_entropy(output, y[partner], reduction="none")
            return weight * own + (1 - weight) * other

        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [batch])
        for _ in range(6):
            tuner.step(batch)
        tuned.append(set(tuner.tuned))
        return tuner.evaluate()

    study = optuna_dstn.create_study(config=QUICK)
    study.enqueue_trial(START)
    study.optimize(objective, n_trials=1)
    assert tuned == [set(START)]
    moved = {name for name, value in study.best_params.items() if value != START[name]}
    assert moved >= set(START) - {"holes", "length"}  # these move by whole steps

    plain = optuna.create_study()
    plain.enqueue_trial(START)
    plain.optimize(objective, n_trials=1)
    assert plain.best_params == START


def test_a_search_range_that_leaves_the_domain_fails_in_the_first_step() -> None:
    batch = images(torch.float32).repeat(4, 1, 1, 1), torch.arange(16) % 3
    study = optuna_dstn.create_study()
    study.enqueue_trial({"too_wide": 0.4})
    trial = study.ask()
    model = nn.Sequential(
        ColorJitter(hue=trial.suggest_float("too_wide", 0.0, 0.8)),
        nn.Flatten(),
        nn.Linear(126, 3),
    )

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [batch])
    with pytest.raises(HyperparameterError, match=r"'too_wide' reaches ColorJitter\(hue="):
        tuner.step(batch)


def test_a_flip_that_confuses_the_classes_is_tuned_away() -> None:
    """The class is the half of the image that is brighter."""

    def draw(examples: int) -> tuple[Tensor, Tensor]:
        x, y = 0.8 * torch.rand(examples, 1, 4, 4), torch.arange(examples) % 2
        x[y == 0, :, :, :2] += 0.2
        x[y == 1, :, :, 2:] += 0.2
        return x, y

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    valid = draw(64)

    def objective(trial: optuna.Trial) -> float:
        flip = RandomHorizontalFlip(trial.suggest_float("flip", 0.0, 0.9))
        model = nn.Sequential(flip, nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [valid])
        for _ in range(300):
            tuner.step(draw(32))
        return tuner.evaluate()

    study = optuna_dstn.create_study(config=optuna_dstn.TunerConfig(hyper_lr=0.1))
    study.enqueue_trial({"flip": 0.4})
    study.optimize(objective, n_trials=1)
    assert study.best_params["flip"] < 0.1
