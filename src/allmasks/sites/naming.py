"""Stable names of calls: the path of the module that makes them, and how often it has made them in this pass."""

from __future__ import annotations

import linecache
import re
import sys
from collections import Counter
from types import FrameType

from torch import nn

from allmasks.sites.sharding import known_path

__all__ = ["ROOT", "Namer", "modules_at", "parent_of", "path_of", "precedes"]

ROOT = "(root)"
"""What the model itself is called, whose own path is empty."""

_CALL = nn.Module._call_impl.__code__
_CHECKPOINT_FILE = "torch/utils/checkpoint.py"

_ASSIGNED = re.compile(r"^\s*(?:self\.)?([A-Za-z_]\w*)\s*(?::[^=]+)?=(?!=)")

_OWN_OP = (
    nn.modules.dropout._DropoutNd,
    nn.MultiheadAttention,
    nn.RNNBase,
)
"""Modules that are the dropout: the operation adds nothing to their name."""


def path_of(name: str) -> str:
    """The module path in a call's name.

    >>> path_of("encoder.1:dropout#2"), path_of("(root):dropout")
    ('encoder.1', '(root)')
    """
    return name.partition("#")[0].partition(":")[0]


def parent_of(path: str) -> str | None:
    """The module that holds a module, or None for the model itself.

    >>> parent_of("encoder.1"), parent_of("encoder"), parent_of("(root)")
    ('encoder', '(root)', None)
    """
    if path == ROOT:
        return None
    return path.rpartition(".")[0] or ROOT


def modules_at(model: nn.Module, path: str) -> list[nn.Module]:
    """The module of this path after the wrappers around it, outermost first."""
    wanted = "" if path == ROOT else path
    return [module for full, module in model.named_modules() if known_path(full) == wanted]


def precedes(model: nn.Module, name: str) -> str | None:
    """The class of the module before a call's in its Sequential, "" if it is the model's first, or None.

    >>> net = nn.Sequential(nn.Dropout(), nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Dropout()))
    >>> precedes(net, "0"), precedes(net, "2.1"), precedes(net, "2.0")
    ('', 'ReLU', 'Linear')
    """
    path = path_of(name)
    parent = parent_of(path)
    found = modules_at(model, parent)[-1:] if parent is not None else []
    if not found or not isinstance(found[0], nn.Sequential):
        return None
    siblings = list(found[0].named_children())
    names = [child for child, _ in siblings]
    at = names.index(own) if (own := path.rpartition(".")[2]) in names else 0
    if at:
        return type(siblings[at - 1][1]).__name__
    return "" if parent == ROOT else precedes(model, str(parent))


class Namer:
    """Names for the calls of one forward pass.

    Frames are walked up to the module whose `__call__` is running: no hook is registered, so nothing is left
    behind, and a call made inside a compiled or checkpointed part is found as well.
    """

    def __init__(self, model: nn.Module) -> None:
        self._paths = {id(module): known_path(path) for path, module in model.named_modules()}
        self._made: Counter[str] = Counter()
        self.in_checkpoint = False

    def path(self) -> tuple[str, nn.Module | None]:
        """Path and module of the innermost module call that belongs to the model."""
        frame: FrameType | None = sys._getframe(1)
        self.in_checkpoint = False
        found: tuple[str, nn.Module | None] | None = None
        while frame is not None:
            if frame.f_code is _CALL and found is None:
                module = frame.f_locals.get("self")
                path = self._paths.get(id(module))
                if path is not None:
                    found = (path or ROOT, module)
            elif frame.f_code.co_filename.endswith(_CHECKPOINT_FILE):
                self.in_checkpoint = True
            frame = frame.f_back
        return found or (ROOT, None)

    def values(self) -> tuple[str, ...]:
        """What the call being made goes to, in the functions on its way from its module: "mask", in `mask = draw()`."""
        frame: FrameType | None = sys._getframe(1)
        found: list[str] = []
        while frame is not None and not (frame.f_code is _CALL and id(frame.f_locals.get("self")) in self._paths):
            home = frame.f_globals.get("__name__", "")
            if home not in ("random", "secrets") and not home.startswith(("torch.", "allmasks.", "numpy.")):
                line = linecache.getline(frame.f_code.co_filename, frame.f_lineno, frame.f_globals)
                found += _ASSIGNED.findall(line)
            frame = frame.f_back
        return tuple(found) if frame is not None else ()

    def name(self, op: str) -> str:
        """The name of the call being made: path, ":op" where the module is more than that, "#k" from the second on.

        A registered module's own call has no op.
        """
        return self.named(*self.path(), op)

    def named(self, path: str, module: nn.Module | None, op: str) -> str:
        """The name of the next call of this operation by the module of that path."""
        return self.count(path if not op or isinstance(module, _OWN_OP) else f"{path}:{op}")

    def count(self, base: str) -> str:
        """The name of the next call of those that this name begins, which is counted as made."""
        name = self.coming(base)
        self._made[base] += 1
        return name

    def coming(self, base: str) -> str:
        """The name that the next of these calls will have."""
        k = self._made[base] + 1
        return base if k == 1 else f"{base}#{k}"
