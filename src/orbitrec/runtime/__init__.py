"""What a run is carried out with: processes, threads, checkpoints, progress."""
