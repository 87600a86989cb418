"""Multireference alignment: a signal from its shifted, noisy copies."""
