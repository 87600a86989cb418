"""The polar grid: radial Gauss–Legendre nodes × circular modes.

An image is real, so its transform satisfies ``F(k, φ+π) = conj F(k, φ)`` and its circular modes
``F_m(k) = (1/2π) ∫ F(k, φ) e^{-imφ} dφ`` satisfy ``F_{−m} = (−1)^m conj F_m``: only m ≥ 0 is kept. The coordinates are

    Y[m, k] = c_m · sqrt(w_k k / 2π) · F_m(k),     c_0 = 1,  c_m = √2 (m > 0),

with Gauss–Legendre weights w_k, so that ``Σ_{m ≥ 0, k} |Y|²`` is the energy ``Σ_x |image(x)|²`` of the part of the
image below ``k_max`` (Parseval), and inner products likewise. Rotating the image's content counter-clockwise by α
multiplies mode m by ``exp(−imα)``; a shift is a phase on the circle (:meth:`PolarGrid.shift`).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Complex, Float
from scipy.special import jv
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.grids import pixel_vectors, vectors


def _reflected(x: Float[Tensor, "b h w"], dim: int) -> tuple[Float[Tensor, "b p q"], Float[Tensor, "b p q"]]:
    """``x(i) ± x(−i)`` for i ≥ 0 along a dimension whose origin is at n//2; the origin counts once."""
    n = x.shape[dim]
    ahead = x.narrow(dim, n // 2, n - n // 2)
    behind = x.narrow(dim, 0, n // 2 + 1).flip(dim)
    if n % 2 == 0:  # the outermost sample has no partner
        ahead = torch.cat([ahead, torch.zeros_like(ahead.narrow(dim, 0, 1))], dim)
    once = torch.ones(n // 2 + 1, dtype=x.dtype, device=x.device)
    once[0] = 0.5
    shape = [1, 1, 1]
    shape[dim] = -1
    return (ahead + behind) * once.view(shape), ahead - behind


@dataclass(frozen=True)
class PolarGrid:
    """Radial nodes on (0, ``k_max``) and circular modes 0 … ``max_mode`` for ``box`` × ``box`` images.

    Args:
        box: image edge in pixels.
        k_max: largest frequency in radians per pixel, at most π.
        radial_nodes: number of Gauss–Legendre nodes of the rule.
        max_mode: largest circular mode M.
        kept: how many of the rule's lowest nodes the grid has; all, unless it was made by :meth:`truncated`.

    Raises:
        InputError: if a size is not positive or ``k_max`` is outside (0, π].
    """

    box: int
    k_max: float
    radial_nodes: int
    max_mode: int
    kept: int | None = None

    def __post_init__(self) -> None:
        if self.box < 1 or self.radial_nodes < 1 or self.max_mode < 0:
            raise InputError(
                "a polar grid needs a box and radial nodes of at least 1 and a largest mode of at least 0, not "
                f"{self.box}, {self.radial_nodes} and {self.max_mode}"
            )
        if not 0 < self.k_max <= math.pi * (1 + 1e-12):
            raise InputError(f"k_max must lie in (0, π] radians per pixel, not {self.k_max:g}")

    @classmethod
    def for_radius(cls, box: int, k_max: float, radius: float) -> "PolarGrid":
        """The grid that resolves objects of a radius up to a frequency.

        Products of two such transforms oscillate at most like ``exp(2i·radius·k)``, which Gauss–Legendre integrates
        with about half as many nodes as ``radius·k_max``; Bessel functions ``J_m(k r)`` vanish beyond ``m ≈ k r``. Both
        numbers get a margin, and that of the nodes more, because images have content beyond the radius.

        Args:
            box: image edge in pixels.
            k_max: largest frequency in radians per pixel.
            radius: of the objects, in pixels.

        Returns:
            The grid.
        """
        bandwidth = radius * k_max
        margin = 3 + 1.5 * bandwidth ** (1 / 3)
        return cls(box, k_max, math.ceil(0.8 * bandwidth + margin), math.ceil(bandwidth + margin))

    @cached_property
    def _rule(self) -> tuple[np.ndarray, np.ndarray]:
        x, w = np.polynomial.legendre.leggauss(self.radial_nodes)
        return (x + 1) / 2 * self.k_max, w / 2 * self.k_max

    @cached_property
    def nodes(self) -> Float[Tensor, "k"]:
        """Radial frequencies in radians per pixel (float64)."""
        return torch.from_numpy(self._rule[0][: self.kept])

    @cached_property
    def scale(self) -> Float[Tensor, "k"]:
        """``sqrt(w_k k / 2π)``: what makes the coordinates isometric (float64)."""
        return torch.from_numpy(np.sqrt(self._rule[1] * self._rule[0] / (2 * math.pi))[: self.kept])

    @property
    def node_count(self) -> int:
        """Number K of the grid's radial nodes."""
        return len(self.nodes)

    def truncated(self, k_max: float, radius: float) -> "PolarGrid":
        """The part of this grid below ``k_max`` for objects of ``radius`` pixels: a prefix of its nodes and modes.

        Coordinates on the smaller grid are ``modes[..., : M + 1, : K]`` of those on this one. Leaving nodes out of the
        rule moves the sharp edge of the band by less than their spacing, and has no other effect.
        """
        nodes = max(1, int((self.nodes <= k_max * (1 + 1e-9)).sum()))
        modes = PolarGrid.for_radius(self.box, min(k_max, math.pi), radius).max_mode
        return PolarGrid(self.box, self.k_max, self.radial_nodes, min(self.max_mode, modes), nodes)

    @property
    def half_circle(self) -> int:
        """Samples on half a circle that hold modes −M … M; those on the other half are their conjugates."""
        return self.max_mode + 1

    @cached_property
    def mode_weights(self) -> Float[Tensor, "m"]:
        """``c_m``: 1 for m = 0 and √2 above, because −m is not kept (float64)."""
        c = torch.full((self.max_mode + 1,), math.sqrt(2), dtype=torch.float64)
        c[0] = 1
        return c

    @cached_property
    def half_angles(self) -> Float[Tensor, "phi"]:
        """Angles of the samples on half a circle, in radians (float64)."""
        return math.pi * torch.arange(self.half_circle, dtype=torch.float64) / self.half_circle

    @cached_property
    def points(self) -> Float[Tensor, "phi k 2"]:
        """Frequency vectors (x, y) of the samples on half a circle, radians per pixel (float64)."""
        unit = torch.stack([self.half_angles.cos(), self.half_angles.sin()], dim=-1)
        return unit[:, None, :] * self.nodes[None, :, None]

    @cached_property
    def _waves(self) -> list[Float[Tensor, "modes_two phi"]]:
        """``c_m (cos mφ, −sin mφ)`` of even and ``c_m (sin mφ, cos mφ)`` of odd modes.

        On half a circle ``Re F = Σ_{m even} c_m Re(F_m e^{imφ})`` and ``Im F = Σ_{m odd} c_m Im(F_m e^{imφ})``, since
        ``F(φ+π) = conj F(φ)``; over the square root of half the number of points, rows are orthonormal, those of mode 0
        but for the weight of its imaginary part, which is zero.
        """
        waves = []
        for parity in (0, 1):
            m = torch.arange(parity, self.max_mode + 1, 2)
            wave = torch.polar(
                self.mode_weights[m][:, None].expand(-1, self.half_circle), m[:, None] * self.half_angles
            )
            pair = (wave.real, -wave.imag) if parity == 0 else (wave.imag, wave.real)
            waves.append(torch.stack(pair, dim=1).flatten(0, 1))
        return waves

    def from_circle(self, values: Complex[Tensor, "... phi k"]) -> Complex[Tensor, "... m k"]:
        """Coordinates from the transform's values on half a circle, for real images."""
        moved = self._from_half((values.real.mT, values.imag.mT))
        return moved.mT * self.scale.to(values.device, values.real.dtype)

    def to_circle(self, modes: Complex[Tensor, "... m k"]) -> Complex[Tensor, "... phi k"]:
        """The transform's values on half a circle; inverts :meth:`from_circle` for real images."""
        return torch.complex(*self._to_half(modes / self.scale.to(modes.device, modes.real.dtype))).mT

    def _from_half(self, parts: tuple[Float[Tensor, "... k phi"], ...]) -> Complex[Tensor, "... k m"]:
        """Modes from the real and the imaginary part on half a circle, without the scale of nodes."""
        out = parts[0].new_empty(*parts[0].shape[:-1], self.max_mode + 1, 2)
        for parity, (part, wave) in enumerate(zip(parts, self._waves, strict=True)):
            out[..., parity::2, :] = (part @ (wave.mT / self.half_circle).to(part)).unflatten(-1, (-1, 2))
        return torch.view_as_complex(out)

    def _to_half(self, modes: Complex[Tensor, "... m k"]) -> list[Float[Tensor, "... k phi"]]:
        pairs = torch.view_as_real(modes.resolve_conj()).movedim(-2, -3)  # (…, k, m, 2)
        return [pairs[..., parity::2, :].flatten(-2) @ wave.to(pairs) for parity, wave in enumerate(self._waves)]

    def _circular(self, x: Float[Tensor, "p"], y: Float[Tensor, "p"], m: int) -> Complex[Tensor, "p k"]:
        """What a pixel at (x, y) adds to coordinate (m, k).

        ``e^{-ikx}`` in circular modes is ``(−i)^m J_m(k r) e^{-imθ}`` (Jacobi–Anger): no circle is sampled, so nothing
        aliases.
        """
        r2, inverse = torch.unique((x * x + y * y).round().long(), return_inverse=True)
        bessel = torch.from_numpy(jv(m, (r2.double().sqrt()[:, None] * self.nodes).numpy()))[inverse]
        phase = torch.exp(-1j * m * torch.atan2(y, x)) * (-1j) ** m
        return bessel * (self.mode_weights[m] * self.scale) * phase[:, None]

    @cached_property
    def _quadrant(self) -> dict[tuple[torch.dtype, torch.device], list[Float[Tensor, "q mk"]]]:
        """Matrices from a folded quadrant to real and to imaginary parts, of even and then of odd modes.

        ``cos mθ`` is even in y, and in x for even m; ``sin mθ`` is odd in y, and in x for even m. So each part of a
        mode depends on one of the image's four parts that are even or odd in x and y, each known from a quadrant. The
        matrices are kept for every dtype and device on which they were asked for.
        """
        axis = torch.arange(self.box // 2 + 1, dtype=torch.float64)
        x, y = vectors(axis).reshape(-1, 2).unbind(1)
        matrices = []
        for parity in (0, 1):
            modes = [self._circular(x, y, m) for m in range(parity, self.max_mode + 1, 2)]
            block = torch.cat(modes, dim=1) if modes else torch.zeros(len(x), 0, dtype=torch.complex128)
            matrices += [block.real.contiguous(), block.imag.contiguous()]
        return {(torch.float64, torch.device("cpu")): matrices}

    def from_images(self, images: Float[Tensor, "b n n"]) -> Complex[Tensor, "b m k"]:
        """Exact coordinates of images with axes (b, y, x): matrix products over a quadrant of the pixels.

        Raises:
            InputError: if the images are not ``box`` × ``box``.
        """
        if images.shape[-1] != self.box:
            raise InputError(f"images of {images.shape[-1]} px do not fit a polar grid for {self.box} px")
        kind = images.dtype, images.device
        if kind not in self._quadrant:
            exact = self._quadrant[torch.float64, torch.device("cpu")]
            self._quadrant[kind] = [matrix.to(images) for matrix in exact]
        even_x, odd_x = _reflected(images, 2)
        (even_even, even_odd), (odd_even, odd_odd) = _reflected(even_x, 1), _reflected(odd_x, 1)
        # (−i)^m is imaginary for odd m: there the real part is the sine's.
        quadrants = (even_even, odd_odd, even_odd, odd_even)
        coordinates = images.new_empty(len(images), self.max_mode + 1, self.node_count, 2)
        places = [coordinates[:, parity::2, :, part] for parity in (0, 1) for part in (0, 1)]
        for quadrant, matrix, place in zip(quadrants, self._quadrant[kind], places, strict=True):
            place.copy_((quadrant.flatten(1) @ matrix).view(place.shape))
        return torch.view_as_complex(coordinates)

    def noise_gram(self) -> Complex[Tensor, "m k k"]:
        """``G_m = A_m A_m*``: covariance of the coordinates of pixel noise of variance 1, by mode (complex128)."""
        x, y = pixel_vectors(self.box).reshape(-1, 2).unbind(1)
        by_mode = (self._circular(x, y, m) for m in range(self.max_mode + 1))
        return torch.stack([a.mT @ a.conj() for a in by_mode])

    def displaced(
        self, modes: Complex[Tensor, "b m k"], displacements: Float[Tensor, "b s 2"]
    ) -> Complex[Tensor, "b s m k"]:
        """Coordinates of each image moved by its own displacements (x, y) in pixels."""
        real, imaginary = (part[:, None] for part in self._to_half(modes))
        unit = torch.stack([self.half_angles.cos(), self.half_angles.sin()]).to(real)
        angle = (displacements.to(real) @ unit)[:, :, None] * self.nodes.to(real)[:, None]  # (b, s, k, phi)
        cosine, sine = angle.cos(), angle.sin()  # (real + i imaginary) (cosine − i sine)
        parts = real * cosine + imaginary * sine, imaginary * cosine - real * sine
        return self._from_half(parts).mT

    def moved(self, modes: Complex[Tensor, "b m k"], shifts: Float[Tensor, "b 2"]) -> Complex[Tensor, "b m k"]:
        """Coordinates of each image moved by its own displacement (x, y) in pixels."""
        return self.displaced(modes, shifts[:, None])[:, 0]

    def shift(self, modes: Complex[Tensor, "b m k"], shifts: Float[Tensor, "s 2"]) -> Complex[Tensor, "b s m k"]:
        """Coordinates of every image moved by every displacement (x, y) in pixels."""
        return self.displaced(modes, shifts.expand(len(modes), -1, -1))
