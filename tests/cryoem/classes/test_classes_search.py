import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from orbitrec.cryoem.classes.averages import measured_classes, rotational_symmetry
from orbitrec.cryoem.classes.level import ClassAverages, ClassLevel, ClassPowerPrior
from orbitrec.cryoem.classes.membership import Membership, Posterior, centroids, recentred, shift_lattice
from orbitrec.cryoem.classes.search import (
    ClassSearch,
    ClassState,
    aligned_sums,
    class_likelihood,
    in_centre,
    random_averages,
    revived,
)
from orbitrec.cryoem.preprocess import ParticleModes
from orbitrec.geometry.fourier import centred_fft, centred_ifft
from orbitrec.geometry.grids import frequency_vectors, pixel_vectors, radial_frequencies
from orbitrec.geometry.polar import PolarGrid
from orbitrec.inference.group_density import EstimatedDirections
from orbitrec.inference.likelihood import expectation
from orbitrec.inference.orbit_likelihood import GaussianPrior
from orbitrec.models.noise import NoiseSpectrum
from orbitrec.models.planar import FourierBesselBasis
from orbitrec.optim.problem import em_map
from orbitrec.runtime.progress import RunState

RADIUS, BANDWIDTH, PIXEL_A = 10.0, 10.0, 3.0
BOXES = pytest.mark.parametrize("n", [32, 33])


def blobs(n: int, seed: int, count: int = 4) -> Tensor:
    """A smooth image in the disc: Gaussian blobs around the origin, their mean taken away."""
    generator = torch.Generator().manual_seed(seed)
    places = 8 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 4
    heights = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
    apart = (pixel_vectors(n)[..., None, :] - places).square().sum(-1)
    return (heights * torch.exp(-apart / 2 / 1.6**2)).sum(-1)


def moved(image: Tensor, shift: tuple[float, float]) -> Tensor:
    phase = torch.exp(-1j * (frequency_vectors(image.shape[-1]) @ torch.tensor(shift, dtype=torch.float64)))
    return centred_ifft(centred_fft(image.to(torch.complex128)) * phase).real


def wave(n: int, defocus: float) -> Tensor:
    """A filter that changes its sign, as a CTF does."""
    return torch.cos(0.5 + defocus * radial_frequencies(n).square())


