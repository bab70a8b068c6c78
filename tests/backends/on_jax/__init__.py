"""What is JAX's own: transformations, closures, compilation, float32 time."""
