"""Load and speed: benchmarks with their conditions, against something run beside them."""
