import pytest
import torch

from orbitrec.optim.conjugate_gradients import solve_symmetric


def system(dtype: torch.dtype, shape: tuple[int, ...] = (3, 4), seed: int = 0):
    """A dense symmetric positive matrix with eigenvalues in [1, 30], as a function on tensors of ``shape``."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.Size(shape).numel()
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    matrix = (basis * torch.linspace(1, 30, size, dtype=torch.float64)) @ basis.mT
    matrix = ((matrix + matrix.mT) / 2).to(dtype)
    right = torch.randn(*shape, generator=generator, dtype=dtype)
    exact = torch.linalg.solve(matrix, right.reshape(-1)).reshape(shape)
    return lambda x: (matrix @ x.reshape(-1)).reshape(shape), right, exact


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_agrees_with_a_dense_solve(dtype, tolerance):
    apply, right, exact = system(dtype)
    found = solve_symmetric(apply, right, relative_residual=tolerance / 10, iterations=40)
    assert found.dtype == dtype
    assert found.shape == right.shape
    assert float((found - exact).norm() / exact.norm()) < tolerance


def test_stops_at_the_residual_asked_for():
    apply, right, _ = system(torch.float64, (20, 3))
    residuals = [
        float((right - apply(solve_symmetric(apply, right, relative_residual=asked, iterations=100))).norm())
        for asked in (1e-1, 1e-3, 1e-6)
    ]
    for residual, asked in zip(residuals, (1e-1, 1e-3, 1e-6), strict=True):
        assert 1e-3 * asked < residual / float(right.norm()) <= asked


def test_iterations_bound_the_work():
    apply, right, exact = system(torch.float64, (20, 3))
    errors = [
        float((solve_symmetric(apply, right, relative_residual=1e-12, iterations=count) - exact).norm())
        for count in (1, 4, 16)
    ]
    assert errors[0] > errors[1] > errors[2] > 1e-6


def test_the_preconditioner_is_used():
    # A diagonal system over eight decades is one step with its own diagonal and hopeless in one without.
    scale = torch.logspace(-4, 4, 12, dtype=torch.float64)
    right = torch.ones(12, dtype=torch.float64)
    found = solve_symmetric(lambda x: scale * x, right, diagonal=scale, iterations=1)
    assert torch.allclose(found, right / scale, rtol=1e-12)
    assert not torch.allclose(solve_symmetric(lambda x: scale * x, right, iterations=1), right / scale, rtol=0.5)


def test_the_start_is_used_and_kept():
    apply, right, exact = system(torch.float64)
    start = exact + 1e-6
    before = start.clone()
    near = solve_symmetric(apply, right, start=start, relative_residual=1e-12, iterations=1)
    far = solve_symmetric(apply, right, relative_residual=1e-12, iterations=1)
    assert float((near - exact).norm()) < 1e-5 < float((far - exact).norm())
    assert torch.equal(start, before)
    # A start that is good enough already comes back as it is.
    assert torch.equal(solve_symmetric(apply, right, start=start, relative_residual=1e-3), start)
