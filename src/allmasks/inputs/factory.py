"""A model from the function that builds it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from allmasks.inputs.paths import existing, first_line

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_model"]


def load_model(spec: str) -> nn.Module:
    """The module that a factory returns, from "FILE.py:FACTORY".

    The file is imported by its path under a private name; modules beside it can be imported while it loads and
    while the factory runs. `sys.path` is afterwards as before.

    Raises
    ------
    ValueError : no such form, no such name, the file or the factory raises.
    TypeError : the name is not callable, or what it returns is no nn.Module.
    OSError : no such file.
    """
    path, colon, factory_name = spec.rpartition(":")
    if not colon or not path or not factory_name:
        raise ValueError(
            f"--model must be FILE.py:FACTORY, a file and the function that builds the model, got {spec!r}"
        )
    file = existing(path, "--model").resolve()
    name = "_allmasks_user_" + hashlib.sha256(str(file).encode()).hexdigest()[:16]
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise ValueError(f"--model {path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(found)
    before = sys.path.copy()
    sys.path.insert(0, str(file.parent))
    # Dataclasses and pickles look their module up by name; it stays there for the model's lifetime.
    sys.modules[name] = module
    try:
        try:
            found.loader.exec_module(module)
        except (Exception, SystemExit) as problem:
            sys.modules.pop(name, None)
            raise ValueError(f"--model {path} cannot be imported: {first_line(problem)}") from problem
        if not hasattr(module, factory_name):
            public = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
            defined = [n for n in public if getattr(vars(module)[n], "__module__", None) == name]
            hint = f"; it defines {', '.join(defined)}" if defined else ""
            raise ValueError(f"--model {path} has no name {factory_name!r}{hint}")
        factory = getattr(module, factory_name)
        if not callable(factory):
            raise TypeError(
                f"--model {spec}: {factory_name} must be a function that returns an nn.Module, "
                f"got {type(factory).__name__}"
            )
        return _build(factory, spec)
    finally:
        sys.path[:] = before


def _build(factory: Any, spec: str) -> nn.Module:
    from torch import nn

    if isinstance(factory, nn.Module):
        return factory
    try:
        model = factory()
    except (Exception, SystemExit) as problem:
        raise ValueError(f"--model {spec}: the factory raised {first_line(problem)}") from problem
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(
            f"--model {spec}: the factory returned the class {model.__name__}; return an instance, {model.__name__}(…)"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"--model {spec}: the factory must return an nn.Module, it returned {type(model).__name__}")
    return model
