"""What cannot be imported here is not collected for its doctests: Triton comes with CUDA builds of PyTorch only."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["src/allmasks/kernels/gpu.py"]
