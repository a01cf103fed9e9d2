"""How a script works: flags, processes, the run, losses, files, errors, checkpoints, cost."""
