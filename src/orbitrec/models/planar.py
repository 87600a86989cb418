"""Planar images under rotations of their plane: classes take the place of directions in the templates.

Inside the disc of radius R (pixels) the orthonormal real basis is, for m > 0 with cosines and with sines,

    ψ_ms(x) = sqrt(2) N_ms J_m(u_ms r / R) cos mθ,      N_ms = 1 / (sqrt(π) R |J_{m+1}(u_ms)|),      J_m(u_ms) = 0,

without the factor sqrt(2) for m = 0 (Zhao and Singer, J. Opt. Soc. Am. A 30, 2013). A function of mode m has circular
mode m only, so its polar coordinates are one complex number times a radial function, and an average's normal equations
fall apart into one small system for every class and mode.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from scipy.special import jn_zeros, jv
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.grids import pixel_vectors
from orbitrec.geometry.polar import PolarGrid
from orbitrec.models.base import LinearProjector, reached


@dataclass(frozen=True)
class FourierBesselBasis:
    """Functions on the disc of ``radius`` pixels with frequencies ``u_ms / R`` up to ``k_max`` radians per pixel.

    A function's coefficient is complex, real for m = 0: ``c`` stands for the image ``Re[i^m c e^{imθ}] ψ_ms(r)``.

    Raises:
        InputError: if the two do not leave a single function.
    """

    radius: float
    k_max: float

    def __post_init__(self) -> None:
        if self.radius * self.k_max < 2.405:  # the first zero of J_0
            raise InputError(
                f"a disc of {self.radius:g} px up to k_max {self.k_max:g} has no basis function; raise one of them"
            )

    @cached_property
    def zeros(self) -> list[np.ndarray]:
        """Zeros u_ms up to ``radius · k_max``, one array for each m."""
        most, zeros = self.radius * self.k_max, []
        for m in range(int(most) + 1):  # the first zero of J_m is above m, and zeros are nearly π apart or more
            found = jn_zeros(m, int((most - m) / 3) + 2)
            if found[0] > most:
                break
            zeros.append(found[found <= most])
        return zeros

    @property
    def max_mode(self) -> int:
        """Largest circular mode m."""
        return len(self.zeros) - 1

    @cached_property
    def counts(self) -> list[int]:
        """Functions of every mode."""
        return [len(each) for each in self.zeros]

    @cached_property
    def mode(self) -> Int[Tensor, "c"]:
        """Mode m of every function, ascending."""
        return torch.repeat_interleave(torch.arange(len(self.counts)), torch.tensor(self.counts))

    @cached_property
    def order(self) -> Int[Tensor, "c"]:
        """Number s of every function among those of its mode, from 0."""
        return torch.cat([torch.arange(count) for count in self.counts])

    @cached_property
    def zero(self) -> Float[Tensor, "c"]:
        """Zero u_ms of every function."""
        return torch.from_numpy(np.concatenate(self.zeros))

    @cached_property
    def _norm(self) -> Float[Tensor, "c"]:
        edge = torch.from_numpy(jv(self.mode.numpy() + 1, self.zero.numpy())).abs()
        return 1 / (math.sqrt(math.pi) * self.radius * edge)

    def __len__(self) -> int:
        return len(self.mode)

    def radial(self, k: Float[Tensor, "k"]) -> Float[Tensor, "c k"]:
        """``2π N_ms ∫ J_m(u_ms r/R) J_m(kr) r dr`` over the disc: a function's transform at frequencies k, of mode m.

        The integral is ``R² u J_{m+1}(u) J_m(kR) / (u² − (kR)²)`` (Lommel).
        """
        u, x, m = self.zero[:, None], k.double() * self.radius, self.mode[:, None]
        edge = torch.from_numpy(jv(m.numpy() + 1, u.numpy()))
        apart = u.square() - x.square()
        at_zero = apart.abs() < 1e-7 * u.square()
        ratio = torch.from_numpy(jv(m.numpy(), x.numpy())) / torch.where(at_zero, 1.0, apart)
        ratio = torch.where(at_zero, edge / (2 * u), ratio)  # the limit: −J_m'(u) / 2u
        return 2 * math.pi * self.radius**2 * self._norm[:, None] * u * edge * ratio

    def images(self, coefficients: Complex[Tensor, "d c"], n: int) -> Float[Tensor, "d n n"]:
        """Images (y, x) of n × n pixels; zero outside the disc."""
        x, y = pixel_vectors(n).reshape(-1, 2).unbind(1)
        r, theta = torch.hypot(x, y), torch.atan2(y, x)
        inside = r < self.radius
        m = self.mode[:, None]
        argument = self.zero[:, None] * r[inside] / self.radius
        profile = self._norm[:, None] * torch.from_numpy(jv(m.numpy(), argument.numpy()))
        wave = torch.polar(profile * torch.where(m > 0, math.sqrt(2), 1.0), m * (theta[inside] + math.pi / 2))
        out = torch.zeros(len(coefficients), n * n, dtype=torch.float64)
        out[:, inside] = (coefficients.to(torch.complex128) @ wave).real
        return out.unflatten(1, (n, n)).to(coefficients.real.dtype)

    def embedded(self, coefficients: Complex[Tensor, "d c"], finer: "FourierBesselBasis") -> Complex[Tensor, "d e"]:
        """The same images in a basis of the same radius and a larger ``k_max``."""
        at = {pair: i for i, pair in enumerate(zip(finer.mode.tolist(), finer.order.tolist(), strict=True))}
        places = torch.tensor([at[pair] for pair in zip(self.mode.tolist(), self.order.tolist(), strict=True)])
        out = coefficients.new_zeros(len(coefficients), len(finer))
        return out.index_copy(1, places, coefficients)


@dataclass(frozen=True, eq=False)
class PlanarProjector(LinearProjector):
    """The linear map from the Fourier–Bessel coefficients of several images to their polar templates.

    The unknowns are, class after class, the real parts of all coefficients and then the imaginary parts of those with
    m > 0.

    Args:
        basis: of the images.
        grid: the observations' polar grid; templates have its nodes, and the basis' modes.
        classes: how many images.
        dtype: real dtype of the work, float32 or float64.
    """

    basis: FourierBesselBasis
    grid: PolarGrid
    classes: int
    dtype: torch.dtype = torch.float32

    @property
    def dimension(self) -> int:
        """Real numbers of all images."""
        return self.classes * self._own

    @property
    def _own(self) -> int:
        return 2 * len(self.basis) - self.basis.counts[0]

    @cached_property
    def _radial(self) -> Float[Tensor, "m s k"]:
        """Radial functions in polar coordinates, by mode, padded with zeros."""
        values = (self.basis.radial(self.grid.nodes) * self.grid.scale).to(self.dtype)
        out = values.new_zeros(self.basis.max_mode + 1, max(self.basis.counts), self.grid.node_count)
        out[self.basis.mode, self.basis.order] = values
        return out

    @property
    def reach(self) -> Bool[Tensor, "m k"]:
        """The coordinates that templates reach."""
        return self._reach

    @cached_property
    def _reach(self) -> Bool[Tensor, "m k"]:
        return reached(self._radial.square().sum(1))

    def complex(self, w: Float[Tensor, "p"]) -> Complex[Tensor, "d c"]:
        """The complex coefficients of every class."""
        real, imaginary = w.reshape(self.classes, -1).split([len(self.basis), self._own - len(self.basis)], dim=1)
        zero = imaginary.new_zeros(self.classes, self.basis.counts[0])
        return torch.complex(real, torch.cat([zero, imaginary], dim=1))

    def real(self, coefficients: Complex[Tensor, "d c"]) -> Float[Tensor, "p"]:
        """The unknowns of complex coefficients, the inverse of :meth:`complex`."""
        return torch.cat([coefficients.real, coefficients.imag[:, self.basis.counts[0] :]], dim=1).flatten()

    def _padded(self, coefficients: Tensor) -> Tensor:
        out = coefficients.new_zeros(self.basis.max_mode + 1, len(coefficients), max(self.basis.counts))
        out[self.basis.mode, :, self.basis.order] = coefficients.mT
        return out

    def _unpadded(self, padded: Tensor) -> Tensor:
        return padded[self.basis.mode, :, self.basis.order].mT

    def templates(self, w: Float[Tensor, "p"]) -> Complex[Tensor, "d m k"]:
        """``C w``."""
        padded = self._padded(self.complex(w.to(self.dtype)))
        return torch.complex(padded.real @ self._radial, padded.imag @ self._radial).transpose(0, 1).contiguous()

    def adjoint(self, x: Complex[Tensor, "d m k"]) -> Float[Tensor, "p"]:
        """``C* x`` for the real inner product ``Re Σ conj(T) x``."""
        by_mode, radial = x.transpose(0, 1), self._radial.mT
        return self.real(self._unpadded(torch.complex(by_mode.real @ radial, by_mode.imag @ radial)))

    def solve(
        self, right: Float[Tensor, "p"], weight: Float[Tensor, "d k"], precision: Float[Tensor, "p"]
    ) -> Float[Tensor, "p"]:
        """Solve ``(C* W C + diag(precision)) w = right``: a small system for every class and mode.

        Args:
            right: the right-hand side.
            weight: (d, k) diagonal of W over classes and nodes.
            precision: not negative, the same for real and imaginary parts of a coefficient.

        Returns:
            w, in float64.
        """
        radial = self._radial.double()
        gram = torch.einsum("msk,dk,mtk->mdst", radial, weight.double(), radial)
        own = precision.reshape(self.classes, -1)[:, : len(self.basis)]
        used = self._padded(torch.ones_like(own)) > 0
        diagonal = torch.where(used, self._padded(own), 1.0).double()
        # What no observation says anything of, and no prior, is zero.
        floor = torch.finfo(torch.float64).eps * gram.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True) + 1e-300
        matrix = gram + torch.diag_embed(diagonal + floor)
        b = self._padded(self.complex(right.double()))
        solved = torch.linalg.solve(matrix, torch.stack([b.real, b.imag], dim=-1))
        return self.real(self._unpadded(torch.complex(solved[..., 0], solved[..., 1])))

    def uniform_diagonal(self, weight: Float[Tensor, "k"]) -> Float[Tensor, "p"]:
        """Diagonal of ``C* W C`` were every class given the weight ``weight[k] / d``."""
        radial = self._radial.square() @ weight.to(self.dtype) / self.classes  # (m, s)
        own = radial[self.basis.mode, self.basis.order].expand(self.classes, -1)
        return self.real(torch.complex(own, own))
