"""The command line: what it reads and writes passes through the store, like everything else."""
