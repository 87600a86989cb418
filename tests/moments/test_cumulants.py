"""Third cumulants: against sums over rotations, autograd, drawn particles and pixel images."""

import math
from dataclasses import replace

import pytest
import torch

from oracles import TWO_CAPS
from orbitrec.errors import InputError
from orbitrec.geometry.harmonics import nonconstant_harmonics
from orbitrec.geometry.polar import PolarGrid
from orbitrec.geometry.quadrature import spherical_design
from orbitrec.models.cryoem import PolarProjector, polar_templates
from orbitrec.models.ctf import CTFParameters
from orbitrec.models.simulate import ParticleSimulation, random_poses
from orbitrec.moments.analytic import Moments, uniform_moments
from orbitrec.moments.compression import Compression, noise_edge
from orbitrec.moments.cumulant_estimator import CumulantAccumulator
from orbitrec.moments.cumulant_target import CumulantTarget
from orbitrec.moments.cumulants import antipodal_third_cumulants, third_cumulants
from orbitrec.moments.estimator import MomentAccumulator
from orbitrec.moments.files import read_cumulants, read_moments, write_moments
from orbitrec.moments.information import CumulantInformation
from orbitrec.moments.noise import sampled_cumulants
from orbitrec.moments.shifts import shifted_templates
from orbitrec.volumes.gaussians import GaussianMixture
from orbitrec.volumes.shells import ShellFunctions
from orbitrec.volumes.spherical_bessel import SphericalBesselBasis

