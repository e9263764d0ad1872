"""What `got evaluate` measures: one module a suite."""
