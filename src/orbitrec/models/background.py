"""The background of images: a smooth surface behind the particle, seen where the particle is not."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orbitrec.geometry.grids import pixel_vectors


def corner_mask(n: int, radius: float = 0.45) -> Bool[Tensor, "n n"]:
    """Pixels further than ``radius · n`` from the origin, where particles leave the noise alone."""
    return pixel_vectors(n).square().sum(-1) > (radius * n) ** 2


@dataclass(frozen=True)
class Background:
    """How the background of every image is removed.

    A polynomial in x and y is fitted by least squares to the pixels outside the particle and subtracted everywhere, as
    RELION's extraction does with a plane.

    Attributes:
        degree: of the polynomial: 0 for a constant, 1 for a plane, 2 for a paraboloid.
        unit_variance: whether what is left outside the particle is brought to variance 1.
        radius: in boxes, of the disc that holds the particle.
    """

    degree: int = 1
    unit_variance: bool = False
    radius: float = 0.45

    def removed(self, images: Float[Tensor, "b n n"]) -> Float[Tensor, "b n n"]:
        """The images without their backgrounds.

        Args:
            images: (b, n, n), axes (y, x).

        Returns:
            Images of the same shape, whose pixels outside the disc have mean 0.
        """
        n = images.shape[-1]
        outside = corner_mask(n, self.radius).to(images.device)
        basis = self.basis(n).to(images.device)
        solver = torch.linalg.pinv(basis[:, outside]).to(images)
        surface = (images[:, outside] @ solver) @ basis.flatten(1).to(images)
        images = images - surface.view_as(images)
        if not self.unit_variance:
            return images
        deviation = images[:, outside].std(dim=1)[:, None, None]
        return images / deviation.clamp(min=torch.finfo(images.dtype).tiny)

    def basis(self, n: int) -> Float[Tensor, "q n n"]:
        """The monomials ``x^a y^b`` of total degree up to :attr:`degree`, x and y from −1 to 1 over the box."""
        x, y = (2 / n * pixel_vectors(n)).double().unbind(-1)
        return torch.stack([x**a * y**b for a in range(self.degree + 1) for b in range(self.degree + 1 - a)])