def modes_of(images: Tensor, filters: Tensor | None = None, index: Tensor | None = None) -> ParticleModes:
    """Images with noise of variance 1, multiplied by their filters, as :func:`preprocess` puts them on a polar grid.

    ``filters``: (u, n, n), of which image j has number ``index[j]`` and has been made with.
    """
    n = images.shape[-1]
    grid = PolarGrid.for_radius(n, BANDWIDTH / RADIUS, RADIUS + 3)
    if filters is None:
        filters, index = torch.ones(1, n, n, dtype=torch.float64), torch.zeros(len(images), dtype=torch.long)
    twice = centred_ifft(centred_fft(images.to(torch.complex128)) * filters[index]).real
    along = radial_frequencies(n)[n // 2, n // 2 :]
    squares = torch.stack([torch.from_numpy(_interpolated(grid.nodes, along, each)) for each in filters.square()])
    modes = grid.from_images(twice.double()).to(torch.complex64)
    return ParticleModes(grid, modes, squares.float(), index, NoiseSpectrum.white(n, 1.0), PIXEL_A)


def _interpolated(nodes: Tensor, along: Tensor, square: Tensor):
    from scipy.interpolate import CubicSpline

    n = len(square)
    return CubicSpline(along.numpy(), square[n // 2, n // 2 :].numpy())(nodes.numpy())


def level_of(data: ParticleModes, classes: int) -> ClassLevel:
    return ClassLevel.at(data.grid, RADIUS, BANDWIDTH, classes)


def averages_of(level: ClassLevel, images: Tensor) -> ClassAverages:
    """The images projected on the basis, with equal shares."""
    grid, basis = level.grid, level.basis
    modes = grid.from_images(images)[:, : basis.max_mode + 1].to(torch.complex64)
    equal = torch.ones(len(images), grid.node_count)
    w = level.projector.solve(level.projector.adjoint(modes), equal, torch.zeros(level.projector.dimension))
    return ClassAverages(w.float(), torch.full((len(images),), -math.log(len(images))))


@BOXES
def test_e_step_is_a_direct_sum_over_classes_angles_and_shifts(n):
    """Against Gaussian likelihoods of the images' pixels, every average rotated and moved by hand."""
    truth = torch.stack([blobs(n, seed) for seed in (1, 2)])
    noise = torch.randn(3, n, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    images = torch.stack([moved(truth[0], (1.3, -0.4)), moved(truth[1], (0, 2.0)), truth[1]]) + noise
    filters = torch.stack([wave(n, 0.4), wave(n, 1.1)])
    index = torch.tensor([0, 1, 1])
    # Observed through the filters, with white noise.
    images = centred_ifft(centred_fft((images - noise).to(torch.complex128)) * filters[index]).real + noise
    data = modes_of(images, filters, index)
    level = level_of(data, 2)
    averages = averages_of(level, truth)
    known = Membership(torch.zeros(3, 2, dtype=torch.float64), 1.0)
    problem = class_likelihood(data, level, known)
    found, assigned = expectation(problem.data.observe(torch.arange(3)), problem.bank(level.unknowns(averages)))

    shifts, log_shift = shift_lattice(level, 1.0)
    coefficients = level.projector.complex(averages.coefficients).to(torch.complex128)
    angles, band = level.circle.in_plane_angles, radial_frequencies(n) <= BANDWIDTH / RADIUS
    score = torch.zeros(3, 2, len(shifts), len(angles), dtype=torch.float64)
    for a, angle in enumerate(angles.tolist()):
        turned = level.basis.images(coefficients * torch.exp(-1j * angle * level.basis.mode), n)
        for s, shift in enumerate(shifts.tolist()):
            for d in range(2):
                transform = band * centred_fft(moved(turned[d], (shift[0], shift[1])).to(torch.complex128))
                for j in range(3):
                    model = centred_ifft(transform * filters[index[j]]).real
                    gain = (images[j] * model).sum() - model.square().sum() / 2
                    score[j, d, s, a] = gain + log_shift[s] - math.log(2 * len(angles))
    log_likelihood = score.logsumexp((1, 2, 3))
    posterior = (score - log_likelihood[:, None, None, None]).exp()
    assert float((assigned.log_likelihood.double() - log_likelihood).abs().max()) < 0.02 * float(log_likelihood.max())
    assert float((assigned.direction.double() - posterior.sum((2, 3))).abs().max()) < 0.04
    assert float((assigned.shift.double() - posterior.sum((1, 3))).abs().max()) < 0.04
    assert found.count == 3


def test_rotated_images_have_the_same_classes_and_turned_angles():
    n = 33
    truth = torch.stack([blobs(n, seed) for seed in (1, 2, 3)])
    images = truth + torch.randn(3, n, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    level = level_of(modes_of(images), 3)
    unknowns = level.unknowns(averages_of(level, truth))
    assert level.circle.angles % 4 == 0

    def found(part: Tensor):
        known = Membership(torch.zeros(3, 2, dtype=torch.float64), 1.0)
        problem = class_likelihood(modes_of(part), level, known)
        return expectation(problem.data.observe(torch.arange(3)), problem.bank(unknowns))

    before, after = found(images), found(torch.rot90(images, -1, (1, 2)))
    assert torch.allclose(before[1].log_likelihood, after[1].log_likelihood, rtol=1e-4)
    assert torch.allclose(before[1].direction, after[1].direction, atol=1e-4)
    turned = (after[1].best[:, 2] - before[1].best[:, 2]) % level.circle.angles
    assert turned.tolist() == [level.circle.angles // 4] * 3
    # The averages are those of the particles rotated back: they stay.
    assert float((before[0].first - after[0].first).abs().max() / before[0].first.abs().max()) < 1e-3


@BOXES
@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_an_average_of_known_members_is_their_wiener_filtered_mean(n, strength):
    """Against least squares over the pixels of all images at once, each seen through its own filter."""
    image = blobs(n, 4)
    filters = torch.stack([wave(n, defocus) for defocus in (0.3, 0.8, 1.7)])
    index = torch.tensor([0, 1, 2, 0, 1])
    noise = 0.3 * torch.randn(5, n, n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    images = centred_ifft(centred_fft(image.expand(5, n, n).to(torch.complex128)) * filters[index]).real + noise
    data = modes_of(images, filters, index)
    level = level_of(data, 1)
    projector = level.projector
    first, second = aligned_sums(
        data, level, torch.arange(5), torch.zeros(5, 2, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    )
    precision = torch.full((projector.dimension,), strength, dtype=torch.float64)
    found = projector.solve(projector.adjoint(first[None]), second[None], precision)

    band = radial_frequencies(n) <= BANDWIDTH / RADIUS
    unit = torch.eye(projector.dimension, dtype=torch.float64)
    functions = torch.cat([level.basis.images(projector.complex(row), n) for row in unit])
    transforms = centred_fft(functions.to(torch.complex128)) * band
    seen = torch.cat([centred_ifft(transforms * filters[u]).real.flatten(1) for u in index], dim=1)
    observed = torch.cat([each.flatten() for each in images])
    expected = torch.linalg.solve(seen @ seen.mT + torch.diag(precision), seen @ observed)
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_signs_of_the_filters_do_not_leak():
    """Two views through filters of all signs are averaged to what they are without any."""
    n = 32
    truth = torch.stack([blobs(n, seed) for seed in (1, 2)])
    filters = torch.stack([wave(n, defocus) for defocus in (0.2, 0.9, 1.6, 2.3)])
    index, view = torch.arange(80) % 4, torch.arange(80) // 40
    clean = centred_ifft(centred_fft(truth[view].to(torch.complex128)) * filters[index]).real
    noise = torch.randn(80, n, n, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    data = modes_of(3 * clean + noise, filters, index)
    level = level_of(data, 2)
    start = averages_of(level, 3 * truth)
    known = Membership(torch.zeros(80, 2, dtype=torch.float64), 0.5)
    problem = replace(class_likelihood(data, level, known), prior=GaussianPrior.flat(level.projector.dimension))
    w = level.unknowns(start)
    for _ in range(2):
        _, w = em_map(problem, w)
    found = level.images(level.averages(w), n).double()
    expected = level.images(start, n).double()
    for one, other in zip(found, expected, strict=True):
        assert float((one * other).sum() / (one.norm() * other.norm())) > 0.98
        assert float(one.norm() / other.norm()) == pytest.approx(1, abs=0.1)


def noisy_views(n: int = 32, count: int = 120, snr: float = 1.5) -> tuple[ParticleModes, Tensor, Tensor]:
    """Rotated and moved copies of three images in noise: modes, classes, images."""
    generator = torch.Generator().manual_seed(7)
    level = level_of(modes_of(torch.zeros(1, n, n, dtype=torch.float64)), 3)
    truth = torch.stack([blobs(n, seed) for seed in (1, 2, 3)])
    coefficients = level.projector.complex(averages_of(level, snr * truth).coefficients).to(torch.complex128)
    view = torch.arange(count) % 3
    angles = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    turned = coefficients[view] * torch.exp(-1j * angles[:, None] * level.basis.mode)
    shifts = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    images = torch.stack([
        moved(image, (float(x), float(y)))
        for image, (x, y) in zip(level.basis.images(turned, n), shifts, strict=True)
    ])  # fmt: skip
    noise = torch.randn(count, n, n, generator=generator, dtype=torch.float64)
    return modes_of(images + noise), view, level.basis.images(coefficients, n)


def test_the_likelihood_never_falls_in_full_em():
    data, _, _ = noisy_views()
    level = level_of(data, 4)
    known = Membership(torch.zeros(len(data), 2, dtype=torch.float64), 1.0)
    start = random_averages(data, level, known.centres, 10, torch.Generator().manual_seed(1))
    prior = ClassPowerPrior(level).fixed(start.coefficients)
    weights = EstimatedDirections(4, level.circle.angles, 0.0, torch.float32)
    problem = replace(class_likelihood(data, level, known), prior=prior, density=weights)
    w, values = level.unknowns(start), []
    for _ in range(12):
        value, w = em_map(problem, w)
        values.append(value)
    rises = [after - before for before, after in pairwise(values)]
    assert max(rises) < 1e-5 * abs(values[0])
    assert values[-1] < values[0] - 1


def test_views_are_told_apart_from_random_starts_and_classes_are_measured():
    data, view, _ = noisy_views(count=300, snr=3.0)
    level = level_of(data, 6)
    generator = torch.Generator().manual_seed(2)
    known = Membership(torch.zeros(300, 2, dtype=torch.float64), 1.0)
    state = ClassState(random_averages(data, level, known.centres, 4, generator), known)
    step = ClassSearch(data, RunState(generator)).online_pass(30)
    for _ in range(8):
        state = step(level, state)
    halves = 1 + torch.arange(300) // 3 % 2
    measured = measured_classes(data, level, state.averages, state.known, halves, 32).sorted()
    table = torch.zeros(3, 6, dtype=torch.long)
    table.index_put_((view, measured.found.most_probable), torch.ones(300, dtype=torch.long), accumulate=True)
    assert int(table.amax(0).sum()) >= 285  # every class is nearly all of one view
    assert sorted(set(table.argmax(0).tolist())) == [0, 1, 2]
    assert measured.members.tolist() == sorted(measured.members.tolist(), reverse=True)
    assert int(measured.members.sum()) == 300
    finest = 2 * math.pi * PIXEL_A / float(level.grid.nodes[-1])
    assert measured.resolutions_A(PIXEL_A)[0] < 1.5 * finest
    assert float(measured.likelihood[0]) > 10


def test_moving_an_average_to_the_centre_leaves_the_likelihood():
    data, _, truth = noisy_views()
    level = level_of(data, 3)
    off = torch.stack([moved(image, (1.5, -1.0)) for image in truth])
    known = Membership(torch.zeros(len(data), 2, dtype=torch.float64), 1.0)
    state = ClassSearch(data, RunState(torch.Generator().manual_seed(1))).online_pass(1000)(
        level, ClassState(averages_of(level, off), known)
    )
    centred = in_centre(level, state)
    before, after = (centroids(level.images(each.averages, 32)).norm(dim=1) for each in (state, centred))
    assert float(after.max()) < 0.3 < 1 < float(before.min())

    def explained(each: ClassState) -> float:
        exact = Membership(each.known.found.shifts_px, 0.3)
        return class_likelihood(data, level, exact).value(level.unknowns(each.averages))

    assert explained(centred) == pytest.approx(explained(state), rel=0.02)


def test_recentring_moves_particles_with_their_average():
    """A particle is R_α of the average, moved by c; of the average moved by −δ, it is that moved by c + R_α δ."""
    quarter = torch.tensor([math.pi / 2], dtype=torch.float64)
    shift = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    found = Posterior(torch.ones(1, 1), torch.ones(1), quarter, shift, torch.ones(1))
    moved_by = recentred(Membership(shift, 1.0, found), torch.tensor([[2.0, 0.0]]))
    assert torch.allclose(moved_by.centres, torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    assert torch.equal(moved_by.found.shifts_px, moved_by.centres)


def test_a_class_that_died_shares_the_members_of_the_largest():
    data, _, truth = noisy_views(count=200)
    level = level_of(data, 3)
    known = Membership(torch.zeros(200, 2, dtype=torch.float64), 1.0)
    step = ClassSearch(data, RunState(torch.Generator().manual_seed(1))).online_pass(50)
    state = step(level, ClassState(averages_of(level, truth), known))
    assert float(state.known.found.sizes.min()) > 20
    assert revived(data, level, state, torch.Generator().manual_seed(1)) is state  # none has died

    classes = torch.nn.functional.one_hot(state.known.found.most_probable % 2, 3).float()
    found = replace(state.known.found, classes=classes)
    emptied = replace(state, known=replace(state.known, found=found))
    after = revived(data, level, emptied, torch.Generator().manual_seed(1)).averages
    parent = int(found.sizes.argmax())
    own, others = after.coefficients.reshape(3, -1), state.averages.coefficients.reshape(3, -1)
    assert torch.equal(own[:2], others[:2])
    alike = torch.nn.functional.cosine_similarity(own[2:], own[:2])
    assert int(alike.argmax()) == parent
    assert float(alike.max()) > 0.7
    assert float(after.log_weights.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float(after.log_weights[2]) == pytest.approx(float(after.log_weights[parent]))


def halves_of_average(fold: int, even: float, noise: float, seed: int) -> tuple[ClassLevel, Tensor, Tensor]:
    """Two noisy halves of an average of random coefficients: modes that are no multiple of ``fold`` are zero, and that
    with m = 2 is ``even`` times the others."""
    level = ClassLevel.at(PolarGrid.for_radius(32, 24 / RADIUS, RADIUS + 3), RADIUS, 24.0, 1)
    basis: FourierBesselBasis = level.basis
    generator = torch.Generator().manual_seed(seed)
    w = torch.view_as_complex(torch.randn(1, len(basis), 2, generator=generator, dtype=torch.float64))
    w = w * (basis.mode % fold == 0) * torch.where(basis.mode == 2, even, 1.0)
    real = level.projector.real(w).float()
    one, two = real + noise * torch.randn(2, len(real), generator=generator)
    return level, one, two


@pytest.mark.parametrize("noise", [0.02, 0.3])
@pytest.mark.parametrize("fold", [1, 2, 3, 5, 6])
def test_rotational_symmetry_of_an_average(fold, noise):
    for seed in range(5):
        found, evidence = rotational_symmetry(*halves_of_average(fold, 1.0, noise, seed))
        assert found.tolist() == [fold]
        assert (float(evidence) > 0.9) == (fold > 1)


@pytest.mark.parametrize("noise", [0.02, 0.3, 1.0])
def test_what_is_elongated_is_not_symmetric(noise):
    """Nearly all of its power is in m = 2, and where noise hides the rest, nothing is known of a symmetry."""
    for seed in range(5):
        level, one, two = halves_of_average(1, 12.0, noise, seed)
        power = level.projector.complex(one)[0].abs().square()
        assert float(power[level.basis.mode == 2].sum() / power[level.basis.mode > 0].sum()) > 0.7
        assert rotational_symmetry(level, one, two)[0].tolist() == [1]


def test_noise_has_no_symmetry():
    level, *_ = halves_of_average(1, 1.0, 1.0, 0)
    generator = torch.Generator().manual_seed(9)
    found = [
        int(rotational_symmetry(level, *torch.randn(2, level.projector.dimension, generator=generator))[0])
        for _ in range(200)
    ]
    assert found == [1] * 200
