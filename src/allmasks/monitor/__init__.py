"""What dropout does while a model trains: a monitor for plain loops, and callbacks for Lightning and Transformers.

`reading` measures, once; each other file is a thin joint from that to one way of training. `lightning` and
`huggingface` are imported by their users alone, with the framework they need.
"""

from allmasks.monitor.loop import Monitor
from allmasks.monitor.reading import Reading, SiteShare, read

__all__ = ["Monitor", "Reading", "SiteShare", "read"]
