"""Batched Levenberg–Marquardt: quadratics, curve fits as scipy solves them, rotations that the SVD gives."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import Tensor

from orbitrec.geometry.rotations import random_rotations, rotation_vector_to_matrix
from orbitrec.optim.levenberg_marquardt import Damping, LocalModel, Point, minimise

DTYPES = [torch.float32, torch.float64]


def added(point: Point, step: Tensor) -> Point:
    return (point[0] + step,)


def of_residuals(residuals):
    """The Gauss–Newton model of ``½ ‖r(x)‖²``, Jacobians by automatic differentiation."""

    def model(point: Point) -> LocalModel:
        r = torch.func.vmap(residuals)(point[0])
        J = torch.func.vmap(torch.func.jacfwd(residuals))(point[0])
        return LocalModel(r.square().sum(1) / 2, (r[:, None] @ J).squeeze(1), J.mT @ J)

    return model


def rosenbrock(x: Tensor) -> Tensor:
    return torch.stack([10 * (x[1] - x[0].square()), 1 - x[0]])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_a_quadratic_takes_one_step(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(7, 4, 4, generator=generator, dtype=dtype)
    matrix, slope = root @ root.mT + torch.eye(4, dtype=dtype), torch.randn(7, 4, generator=generator, dtype=dtype)
    exact = torch.linalg.solve(matrix, slope)

    def model(point: Point) -> LocalModel:
        image = (matrix @ point[0][..., None]).squeeze(-1)
        return LocalModel((point[0] * (image / 2 - slope)).sum(1), image - slope, matrix)

    start = torch.randn(7, 4, generator=generator, dtype=dtype)
    (found,), value = minimise(model, added, (start,), steps=1, damping=Damping(start=0.0))
    assert found.dtype == value.dtype == dtype
    torch.testing.assert_close(found, exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(value, -(exact * slope).sum(1) / 2, rtol=tolerance, atol=tolerance)
    # Damped, the first step is short of it by the factor that the theory gives: (H + λD)⁻¹ λD.
    (short,), _ = minimise(model, added, (start,), steps=1, damping=Damping(start=0.5, floor=1.0, ridge=0.2))
    extra = torch.diag_embed(0.5 * (1 + matrix.diagonal(dim1=1, dim2=2)) + 0.2)
    left = torch.linalg.solve(matrix + extra, extra @ (start - exact)[..., None]).squeeze(-1)
    torch.testing.assert_close(short - exact, left, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_rosenbrock_from_many_places_as_scipy_does_from_each(dtype, tolerance):
    starts = torch.tensor([[-1.2, 1.0], [3.0, -2.0], [0.0, 5.0], [1.0, 1.0]], dtype=dtype)
    (found,), value = minimise(of_residuals(rosenbrock), added, (starts,), steps=60)
    for start, end in zip(starts, found, strict=True):
        scipy = least_squares(lambda x: rosenbrock(torch.from_numpy(x)).numpy(), start.double().numpy(), method="lm")
        np.testing.assert_allclose(end.numpy(), scipy.x, atol=tolerance)
    assert float(value.max()) < tolerance**2


def test_a_curve_fit_that_leaves_residuals_ends_where_scipy_does():
    t = torch.linspace(0, 3, 20, dtype=torch.float64)
    data = 2 * torch.exp(-1.3 * t) + 0.1 * torch.randn(20, generator=torch.Generator().manual_seed(1)).double()

    def residuals(x: Tensor) -> Tensor:
        return x[0] * torch.exp(-x[1] * t) - data

    start = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    (found,), value = minimise(of_residuals(residuals), added, (start,), steps=40)
    scipy = least_squares(lambda x: residuals(torch.from_numpy(x)).numpy(), start[0].numpy(), xtol=1e-14, ftol=1e-14)
    assert scipy.cost > 0.01
    np.testing.assert_allclose(found[0].numpy(), scipy.x, rtol=1e-6)
    assert float(value) == pytest.approx(scipy.cost, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotations_that_match_vectors_are_those_of_the_svd(dtype):
    """Wahba's problem, ``min ½ Σ |R a_i − b_i|²``: closed form by Kabsch; steps are rotation vectors."""
    generator = torch.Generator().manual_seed(2)
    truth = random_rotations(5, generator).to(dtype)
    a = torch.randn(5, 8, 3, generator=generator, dtype=dtype)
    b = a @ truth.mT + 0.1 * torch.randn(5, 8, 3, generator=generator, dtype=dtype)
    u, _, v = torch.linalg.svd(b.mT @ a)
    sign = torch.ones(5, 3, dtype=dtype)
    sign[:, 2] = torch.linalg.det(u @ v)
    exact = (u * sign[:, None]) @ v

    def model(point: Point) -> LocalModel:
        image = a @ point[0].mT
        r = image - b
        # d(exp([δ]×) x) = δ × x, so that δ·(x × r) is the slope and Σ (|x|² I − x xᵀ) the Gauss–Newton matrix.
        square = image.square().sum((1, 2))[:, None, None] * torch.eye(3, dtype=dtype)
        return LocalModel(r.square().sum((1, 2)) / 2, torch.linalg.cross(image, r).sum(1), square - image.mT @ image)

    start = truth @ rotation_vector_to_matrix(torch.tensor([0.9, -0.5, 0.4], dtype=dtype))
    (found,), _ = minimise(model, lambda p, d: (rotation_vector_to_matrix(d) @ p[0],), (start,), steps=20)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-3 if dtype == torch.float32 else 1e-7)


def test_no_item_rises_and_each_has_a_damping_of_its_own():
    starts = torch.tensor([[-1.2, 1.0], [1.0, 1.0 + 1e-9], [30.0, -50.0]], dtype=torch.float64)
    model = of_residuals(rosenbrock)
    values = torch.stack([minimise(model, added, (starts,), steps=steps)[1] for steps in range(12)])
    assert bool((values.diff(dim=0) <= 0).all())
    assert bool((values.diff(dim=0)[:, 0] == 0).any())  # a step that was refused
    for row, start in enumerate(starts):
        _, value = minimise(model, added, (start[None],), steps=11)
        torch.testing.assert_close(value[0], values[-1, row], rtol=1e-12, atol=0)


def test_it_ends_when_all_are_settled():
    evaluations = 0
    model = of_residuals(rosenbrock)

    def counted(point: Point) -> LocalModel:
        nonlocal evaluations
        evaluations += 1
        return model(point)

    starts = torch.tensor([[-1.2, 1.0], [0.0, 5.0]], dtype=torch.float64)
    _, value = minimise(counted, added, (starts,), steps=100, settled=1e-6)
    assert 5 < evaluations < 60
    assert float(value.max()) < 1e-5
