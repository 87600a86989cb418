"""Recovery of signals from noisy, shifted copies: multireference alignment (MRA)."""
