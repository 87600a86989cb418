"""Moments of observations: analytic, estimated in one pass, compared and matched."""
