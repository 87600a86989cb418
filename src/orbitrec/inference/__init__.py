"""Moments and likelihood on templates and observations in circular modes."""
