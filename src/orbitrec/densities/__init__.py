"""Densities of viewing directions on the sphere."""
