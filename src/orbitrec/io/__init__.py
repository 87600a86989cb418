"""Reading and writing particle stacks, maps and runs."""
