from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FixedTrial
from PIL import Image
import pytest
import torch
from torch import nn

from comparisons._study import Job, run_study
from comparisons._tuners import TUNERS
from comparisons.networks import MLP, VGG16, AlexNet, ResNet18, SimpleCNN
from comparisons.problems import PROBLEMS, MissingDataError, Problem
from comparisons.problems._images import ImageProblem, Normalised
from comparisons.problems.cifar import load_cifar
from comparisons.problems.mnist import load_mnist
from optuna_dstn.augmentation import ColorJitter, Cutout, RandomAffine


RATES = {
    "mnist-mlp": MLP.RATES,
    "simple-cnn": SimpleCNN.RATES,
    "alexnet": AlexNet.RATES,
    "vgg16": VGG16.RATES,
    "resnet18": ResNet18.RATES,
}
CIFAR = ("alexnet", "vgg16", "resnet18")
ALL = pytest.mark.parametrize("name", RATES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of made-up images; each image of MNIST's has a number of its own in two pixels."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    digits = random.integers(256, size=(150, 28, 28), dtype=np.uint8)
    digits[:, 0, 0] = np.arange(150)
    labels = (np.arange(150) % 10).astype(np.uint8)
    np.savez(
        folder / "mnist.npz",
        x_train=digits[:110],
        y_train=labels[:110],
        x_test=digits[110:],
        y_test=labels[110:],
    )
    colors = np.repeat(random.integers(256, size=(100, 1, 1, 3), dtype=np.uint8), 32, axis=1)
    colors = np.repeat(colors, 32, axis=2)
    encoded = [_jpeg(image) for image in colors]
    np.savez(
        folder / "cifar10_jpeg.npz",
        jpeg=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        offset=np.cumsum([0, *map(len, encoded)]),
        label=(np.arange(100) % 10).astype(np.uint8),
        train=np.arange(100) % 5 != 0,
        colors=colors[:, 0, 0],
    )
    return folder


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def smoke(name: str, folder: Path, **changes: object) -> ImageProblem:
    problem = PROBLEMS[name].at("smoke", data_dir=folder, **changes)
    assert isinstance(problem, ImageProblem)
    return problem


def fixed(problem: Problem) -> FixedTrial:
    return FixedTrial(dict(problem.reference))


def images(loader: object) -> torch.Tensor:
    return torch.cat([x for x, _ in loader])


# -- data ----------------------------------------------------------------------------------------


def test_parts_of_mnist_are_disjoint_and_keep_their_labels(folder: Path) -> None:
    problem = smoke("mnist-mlp", folder)
    setup = problem.setup(fixed(problem), 0, 0)
    numbers = [
        images(loader)[:, 0, 0, 0].tolist()
        for loader in (setup.train_loader, setup.valid_loader, setup.test_loader)
    ]
    assert [len(part) for part in numbers] == [64, 32, 32]
    assert len({number for part in numbers for number in part}) == 128
    assert max(numbers[0] + numbers[1]) < 110 <= min(numbers[2])
    for x, y in setup.train_loader:
        assert x.dtype == torch.uint8
        assert torch.equal(x[:, 0, 0, 0] % 10, y)


def test_jpegs_are_decoded_with_their_labels_and_parts(folder: Path) -> None:
    with np.load(folder / "cifar10_jpeg.npz") as file:
        colors = torch.as_tensor(file["colors"]).float()
    (x, y), (tested_x, tested_y) = load_cifar(folder / "cifar10_jpeg.npz", 80, 20)
    assert x.shape == (80, 3, 32, 32)
    for part, labels, is_test in ((x, y, False), (tested_x, tested_y, True)):
        distance, row = torch.cdist(part.float().mean((2, 3)), colors).min(1)
        assert distance.max() < 4  # a JPEG's rounding
        assert torch.equal(row % 10, labels)
        assert ((row % 5 == 0) == is_test).all()
        assert len(row.unique()) == len(part)


@pytest.mark.parametrize("load", [load_mnist, load_cifar])
def test_too_few_images_are_an_error(load: object, folder: Path) -> None:
    file = "mnist.npz" if load is load_mnist else "cifar10_jpeg.npz"
    with pytest.raises(ValueError, match=r"asks for 1,000 test images, and the file has \d+"):
        load(folder / file, 10, 1000)


@ALL
def test_missing_file_is_an_error(name: str, tmp_path: Path) -> None:
    problem = smoke(name, tmp_path)
    for need in (problem.require_data, lambda: problem.setup(fixed(problem), 0, 0)):
        with pytest.raises(MissingDataError, match=r"needs .*\.npz.*--data-dir FOLDER"):
            need()


def test_small_cnn_reads_fashion_mnist_where_it_is_given(folder: Path, tmp_path: Path) -> None:
    assert smoke("simple-cnn", folder).description.startswith("MNIST: ")
    (tmp_path / "fashion_mnist.npz").write_bytes((folder / "mnist.npz").read_bytes())
    problem = smoke("simple-cnn", tmp_path)
    problem.require_data()
    assert problem.description.startswith("Fashion-MNIST: ")
    problem.setup(fixed(problem), 0, 0)


# -- search space --------------------------------------------------------------------------------


@ALL
def test_search_space_is_the_papers(name: str, folder: Path) -> None:
    study = optuna.create_study()
    trial = study.ask()
    smoke(name, folder)._model(trial)
    space = dict.fromkeys(RATES[name], FloatDistribution(0, 0.95))
    if name != "mnist-mlp":
        space |= {"cutout_holes": IntDistribution(0, 5), "cutout_length": IntDistribution(2, 24)}
    if name in CIFAR:
        space |= {
            "hue": FloatDistribution(0, 0.5),
            **dict.fromkeys(["brightness", "contrast", "saturation"], FloatDistribution(0, 1)),
            **dict.fromkeys(["degrees", "shear"], FloatDistribution(0, 45)),
            **dict.fromkeys(["scale", "translate"], FloatDistribution(0, 0.5)),
        }
    assert trial.distributions == space
    for start in PROBLEMS[name].starts.values():
        assert start.keys() == space.keys()
        assert all(space[key]._contains(value) for key, value in start.items())


@ALL
def test_problem_is_registered_with_starts_for_the_self_tuning_tuners(
    name: str, folder: Path
) -> None:
    problem = smoke(name, folder)
    assert problem.name == name
    for tuner in ("delta-stn@0.05", "delta-stn@0.5"):
        assert TUNERS[tuner].create_study(problem, 0).get_trials()


@ALL
def test_every_hyperparameter_is_tuned(name: str, folder: Path) -> None:
    problem = smoke(name, folder)
    trial = run_study(Job(problem, "delta-stn@0.5", 0, trials=1, retrainings=0)).trials[0]
    assert set(trial.user_attrs["dstn:tuned"]) == set(problem.reference) == set(trial.params)


# -- training ------------------------------------------------------------------------------------


@ALL
def test_same_seed_same_run(name: str, folder: Path) -> None:
    problem = smoke(name, folder)

    def run(seed: int) -> tuple[float, float]:
        trained = problem.train(fixed(problem), seed)
        return trained.validation_loss, trained.test_loss()

    assert run(1) == run(1) != run(2)


@pytest.mark.parametrize("name", CIFAR)
def test_images_are_augmented_in_training_alone_and_normalised_afterwards(
    name: str, folder: Path
) -> None:
    problem = smoke(name, folder)
    model = problem.setup(FixedTrial(dict(problem.starts["0.5"])), 0, 0).model
    kinds = [type(module) for module in model]
    for augmentation in (RandomAffine, ColorJitter):
        assert kinds.index(augmentation) < kinds.index(Normalised)
    x = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    before = model[:-1]
    assert not torch.equal(before(x), before(x))
    before.eval()
    mean = torch.tensor([0.4914, 0.4824, 0.4467]).view(3, 1, 1)
    deviation = torch.tensor([0.2471, 0.2435, 0.2616]).view(3, 1, 1)
    torch.testing.assert_close(before(x), (x / 255 - mean) / deviation)


@pytest.mark.parametrize("name", ["simple-cnn", *CIFAR])
def test_holes_are_cut_as_suggested(name: str, folder: Path) -> None:
    problem = smoke(name, folder)
    params = {**problem.reference, "cutout_holes": 4, "cutout_length": 7}
    model = problem._model(FixedTrial(params))
    (cutout,) = (module for module in model if isinstance(module, Cutout))
    assert cutout.strengths == {"holes": 4, "length": 7}


@pytest.mark.parametrize("name", CIFAR)
def test_each_strength_goes_where_its_name_says(name: str, folder: Path) -> None:
    strengths = {
        "hue": 0.1,
        "brightness": 0.2,
        "contrast": 0.3,
        "saturation": 0.4,
        "degrees": 5.0,
        "shear": 6.0,
        "scale": 0.25,
        "translate": 0.35,
    }
    problem = smoke(name, folder)
    model = problem._model(FixedTrial({**problem.reference, **strengths}))
    found = {
        k: v
        for m in model
        if isinstance(m, (RandomAffine, ColorJitter))
        for k, v in m.strengths.items()
    }
    translate = found.pop("translate_x"), found.pop("translate_y")
    assert translate == (0.35, 0.35)
    assert found == {k: v for k, v in strengths.items() if k != "translate"}


# -- scales --------------------------------------------------------------------------------------


@ALL
def test_papers_scale_has_the_papers_network(name: str, folder: Path) -> None:
    problem = PROBLEMS[name].at("paper", data_dir=folder, train=64, valid=16, test=16)
    setup = problem.setup(fixed(problem), 0, 0)
    sizes = {"mnist-mlp": 1200, "simple-cnn": 1568, "alexnet": 4096, "vgg16": 512, "resnet18": 512}
    *_, last = (module for module in setup.model.modules() if isinstance(module, nn.Linear))
    assert last.in_features == sizes[name]
    assert ("scheduler" in setup.options) == (name in CIFAR)
    (x, y) = next(iter(setup.train_loader))
    setup.model.eval()
    assert setup.loss_fn(setup.model, (x[:2], y[:2])).isfinite()


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (10, [0.03] * 3 + [0.006] * 3 + [0.0012] * 3 + [0.00024]),
        (2, [0.03, 0.006]),
        (1, [0.03]),
    ],
)
def test_learning_rate_decays_at_the_papers_scale(
    folder: Path, epochs: int, expected: list[float]
) -> None:
    problem = smoke("resnet18", folder, decay=True, epochs=epochs, train=8)
    setup = problem.setup(fixed(problem), 0, 0)
    rates = []
    for _ in range(epochs):
        rates.append(round(setup.optimizer.param_groups[0]["lr"], 6))
        setup.optimizer.step()
        setup.options["scheduler"].step()
    assert rates == expected


def test_gradients_are_clipped_where_the_size_says_so(folder: Path) -> None:
    clipped = smoke("alexnet", folder, max_grad_norm=0.5)
    assert clipped.setup(fixed(clipped), 0, 0).options["max_grad_norm"] == 0.5
    assert "gradients of norm 0.5 at most" in clipped.description
    assert "gradients of norm" not in smoke("alexnet", folder).description


def test_kaiming_keeps_the_activations_size(folder: Path) -> None:
    def deviation(kaiming: bool) -> float:
        problem = smoke("alexnet", folder, kaiming=kaiming, width=0.25)
        setup = problem.setup(FixedTrial(dict(problem.reference)), 0, 0)
        setup.model.eval()
        return setup.model(images(setup.valid_loader)).std(1).mean().item()

    assert deviation(True) > 10 * deviation(False)
