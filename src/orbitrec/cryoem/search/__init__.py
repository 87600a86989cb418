"""The search for volume and poses: starts, their selection, and frequency marching."""
