"""A small serving engine with real kernels, driven by the simulator's scheduler and KV cache."""

import os

# oneDNN, which multiplies on CPUs, makes code for each number of rows and keeps 1,024 of them:
# fewer than an engine meets. It reads this when torch first asks for it.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
