"""Two-dimensional classes: averages of particles that show one view, and which of them show the molecule."""
