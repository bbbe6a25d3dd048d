"""Mask bits of fixed keys, against which another language, device or version can be held."""

from __future__ import annotations

from typing import Any

from allmasks.kernels import reference

__all__ = ["known_vectors"]

_CASES = (
    (0, "drop", 0, 0, 0.5),
    (0, "drop", 1, 7, 0.5),
    (1, "encoder.0:dropout", 0, 0, 0.1),
    (2**64 - 1, "2", 3, 2**32 - 1, 0.3),
)


def known_vectors() -> list[dict[str, Any]]:
    """Key, first four words in hexadecimal and first 32 bits (1 = kept) of some (seed, site, mask, example, p).

    >>> known_vectors()[0]["bits"]
    '10100101100111011001101010100011'
    """
    rows = []
    for seed, site, mask, example, p in _CASES:
        key = reference.derive_key(seed, reference.site_id(site), mask)
        words = reference.words(key, [example], 32)[0]
        kept = words < reference.keep_threshold(1.0 - p)
        rows.append(
            {
                "seed": str(seed),
                "site": site,
                "mask": mask,
                "example": example,
                "p": p,
                "key": f"{key[0]:08x}{key[1]:08x}",
                "words": " ".join(f"{int(word):08x}" for word in words[:4]),
                "bits": "".join("1" if bit else "0" for bit in kept),
            }
        )
    return rows
