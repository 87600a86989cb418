"""Volumes matched to two moments: neural, and made of pseudo-atoms."""
