"""The scenes of ``covr_jax.envs.driving`` in the CARLA simulator, over its Python client (docs/carla.md)."""
