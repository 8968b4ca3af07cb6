"""A small serving engine with real kernels, driven by the simulator's scheduler and KV cache."""
