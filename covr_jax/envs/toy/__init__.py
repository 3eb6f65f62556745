"""A small driving world in NumPy, for the scenarios of ``covr_jax.envs.driving`` where no simulator runs."""
