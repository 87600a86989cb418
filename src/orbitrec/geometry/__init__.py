"""Fourier transforms, polar grids, rotations and quadrature rules."""
