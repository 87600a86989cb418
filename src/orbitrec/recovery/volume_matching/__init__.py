"""Volumes and view densities from the first two moments (chapters 2 and 3)."""
