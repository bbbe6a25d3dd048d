"""For every test: hypothesis without a deadline, and nothing collected that cannot be imported here."""

from importlib.util import find_spec

from hypothesis import settings

# Compiled kernels are loaded, or compiled, at their first use, which then takes seconds and later ones a millisecond.
settings.register_profile("allmasks", deadline=None)
settings.load_profile("allmasks")

# Triton comes with CUDA builds of PyTorch only.
collect_ignore = [] if find_spec("triton") else ["src/allmasks/kernels/gpu.py"]
