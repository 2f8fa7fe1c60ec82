from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optuna_dstn.response._delta import Delta
from optuna_dstn.response._response import Response
from optuna_dstn.response._structured import AnchoredResponse, StructuredResponse


EXAMPLES, HYPERPARAMETERS = 5, 3


@pytest.fixture
def groups() -> list[dict[str, nn.Parameter]]:
    """Return two groups of responding parameters, and one without."""
    first, second = nn.Linear(4, 6, dtype=torch.float64), nn.Conv2d(2, 3, 2, dtype=torch.float64)
    return [
        {"first.weight": first.weight, "first.bias": first.bias},
        {},
        {"second.weight": second.weight, "second.bias": second.bias},
    ]


def deltas_at(response: Response, perturbation: Tensor) -> dict[int, Delta]:
    deltas = response.deltas(response.gates(perturbation))
    return {key: delta for key, (delta,) in deltas.items()}


def randomise(response: Response) -> None:
    with torch.no_grad():
        for tensor in response.parameters():
            tensor.normal_()


def test_the_response_starts_at_zero_and_can_leave_it(
    groups: list[dict[str, nn.Parameter]],
) -> None:
    response = StructuredResponse(groups, HYPERPARAMETERS)
    deltas = deltas_at(response, torch.randn(EXAMPLES, HYPERPARAMETERS, dtype=torch.float64))
    for delta in deltas.values():
        assert (delta.gate == 0).all()
        assert delta.direction.abs().max() > 0  # otherwise the gradient of U would be zero


def first_direction(weight: Tensor) -> Tensor:
    response = StructuredResponse([{"w": nn.Parameter(weight)}], 1)
    (delta,) = deltas_at(response, torch.zeros(2, 1)).values()
    return delta.direction.detach()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_directions_lie_along_each_units_weights_and_are_as_large_as_fresh_ones(
    scale: float,
) -> None:
    weight = scale * torch.randn(5, 3, 2, 2) * torch.rand(5, 1, 1, 1)
    direction = first_direction(weight)
    alike = torch.cosine_similarity(direction.flatten(1), weight.flatten(1))
    torch.testing.assert_close(alike, torch.ones(5))
    # The root mean square of U(±b) is b/√3, and each unit has 12 weights.
    rms = direction.flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.full((5,), (12 * 3) ** -0.5))


def test_an_anchored_direction_is_the_weights_of_today_plus_its_own_part() -> None:
    """Δ = diag(Uε)·(W + R), with R zero at first, also after a step on the weights."""
    weight, bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))
    response = AnchoredResponse([{"w": weight, "b": bias}], 2)
    epsilon = torch.randn(5, 2)

    def check(own: Tensor) -> None:
        delta = deltas_at(response, epsilon)[id(weight)]
        gate = epsilon @ response.gains[0][:4].T
        torch.testing.assert_close(
            delta.per_example(), gate[:, :, None] * (weight.detach() + own), msg="W + R"
        )

    with torch.no_grad():
        response.gains[0].normal_()
    check(torch.zeros(4, 3))
    with torch.no_grad():
        weight.normal_()
    check(torch.zeros(4, 3))
    with torch.no_grad():
        response.directions[0]["w"].normal_()
    check(response.directions[0]["w"].detach())
    assert response.directions[0]["b"].abs().max() > 0  # a bias of zero could not be rescaled


def test_the_weights_get_no_gradient_through_an_anchored_direction() -> None:
    weight = nn.Parameter(torch.randn(4, 3))
    response = AnchoredResponse([{"w": weight}], 2)
    with torch.no_grad():
        response.gains[0].normal_()
    deltas_at(response, torch.randn(5, 2))[id(weight)].per_example().sum().backward()
    assert weight.grad is None
    assert all(tensor.grad is not None for tensor in response.parameters())


def test_where_there_are_no_weights_the_direction_is_random() -> None:
    """Otherwise a layer that starts at zero could never respond."""
    weight = torch.cat([torch.zeros(400, 30), torch.ones(1, 30)])
    direction, bound = first_direction(weight)[:400], 30**-0.5
    assert direction.abs().max() <= bound
    assert direction.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert first_direction(torch.zeros(400)).std().item() == pytest.approx(3**-0.5, rel=0.2)


