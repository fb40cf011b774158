"""Root without what lets it write where its own permissions say that nobody may."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 0x20080522
OVERRIDING = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
Words = ctypes.c_uint32 * 6  # effective, permitted, inheritable; then the same for higher numbers


@contextmanager
def none_to_override() -> Iterator[None]:
    """Have this thread, and those that it starts, obey permissions meanwhile, root or not."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = (ctypes.c_uint32 * 2)(VERSION, 0), Words()
    assert libc.capget(header, held) == 0
    less = Words(*held)
    less[0] &= ~OVERRIDING
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0
