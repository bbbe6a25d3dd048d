"""One thread a process, here and in every process that a test starts: the suite runs one process a core.

Threads beyond the cores spin while they wait for each other, which takes ten times the processor time of the work.
Set before anything loads torch or a BLAS. A test of threads sets the number it wants.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
