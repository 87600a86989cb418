"""SO(3) against scipy's rotations, closed forms and the Haar measure."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from orbitrec.geometry.rotations import (
    direction_frames,
    euler_to_matrix,
    geodesic_distance,
    in_plane,
    matrix_to_euler,
    quaternion_to_matrix,
    random_rotations,
    rotation_vector_to_matrix,
)

PRECISIONS = [(torch.float32, 1e-6), (torch.float64, 2e-15)]


def random_euler(count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    u = torch.rand(count, 3, generator=generator, dtype=dtype)
    return u * torch.tensor([360.0, 180.0, 360.0], dtype=dtype) - torch.tensor([180.0, 0.0, 180.0], dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_euler_angles_are_scipys_intrinsic_zyz(dtype: torch.dtype, tolerance: float) -> None:
    angles = random_euler(200, dtype)
    expected = Rotation.from_euler("ZYZ", angles.double().numpy(), degrees=True).as_matrix()
    torch.testing.assert_close(euler_to_matrix(angles), torch.from_numpy(expected).to(dtype), rtol=0, atol=tolerance)


def test_quarter_turns_by_hand() -> None:
    # rot = 90°, tilt = 90° looks along y; psi then turns about that axis.
    quarter = torch.tensor([90.0, 90.0, 0.0], dtype=torch.float64)
    expected = torch.tensor([[0.0, -1, 0], [0, 0, 1], [-1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(euler_to_matrix(quarter), expected, rtol=0, atol=1e-15)


def test_angles_survive_a_round_trip_off_the_poles() -> None:
    angles = random_euler(500)
    torch.testing.assert_close(matrix_to_euler(euler_to_matrix(angles)), angles, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("tilt", [0.0, 180.0, 1e-12, 180 - 1e-10, 1e-5, 90.0])
def test_matrices_survive_a_round_trip_at_and_near_the_poles(dtype: torch.dtype, tolerance: float, tilt: float) -> None:
    angles = random_euler(50, dtype)
    angles[:, 1] = tilt
    rotation = euler_to_matrix(angles)
    euler = matrix_to_euler(rotation)
    assert ((euler[:, 1] >= 0) & (euler[:, 1] <= 180)).all()
    torch.testing.assert_close(euler_to_matrix(euler), rotation, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_psi_carries_the_whole_turn_at_the_poles(tilt: float) -> None:
    rot, psi = torch.tensor([30.0, -100.0, 10.0]).double(), torch.tensor([50.0, 20.0, 0.0]).double()
    euler = matrix_to_euler(euler_to_matrix(torch.stack([rot, torch.full_like(rot, tilt), psi], dim=-1)))
    torch.testing.assert_close(euler[:, 0], torch.zeros(3).double())
    torch.testing.assert_close(euler[:, 2], psi + rot if tilt == 0 else psi - rot)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_direction_frames_look_along_the_direction_with_psi_zero(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    d = torch.randn(4, 25, 3, generator=generator, dtype=dtype)
    d = torch.cat([d / d.norm(dim=-1, keepdim=True), torch.eye(3, dtype=dtype).expand(4, 3, 3)], dim=1)
    d = torch.cat([d, -d], dim=1)
    frames = direction_frames(d)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(frames[..., 2], d, rtol=0, atol=tolerance)
    torch.testing.assert_close(frames @ frames.mT, torch.eye(3, dtype=dtype).expand_as(frames), rtol=0, atol=tolerance)
    # psi = 0: the image's y axis stays in the plane z = 0, and its x axis never points up.
    torch.testing.assert_close(frames[..., 2, 1], torch.zeros_like(frames[..., 2, 1]), rtol=0, atol=0)
    assert (frames[..., 2, 0] <= tolerance).all()


def test_in_plane_is_a_right_factor_that_adds_to_psi() -> None:
    angles = random_euler(50)
    turn = torch.linspace(-170, 170, 50, dtype=torch.float64)
    rotated = angles + torch.stack([torch.zeros(50), torch.zeros(50), turn], dim=-1)
    product = euler_to_matrix(angles) @ in_plane(torch.deg2rad(turn))
    torch.testing.assert_close(product, euler_to_matrix(rotated), rtol=0, atol=4e-15)


@pytest.mark.parametrize("angle", [1e-12, 1e-8, 1e-4, 0.3, 2.0, 3.1])
def test_geodesic_distance_is_accurate_at_all_angles(angle: float) -> None:
    # The last bit of the matrices is worth about 1e-16 in the chord, whatever the angle: arccos would lose 1e-8.
    base = random_rotations(20, torch.Generator().manual_seed(1))
    axis = torch.randn(20, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    axis = axis / axis.norm(dim=-1, keepdim=True)
    distance = geodesic_distance(base, base @ rotation_vector_to_matrix(angle * axis))
    torch.testing.assert_close(distance, torch.full_like(distance, angle), rtol=2e-14, atol=2e-15)


def test_geodesic_distance_of_a_half_turn_and_of_nothing() -> None:
    base = random_rotations(20, torch.Generator().manual_seed(3))
    half_turn = in_plane(torch.tensor(math.pi, dtype=torch.float64))
    # asin is flat at 1, so a half turn is only known to √eps.
    torch.testing.assert_close(
        geodesic_distance(base, base @ half_turn), torch.full((20,), math.pi).double(), rtol=0, atol=1e-6
    )
    assert (geodesic_distance(base, base) == 0).all()


def test_geodesic_distance_against_scipy_and_its_invariance() -> None:
    generator = torch.Generator().manual_seed(4)
    a, b, g = (random_rotations(50, generator) for _ in range(3))
    expected = (Rotation.from_matrix(a.numpy()).inv() * Rotation.from_matrix(b.numpy())).magnitude()
    distance = geodesic_distance(a, b)
    torch.testing.assert_close(distance, torch.from_numpy(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(geodesic_distance(g @ a @ g.mT, g @ b @ g.mT), distance, rtol=0, atol=1e-12)
    torch.testing.assert_close(geodesic_distance(b, a), distance)


def test_random_rotations_are_uniform() -> None:
    # Under the Haar measure the entries of R and of R⊗R are orthogonal functions: E R = 0, E R_ij R_kl = δ_ik δ_jl / 3,
    # and the angle θ has the density (1 − cos θ)/π, so E θ = π/2 + 2/π.
    count = 20_000
    r = random_rotations(count, torch.Generator().manual_seed(0))
    flat = r.flatten(1)
    samples = torch.cat(
        [
            flat,
            (flat[:, :, None] * flat[:, None, :] - torch.eye(9) / 3).flatten(1),
            geodesic_distance(r, torch.eye(3, dtype=r.dtype).expand_as(r))[:, None] - (math.pi / 2 + 2 / math.pi),
        ],
        dim=1,
    )
    standard_error = samples.std(0) / math.sqrt(count)
    assert (samples.mean(0).abs() / standard_error).max() < 5


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_random_rotations_are_rotations_and_follow_their_generator(dtype: torch.dtype, tolerance: float) -> None:
    r = random_rotations(100, torch.Generator().manual_seed(6), dtype)
    assert r.dtype == dtype
    torch.testing.assert_close(r @ r.mT, torch.eye(3, dtype=dtype).expand_as(r), rtol=0, atol=2 * tolerance)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(100, dtype=dtype), rtol=0, atol=2 * tolerance)
    assert torch.equal(r, random_rotations(100, torch.Generator().manual_seed(6), dtype))


def test_quaternions_against_scipy() -> None:
    q = torch.randn(100, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    q = q / q.norm(dim=-1, keepdim=True)
    expected = Rotation.from_quat(np.roll(q.numpy(), -1, axis=1)).as_matrix()  # scipy writes (x, y, z, w)
    torch.testing.assert_close(quaternion_to_matrix(q), torch.from_numpy(expected), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-9, 1e-3, 1.0, 4.0])
def test_rotation_vectors_against_scipy(dtype: torch.dtype, tolerance: float, scale: float) -> None:
    v = scale * torch.randn(30, 3, generator=torch.Generator().manual_seed(9), dtype=dtype)
    expected = Rotation.from_rotvec(v.double().numpy()).as_matrix()
    torch.testing.assert_close(
        rotation_vector_to_matrix(v), torch.from_numpy(expected).to(dtype), rtol=0, atol=4 * tolerance
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_at_zero_is_the_generator_of_rotations(dtype: torch.dtype) -> None:
    # ∂ exp([v]×)_ij / ∂v_k at 0 is −ε_ijk.
    jacobian = torch.autograd.functional.jacobian(rotation_vector_to_matrix, torch.zeros(3, dtype=dtype))
    i, j, k = torch.meshgrid(*[torch.arange(3)] * 3, indexing="ij")
    epsilon = ((i - j) * (j - k) * (k - i) / 2).to(dtype)
    assert torch.equal(jacobian, -epsilon)


@pytest.mark.parametrize("scale", [1e-12, 1e-5, 0.1, 2.0])
def test_gradient_is_the_derivative(scale: float) -> None:
    # Rotating about a fixed axis: d/dt exp(t[a]×) = [a]× exp(t[a]×).
    axis = torch.tensor([2.0, -3.0, 6.0], dtype=torch.float64) / 7
    t = torch.tensor(scale, dtype=torch.float64)
    derivative = torch.autograd.functional.jacobian(lambda t: rotation_vector_to_matrix(t * axis), t)
    cross = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, dtype=torch.float64), dim=-1).T
    torch.testing.assert_close(derivative, cross @ rotation_vector_to_matrix(t * axis), rtol=0, atol=1e-10)
