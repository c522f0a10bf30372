"""Memory of a training step on a CPU, kept for the next step.

The C library returns large blocks to the system as soon as they are free, and the system hands them out again one page at a
time, each filled with zeros. A step claims the same activations and logits as the one before, so on a CPU it pays for that
every time: 2 to 10 % of a step in float32, more on a busy host. Packs of one length take no more at their peak for keeping it;
where steps differ, or rows have 8,000 tokens, up to a fifth more, which no step adds to once the longest batch has come.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Numbers of mallopt's parameters, from glibc's malloc.h."""
KEEP_ALL = -1
MIB = 1 << 20
LARGEST_KEPT = 1024 * MIB
"""Blocks above this are still taken from the system one by one, so that a few giants leave no giant holes. Gradients of embeddings
and logits are smaller."""
GLIBC_REACHES = 32 * MIB
"""What glibc's own threshold for that grows to, in a program that uses large blocks; it then trims at twice as much."""


@contextmanager
def keeping(environment: Mapping[str, str] = os.environ) -> Iterator[bool]:
    """Keep freed memory in this process for the block, and return it afterwards; yields whether the C library does so.

    Only glibc is told. A user who has set its allocator by the environment (MALLOC_..., GLIBC_TUNABLES) is not overruled. See
    mallopt(3) and malloc_trim(3).
    """
    if not _is_glibc() or _is_set_by(environment):
        yield False
        return
    library = ctypes.CDLL(None)
    settings = ((MMAP_THRESHOLD, LARGEST_KEPT), (TRIM_THRESHOLD, KEEP_ALL), (TOP_PAD, 64 * MIB))
    try:
        taken = [library.mallopt(name, value) for name, value in settings]
        yield all(taken)
    finally:
        for name, value in ((MMAP_THRESHOLD, GLIBC_REACHES), (TRIM_THRESHOLD, 2 * GLIBC_REACHES), (TOP_PAD, MIB)):
            library.mallopt(name, value)
        library.malloc_trim(0)


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError, OSError):
        return False


def _is_set_by(environment: Mapping[str, str]) -> bool:
    return any(name.startswith("MALLOC_") for name in environment) or "glibc.malloc" in environment.get("GLIBC_TUNABLES", "")
