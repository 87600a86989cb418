"""Densities of rotations and viewing directions."""
