"""Where the trials of a sweep run: on this machine (``local``) or on a cluster (``slurm``)."""
