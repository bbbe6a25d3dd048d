"""The suite runs one process a core: threads beyond the cores get in each other's way, and spin while they wait.

Here and in every process that a test starts, a process has one thread, and those that a test asks for (numba's too)
sleep while they wait. Without this, small parallel regions take ten times the processor time of their work. Set before
anything loads torch, numba or a BLAS.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from rows import let_torchvision_load

let_torchvision_load()


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist would begin with the files of the most tests
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Files with long tests come first: begun last, they would be waited for by cores that have nothing to do."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)
