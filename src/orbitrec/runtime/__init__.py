"""What a run needs: processes, threads, checkpoints, progress."""
