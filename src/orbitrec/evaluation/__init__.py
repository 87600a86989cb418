"""Comparing maps: alignment and Fourier shell correlation."""
