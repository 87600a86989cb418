"""How a run is carried out: processes, threads, checkpoints, progress."""
