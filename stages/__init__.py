"""The container side: one module per stage, run as `python -m stages.NAME`, on Python 3.7 and up."""

import os

# A stage spreads its work over the cores itself. OpenBLAS reads this when it is loaded, with NumPy or with PyTorch; the
# one in PyTorch's wheel for arm64 warns that it may hang where it starts threads within PyTorch's own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
