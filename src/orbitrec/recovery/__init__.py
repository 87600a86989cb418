"""From a particle stack to a map and poses."""
