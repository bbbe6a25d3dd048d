"""The claims, one file each: every module here whose name begins with "c" and a number."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from allmasks.evidence.claim import Claim

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = tuple(
    sorted(
        (
            import_module(f"{__name__}.{module.name}").CLAIM
            for module in iter_modules(__path__)
            if module.name[0] == "c"
        ),
        key=lambda claim: claim.number,
    )
)
"""In the order of their numbers."""