def test_every_parameter_gets_its_own_change(groups: list[dict[str, nn.Parameter]]) -> None:
    """The change of each row is a linear function of ε times a fixed direction."""
    response = StructuredResponse(groups, HYPERPARAMETERS)
    randomise(response)
    parameters = {n: p for group in groups for n, p in group.items()}
    assert response.names == tuple(parameters)

    units = deltas_at(response, torch.eye(HYPERPARAMETERS, dtype=torch.float64))
    epsilon = torch.randn(EXAMPLES, HYPERPARAMETERS, dtype=torch.float64)
    deltas = deltas_at(response, epsilon)
    assert deltas.keys() == {id(p) for p in parameters.values()}
    seen: list[Tensor] = []
    for name, parameter in parameters.items():
        delta = deltas[id(parameter)]
        gains = units[id(parameter)].gate.T  # U
        assert gains.shape == (parameter.shape[0], HYPERPARAMETERS)
        assert delta.direction.shape == parameter.shape, name
        for b in range(EXAMPLES):
            for unit in range(parameter.shape[0]):
                expected = sum(gains[unit, j] * epsilon[b, j] for j in range(HYPERPARAMETERS))
                torch.testing.assert_close(delta.gate[b, unit], expected)
        seen.append(gains.flatten())
    rows = torch.cat(seen)
    assert len(rows.unique()) == len(rows)  # two units share no row of U


@pytest.mark.parametrize(
    ("shape", "axis", "units"),
    [((6, 4), 0, 6), ((6, 4), 1, 4), ((3, 2, 5), 1, 2), ((6,), 0, 6), ((6, 4), 0, 1), ((), 0, 1)],
)
def test_the_inner_product_with_a_gradient(shape: tuple[int, ...], axis: int, units: int) -> None:
    """Value and gradient equal those computed from the change of each example."""
    gradient, direction = torch.randn(2, *shape, dtype=torch.float64)
    gate = torch.randn(EXAMPLES, units, dtype=torch.float64, requires_grad=True)
    delta = Delta(gate, direction, axis)
    expected = (delta.per_example() * gradient).sum() / EXAMPLES
    product = delta.inner_product(gradient)
    torch.testing.assert_close(product, expected)
    torch.testing.assert_close(
        torch.autograd.grad(product, gate), torch.autograd.grad(expected, gate)
    )


def test_every_tensor_of_the_response_gets_a_gradient(
    groups: list[dict[str, nn.Parameter]],
) -> None:
    response = StructuredResponse(groups, HYPERPARAMETERS)
    randomise(response)
    epsilon = torch.randn(EXAMPLES, HYPERPARAMETERS, dtype=torch.float64)
    total: Tensor = sum(
        (d.gate.square().sum() + d.direction.square().sum())
        for d in deltas_at(response, epsilon).values()
    )
    total.backward()
    for tensor in response.parameters():
        assert tensor.is_leaf
        if tensor.numel():
            assert tensor.grad is not None
            assert (tensor.grad != 0).all()


def test_the_groups_of_the_response_are_those_of_the_optimizer(
    groups: list[dict[str, nn.Parameter]],
) -> None:
    response = StructuredResponse(groups, HYPERPARAMETERS)
    sizes = [sum(t.numel() for t in group) for group in response.parameter_groups()]
    expected = [
        sum(p.numel() + p.shape[0] * HYPERPARAMETERS for p in group.values()) for group in groups
    ]
    assert sizes == expected


def test_a_saved_state_gives_the_same_changes(groups: list[dict[str, nn.Parameter]]) -> None:
    saved, fresh = (
        StructuredResponse(groups, HYPERPARAMETERS),
        StructuredResponse(groups, HYPERPARAMETERS),
    )
    randomise(saved)
    state = saved.state_dict()
    epsilon = torch.randn(EXAMPLES, HYPERPARAMETERS, dtype=torch.float64)
    expected = {
        key: (d.gate.clone(), d.direction.clone()) for key, d in deltas_at(saved, epsilon).items()
    }
    randomise(saved)  # the state is a copy
    fresh.load_state_dict(state)
    for key, delta in deltas_at(fresh, epsilon).items():
        assert torch.equal(delta.gate, expected[key][0])
        assert torch.equal(delta.direction, expected[key][1])
