"""MoM-net (chapter 3): volume, view density and shifts from moments by a trained network, and what follows it."""
