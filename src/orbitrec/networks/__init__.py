"""Networks that map moments to signals, volumes and densities."""
