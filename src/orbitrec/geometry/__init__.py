"""Grids and their shells, Fourier transforms, polar grids, rotations, point groups, harmonics and quadrature rules."""
