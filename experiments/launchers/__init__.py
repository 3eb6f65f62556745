"""Where the trials of a sweep run: on this machine (``local``), by Slurm (``slurm``), on several by Ray (``ray``)."""