ATOMS = GaussianMixture(
    torch.tensor([[3.0, -1.5, 2.0], [-2.0, 3.0, 0.5], [0.0, -3.0, -2.5]], dtype=torch.float64),
    torch.tensor([1.6, 2.0, 1.8], dtype=torch.float64),
    torch.tensor([60.0, 90.0, 48.0], dtype=torch.float64),
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probabilities(directions: torch.Tensor) -> torch.Tensor:
    density = TWO_CAPS.density(directions)
    return density / density.sum()


def problem(n: int, degree: int = 21, count: float = 3e5):
    """Templates of three atoms, probabilities of their directions, and coordinates."""
    grid = PolarGrid(n, 1.1, 10, 9)
    directions = spherical_design(degree)
    templates, density = polar_templates(ATOMS, grid, directions), probabilities(directions)
    moments = uniform_moments(templates, density, grid)
    return templates, density, Compression.of(moments, grid, variance=1.0, count=count)


def modes(triple):
    return triple[0], triple[1], sum(triple)


@pytest.mark.parametrize("n", [24, 25])
def test_cumulants_are_those_of_all_rotations(n):
    templates, density, compression = problem(n, 9)
    z = compression(templates.transpose(0, 1))
    angles = 2 * math.pi * torch.arange(31, dtype=torch.float64) / 31  # removes e^{iqα} up to |q| = 30
    rotated = [(part[:, None] * torch.exp(-1j * m * angles)[:, None]).flatten(0, 1) for m, part in enumerate(z)]
    weight = (density[:, None].expand(-1, 31) / 31).flatten().to(torch.complex128)
    centred = [part - weight @ part for part in rotated]

    def brute(a, b, c):
        return torch.einsum("i,ir,is,it->rst", weight, centred[a], centred[b], centred[c].conj())

    found = third_cumulants(z, density)
    half = len(templates) // 2
    halved = antipodal_third_cumulants([part[:half] for part in z], density)
    largest = max(float(block.abs().max()) for block in found.values())
    for triple, block in found.items():
        expected = brute(*modes(triple))
        assert torch.allclose(block, expected, atol=1e-12 * largest), triple
        assert torch.allclose(halved[triple], expected, atol=1e-12 * largest), triple
    assert float(brute(1, 1, 3).abs().max()) < 1e-12 * largest  # the others vanish
    assert largest > 0.1


def test_single_precision_loses_only_its_rounding():
    templates, density, compression = problem(24)
    z = compression(templates.transpose(0, 1))
    found = third_cumulants([part.to(torch.complex64) for part in z], density.float())
    exact = third_cumulants(z, density)
    largest = max(float(block.abs().max()) for block in exact.values())
    for triple, block in found.items():
        assert block.dtype == torch.complex64
        assert float((block - exact[triple]).abs().max()) < 1e-5 * largest


def test_coordinates_are_white_in_noise_and_uncorrelated_in_signal():
    n = 17
    templates, density, compression = problem(n, count=3e7)
    gram = compression.grid.noise_gram().real
    weight = density.to(torch.complex128)
    for m, (z, basis, signal) in enumerate(
        zip(compression(templates.transpose(0, 1)), compression.bases, compression.signal, strict=True)
    ):
        assert torch.allclose(basis.mT @ gram[m] @ basis, torch.eye(len(signal), dtype=torch.float64), atol=1e-10)
        z = z - weight @ z if m == 0 else z
        power = torch.einsum("d,da,db->ab", weight, z, z.conj()).real
        assert torch.allclose(power, torch.diag(signal), atol=1e-8 * float(signal[0]))
        assert bool((signal[1:] <= signal[:-1]).all())


def test_noise_alone_has_no_eigenvalue_beyond_its_edge():
    grid, count = PolarGrid.for_radius(24, 1.5, 10.0), 4000.0
    images = torch.randn(4000, 24, 24, generator=seeded(1), dtype=torch.float64)
    noise = uniform_moments(grid.from_images(images), torch.full((4000,), 1 / count).double(), grid)
    debiased = Moments(noise.first, noise.second - grid.noise_gram(), noise.weights)
    found = Compression.of(debiased, grid, variance=1.0, count=100 * count)
    edge = noise_edge(round(float(torch.trace(grid.noise_gram()[1].real))), count)
    largest = [float(signal[0]) for signal in found.signal]
    assert edge / 4 < largest[0] < edge
    assert edge / 4 < max(largest[1:]) < edge / math.sqrt(2)


def test_derivatives_agree_with_differences():
    templates, density, compression = problem(16, 5)
    half = len(templates) // 2
    z = [part[:half, :2] for part in compression(templates.transpose(0, 1))[:3]]
    parts = [z[0].real.requires_grad_(), *(part.requires_grad_() for part in z[1:])]
    logits = density.log().requires_grad_()

    def outputs(first, *rest):
        *coordinates, free = rest
        return tuple(antipodal_third_cumulants([first + 0j, *coordinates], free.softmax(0)).values())

    assert torch.autograd.gradcheck(outputs, (*parts, logits), atol=1e-6)


def information_problem(dtype: torch.dtype):
    basis = SphericalBesselBasis(7.0, 1.3)
    grid = PolarGrid.for_radius(17, 1.2, 7.0)
    directions = spherical_design(3 * basis.degree + 3)
    projector = PolarProjector(basis, grid, directions, dtype)
    functions = ShellFunctions(basis.lm, projector.radial)
    w = torch.randn(len(basis), generator=seeded(0), dtype=torch.float64)
    log_density = 0.8 * directions[:, 2] + 0.5 * directions[:, 0] * directions[:, 1]
    harmonics = 0.3 * nonconstant_harmonics(directions, 2)
    moments = uniform_moments(projector.templates(w.to(dtype)), log_density.softmax(0).to(dtype), grid)
    moments = Moments(moments.first.to(torch.complex128), moments.second.to(torch.complex128), moments.weights)
    compression = Compression.of(moments, grid, variance=0.05, count=300.0)
    return projector, functions, w, log_density, harmonics, compression


def test_the_information_is_that_of_autograd():
    projector, functions, w, log_density, harmonics, compression = information_problem(torch.float64)

    def cumulants(x):
        shells = functions.sum(x[: len(w)], projector.basis.degree)
        half = projector.half_templates(shells).transpose(0, 1)
        return antipodal_third_cumulants(compression(half), (log_density + harmonics @ x[len(w) :]).softmax(0))

    x = torch.cat([w, torch.zeros(harmonics.shape[1], dtype=torch.float64)])
    target = CumulantTarget.of_cumulants(cumulants(x), compression, 3.0)
    assert float(target.misfit(cumulants(x))) == 0

    def residuals(x):
        flat = cumulants(x)
        weighted = [target.response[t].to(torch.complex128) @ flat[t].flatten() for t in target.data]
        return math.sqrt(2 * target.count) * torch.view_as_real(torch.cat(weighted)).flatten()

    jacobian = torch.autograd.functional.jacobian(residuals, x)
    expected = jacobian.mT @ jacobian
    found = CumulantInformation(projector, functions, w, log_density.softmax(0), harmonics, target).matrix()
    for rows in (slice(len(w)), slice(len(w), None)):
        for columns in (slice(len(w)), slice(len(w), None)):
            apart = (found[rows, columns] - expected[rows, columns]).norm()
            assert float(apart / expected[rows, columns].norm()) < 1e-10


def test_the_information_of_single_precision_is_the_same():
    matrices = []
    for dtype in (torch.float64, torch.float32):
        projector, functions, w, log_density, harmonics, _ = information_problem(dtype)
        compression = information_problem(torch.float64)[-1]
        half = projector.half_templates(functions.sum(w.to(dtype), projector.basis.degree)).transpose(0, 1)
        density = log_density.softmax(0)
        target = CumulantTarget.of_cumulants(antipodal_third_cumulants(compression(half), density), compression, 1.0)
        matrices.append(CumulantInformation(projector, functions, w, density, harmonics, target).matrix())
    assert matrices[1].dtype == torch.float32
    assert float((matrices[1] - matrices[0]).norm() / matrices[0].norm()) < 1e-4


def test_of_even_views_third_cumulants_see_what_two_moments_do_not():
    """Kam (1980): they leave every degree free to rotate. A rotation of the whole is never seen."""
    projector, functions, w, _, harmonics, compression = information_problem(torch.float64)
    density = torch.full((len(projector.directions),), 1 / len(projector.directions), dtype=torch.float64)
    half = projector.half_templates(functions.sum(w, projector.basis.degree)).transpose(0, 1)
    target = CumulantTarget.of_cumulants(antipodal_third_cumulants(compression(half), density), compression, 1.0)
    matrix = CumulantInformation(projector, functions, w, density, harmonics[:, :0], target).matrix()

    def seen(degrees):
        change, index = torch.zeros_like(w), {}
        for i, (lm, k) in enumerate(zip(functions.lm.tolist(), projector.basis.frequency.tolist(), strict=True)):
            index[lm, round(k, 9)] = i
        for (lm, k), i in index.items():
            l = math.isqrt(lm)
            m = lm - l * (l + 1)
            if l in degrees:
                change[i] = m * w[index[lm - 2 * m, k]]
        return float(change @ matrix @ change / (w @ matrix @ w))

    every = range(projector.basis.degree + 1)
    assert seen(every) < 1e-12
    for degree in (1, 2, 3):
        assert seen([degree]) > 1e-4


def test_drawn_particles_have_the_misfit_of_their_noise():
    templates, density, compression = problem(24)
    z = compression(templates.transpose(0, 1))
    exact, count, draws = third_cumulants(z, density), 20_000, 24
    misfits = []
    for seed in range(draws):
        found = sampled_cumulants(z, density, count=count, generator=seeded(seed))
        misfits.append(float(CumulantTarget.of_cumulants(found, compression, float(count)).misfit(exact)))
    target = CumulantTarget.of_cumulants(exact, compression, float(count))
    mean, error = target.numbers / 2, math.sqrt(target.numbers / 2 / draws)
    assert target.numbers > 100
    # Coordinates are not Gaussian: the diagonal is right to some per cent.
    assert sum(misfits) / draws == pytest.approx(mean, abs=5 * error + 0.03 * mean)
    nothing = {triple: torch.zeros_like(block) for triple, block in exact.items()}
    assert float(target.misfit(nothing)) > 10 * mean


N, PIXEL_A, SHIFT_PX = 25, 5.0, 0.8


def fainter(contrast: float) -> GaussianMixture:
    return GaussianMixture(ATOMS.centers, ATOMS.widths, ATOMS.weights * contrast)


def images(count: int, seed: int, n: int = N, contrast: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images of shifted particles with CTFs, and their radial CTFs on the coordinates' grid."""
    generator = seeded(seed)
    rotations, shifts = random_poses(count, generator, views=TWO_CAPS, shift_px=SHIFT_PX)
    one = torch.ones(count, dtype=torch.float64)
    defocus = 4e3 + 8e3 * torch.rand(count, generator=generator, dtype=torch.float64)
    ctf = CTFParameters(defocus, defocus, 0 * one, 300 * one, 2 * one, 0.1 * one, 0 * one)
    simulation = ParticleSimulation(fainter(contrast), n, PIXEL_A, rotations, shifts, ctf)
    clean = simulation.clean(torch.arange(count), torch.float64)
    noisy = clean + torch.randn(count, n, n, generator=generator, dtype=torch.float64)
    return noisy, ctf.radial(PolarGrid(n, 1.1, 10, 9).nodes, PIXEL_A)


def shifted_problem(n: int = N, count: float = 3e7, contrast: float = 1.0):
    """Templates of half of the directions at every shift of a rule, their weights, and coordinates."""
    # More modes than the images', because shifts bring some in from beyond.
    grid, wide = PolarGrid(n, 1.1, 10, 9), PolarGrid(n, 1.1, 10, 17)
    directions = spherical_design(31)
    half = polar_templates(fainter(contrast), wide, directions[: len(directions) // 2])
    moved, density = shifted_templates(half, probabilities(directions), wide, SHIFT_PX)
    moved = moved[:, :10]
    both = torch.cat([moved, (-1.0) ** torch.arange(10)[:, None] * moved.conj()])
    moments = uniform_moments(both, density, grid)
    return moved, density, Compression.of(moments, grid, variance=1.0, count=count)


def residuals(compression, exact, parts: int, size: int, contrast: float, n: int):
    """Of every part and the triples: errors in coordinates in which their variance should be 1 over the images."""
    found = []
    for seed in range(parts):
        accumulator = CumulantAccumulator.empty(compression)
        noisy, ctf = images(size, 100 + seed, n, contrast)
        accumulator.update(compression.grid.from_images(noisy), ctf)
        target = accumulator.target()
        found.append({
            triple: data - target.response[triple].to(data.dtype) @ exact[triple].flatten()
            for triple, data in target.data.items()
        })  # fmt: skip
    return {triple: torch.view_as_real(torch.stack([part[triple] for part in found])) for triple in found[0]}


@pytest.mark.parametrize("n", [24, 25])
def test_pixel_images_have_the_analytic_cumulants(n):
    """End to end: projections, shifts, CTFs, noise in pixels; products, centring, normal equations."""
    moved, density, compression = shifted_problem(n)
    exact = antipodal_third_cumulants(compression(moved.transpose(0, 1)), density)
    nothing = {triple: torch.zeros_like(block) for triple, block in exact.items()}
    parts, size = 16, 2000
    signal, worst = residuals(compression, nothing, 1, size, 1.0, n), {}
    for triple, errors in residuals(compression, exact, parts, size, 1.0, n).items():
        deviation = errors.square().mean((0, 1)).sqrt() / math.sqrt(parts)  # of a mean, pooled over the block
        known = deviation > 1e-6  # the imaginary part of a product of three real numbers is 0
        worst[triple] = [float((e.mean(0).abs() / deviation)[:, known].max()) for e in (errors, signal[triple])]
    assert max(error for error, _ in worst.values()) < 5
    assert max(seen for _, seen in worst.values()) > 20


def test_the_misfit_of_the_truth_is_that_of_noise():
    """Half of the numbers on average; a fifth more, as the square box and the CTF leave noise not quite white."""
    moved, density, compression = shifted_problem(25, 3e5, contrast=0.25)
    exact = antipodal_third_cumulants(compression(moved.transpose(0, 1)), density)
    size, parts = 3000, 8
    found = residuals(compression, exact, parts, size, 0.25, 25)
    misfit = sum(size * float(errors.square().sum()) / parts for errors in found.values())
    numbers = CumulantTarget.of_cumulants(exact, compression, 1.0).numbers
    assert misfit / (numbers / 2) == pytest.approx(1.15, abs=0.15)


def test_merged_parts_are_one_pass():
    _, _, compression = shifted_problem()
    noisy, ctf = images(60, 3)
    observed = compression.grid.from_images(noisy)
    whole = CumulantAccumulator.empty(compression)
    whole.update(observed, ctf)
    parts = []
    for rows in torch.arange(60).tensor_split([13, 14, 41]):
        part = CumulantAccumulator.empty(compression)
        part.update(observed[rows], ctf[rows])
        parts.append(part)
    merged = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    for name, total in whole.sums().items():
        largest = float(total.abs().max())
        assert torch.allclose(merged.sums()[name], total, rtol=1e-11, atol=1e-11 * largest), name
    again, once = merged.target(), whole.target()
    for triple, data in once.data.items():
        assert torch.allclose(again.data[triple], data, atol=1e-8 * float(data.abs().max()))
    with pytest.raises(InputError, match="cannot be merged"):
        whole.merge(CumulantAccumulator.empty(problem(N)[2]))
    with pytest.raises(InputError, match="no images"):
        CumulantAccumulator.empty(compression).target()


def test_files_return_what_was_written(tmp_path):
    _, _, compression = shifted_problem()
    noisy, ctf = images(5, 4)
    observed = compression.grid.from_images(noisy)
    pairs, triples = MomentAccumulator.empty(compression.grid), CumulantAccumulator.empty(compression)
    pairs.update(observed, ctf)
    triples.update(observed, ctf)
    write_moments(tmp_path / "m.safetensors", pairs, 2.5, triples)
    back = read_cumulants(tmp_path / "m.safetensors")
    assert back is not None
    assert back.compression.same_as(compression)
    assert back.compression.variance == compression.variance
    assert all(torch.equal(back.sums()[name], value) for name, value in triples.sums().items())
    for one, other in zip(back.compression.spreads, compression.spreads, strict=True):
        assert torch.equal(one, other)
    assert read_moments(tmp_path / "m.safetensors")[1] == 2.5


def test_the_unit_of_images_does_not_matter():
    """Images whose noise is s times as large, with CTFs divided by s, are the same observations of another volume."""
    _, _, compression = shifted_problem()
    noisy, ctf = images(50, 5)
    observed = compression.grid.from_images(noisy)
    plain, scaled = (CumulantAccumulator.empty(c) for c in (compression, in_unit(compression, 3.0)))
    plain.update(observed, ctf)
    scaled.update(observed, ctf / 3)
    one, other = plain.target(), scaled.target()
    for triple, data in one.data.items():
        assert torch.allclose(other.data[triple], data, atol=1e-8 * float(data.abs().max()))
        largest = float(one.response[triple].abs().max())
        assert torch.allclose(other.response[triple], one.response[triple], atol=1e-8 * largest)


def in_unit(compression: Compression, scale: float) -> Compression:
    """Coordinates of a volume ``scale`` times as dense in noise of that deviation: the same numbers."""
    return replace(
        compression,
        bases=tuple(basis / scale for basis in compression.bases),
        spreads=tuple(spread * scale for spread in compression.spreads),
        mean=compression.mean * scale,
        variance=scale**2,
    )
