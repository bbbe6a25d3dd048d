"""The methods, as values: what is passed as `method=`. Their fields override the call's keywords.

One file a method: a file put into this folder is found and its method listed in `METHODS`, which all that chooses,
plans, refuses or tests goes through.
"""

from __future__ import annotations

import importlib
import pkgutil

from allmasks.methods.base import Method
from allmasks.methods.closed_form import ClosedForm
from allmasks.methods.delta import Delta
from allmasks.methods.enumeration import Enumeration
from allmasks.methods.fourier import Fourier
from allmasks.methods.gaussian_moments import GaussianMoments
from allmasks.methods.monte_carlo import MonteCarlo
from allmasks.methods.softmax_bounds import SoftmaxBounds

__all__ = [
    "ClosedForm",
    "Delta",
    "Enumeration",
    "Fourier",
    "GaussianMoments",
    "Method",
    "MonteCarlo",
    "SoftmaxBounds",
]


def _found() -> list[type[Method]]:
    """Methods of this folder that nobody has named above."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    own = {n: v for module in modules for n, v in vars(module).items() if n in getattr(module, "__all__", (n,))}
    new = {n: v for n, v in own.items() if isinstance(v, type) and n not in __all__ and not n.startswith("_")}
    methods = {n: v for n, v in new.items() if issubclass(v, Method)}
    globals().update(methods)
    return list(methods.values())


METHODS: tuple[Method, ...] = tuple(
    kind() for kind in (ClosedForm, Fourier, SoftmaxBounds, GaussianMoments, Delta, Enumeration, MonteCarlo, *_found())
)
"""Every method with its default settings, in the order in which plans list them."""
