"""Representations of a 3-D density that can be evaluated anywhere in Fourier space."""
