"""Several structures in one stack: which particle is of which, and a map of each."""
