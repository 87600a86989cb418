"""The contrast transfer function of the electron microscope, in RELION's sign and units.

``CTF(s) = −sin χ(s)`` with ``χ = −πλ z(θ) s² + (π/2) C_s λ³ s⁴ − φ − arcsin w``: defocus ``z`` positive for underfocus,
amplitude contrast ``w``, phase shift ``φ`` of a phase plate, ``s`` in 1/Å. At zero frequency the CTF is
``sin(φ + arcsin w)``: positive for positive amplitude contrast.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.geometry.grids import frequency_vectors


def electron_wavelength_A(voltage_kV: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Relativistic wavelength in Å of electrons accelerated by ``voltage_kV``."""
    volts = 1e3 * voltage_kV
    return 12.2643247 / (volts * (1 + 0.978466e-6 * volts)).sqrt()


@dataclass(frozen=True, eq=False)
class CTFParameters:
    """Parameters of N particles, one float64 entry each, named and measured as RELION does.

    Raises:
        InputError: if a value is not finite, a voltage is not positive or an amplitude contrast is outside [0, 1].
    """

    defocus_u_A: Float[Tensor, "N"]
    defocus_v_A: Float[Tensor, "N"]
    defocus_angle_deg: Float[Tensor, "N"]
    voltage_kV: Float[Tensor, "N"]
    cs_mm: Float[Tensor, "N"]
    amplitude_contrast: Float[Tensor, "N"]
    phase_shift_deg: Float[Tensor, "N"]

    def __post_init__(self) -> None:
        for field in fields(self):
            _require(getattr(self, field.name).isfinite(), field.name, "is not a finite number")
        _require(self.voltage_kV > 0, "voltage_kV", "is not positive")
        contrast = self.amplitude_contrast
        _require((contrast >= 0) & (contrast <= 1), "amplitude_contrast", "is not between 0 and 1")

    def __len__(self) -> int:
        return self.defocus_u_A.shape[0]

    def select(self, indices: Int[Tensor, "M"] | slice) -> "CTFParameters":
        """The parameters of the particles ``indices``."""
        return CTFParameters(*(getattr(self, field.name)[indices] for field in fields(self)))

    def unique(self) -> tuple["CTFParameters", Int[Tensor, "N"]]:
        """The M ≤ N distinct rows, and the row of each particle.

        Particles of one micrograph often share their CTF: evaluate the M rows, then index the result.
        """
        table = torch.stack([getattr(self, field.name) for field in fields(self)], dim=1)
        rows, inverse = torch.unique(table, dim=0, return_inverse=True)
        return CTFParameters(*rows.unbind(1)), inverse

    def evaluate(self, points: Float[Tensor, "... 2"], pixel_size_A: float) -> Float[Tensor, "N ..."]:
        """CTF at frequencies ``points`` (xy, radians per pixel); dtype and device are those of ``points``."""
        x, y = points.unbind(-1)
        square = x * x + y * y
        # The phase is linear in these five functions of (x, y), so all particles are one matrix product.
        basis = torch.stack([square, x * x - y * y, 2 * x * y, square * square, torch.ones_like(x)])
        isotropic, astigmatic, quartic, constant = self._coefficients(pixel_size_A)
        twice = 2 * torch.deg2rad(self.defocus_angle_deg)
        rows = [isotropic, astigmatic * twice.cos(), astigmatic * twice.sin(), quartic, constant]
        coefficients = torch.stack(rows, dim=1).to(basis)
        return (coefficients @ basis.reshape(len(rows), -1)).sin_().neg_().reshape(len(self), *x.shape)

    def on_grid(
        self, n: int, pixel_size_A: float, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> Float[Tensor, "N n n"]:
        """CTF on the centred n × n DFT grid.

        Args:
            n: edge of the images in pixels.
            pixel_size_A: pixel size in Å.
            dtype: real dtype of the result.
            device: where the result is computed and stays.

        Returns:
            One CTF for each particle, axes (y, x).
        """
        return self.evaluate(frequency_vectors(n, dtype=dtype).to(device), pixel_size_A)

    def radial(self, k: Float[Tensor, "K"], pixel_size_A: float) -> Float[Tensor, "N K"]:
        """Average of the CTF over the circle of radius ``k`` radians per pixel.

        Exact with astigmatism: the mean of ``sin(g + a cos t)`` over ``t`` is ``sin(g) J₀(a)``.
        """
        isotropic, astigmatic = self._radial_phase(k, pixel_size_A)
        return -isotropic.sin() * torch.special.bessel_j0(astigmatic)

    def radial_square(self, k: Float[Tensor, "K"], pixel_size_A: float) -> Float[Tensor, "N K"]:
        """Average of the CTF's square over the circle of radius ``k``: the mean is ``(1 − cos(2g) J₀(2a)) / 2``."""
        isotropic, astigmatic = self._radial_phase(k, pixel_size_A)
        return (1 - (2 * isotropic).cos() * torch.special.bessel_j0(2 * astigmatic)) / 2

    def _radial_phase(
        self, k: Float[Tensor, "K"], pixel_size_A: float
    ) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]:
        """``χ(k, θ) = isotropic + astigmatic · cos 2(θ − defocus angle)``."""
        isotropic, astigmatic, quartic, constant = self._coefficients(pixel_size_A).to(k).unsqueeze(-1)
        square = k.square()
        return isotropic * square + quartic * square.square() + constant, astigmatic * square

    def _coefficients(self, pixel_size_A: float) -> Float[Tensor, "4 N"]:
        """Coefficients in χ of k² (isotropic, then astigmatic), k⁴ and 1, k in radians per pixel."""
        wavelength = electron_wavelength_A(self.voltage_kV)
        per_A = 1 / (2 * math.pi * pixel_size_A)
        square = -math.pi * wavelength * per_A**2
        quartic = math.pi / 2 * 1e7 * self.cs_mm * wavelength**3 * per_A**4
        constant = -torch.asin(self.amplitude_contrast) - torch.deg2rad(self.phase_shift_deg)
        u, v = self.defocus_u_A, self.defocus_v_A
        return torch.stack([square * (u + v) / 2, square * (u - v) / 2, quartic, constant])


def _require(good: Bool[Tensor, "N"], name: str, wrong: str) -> None:
    if not bool(good.all()):
        row = int((~good).nonzero()[0]) + 1
        raise InputError(
            f"CTF parameter {name} of particle {row} {wrong}; correct it, or give `ctf=False` for images without CTF"
        )
