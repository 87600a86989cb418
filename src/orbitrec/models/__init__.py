"""Forward models: how an object becomes observations."""
