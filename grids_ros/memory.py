"""What a process does with the memory of images that it is done with."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc
LARGEST = 32 * 2**20  # bytes of an image or of a bag's chunk; what glibc takes at most
KEPT = 2**28  # bytes that were freed and stay with the process


def reuse() -> None:
    """Let freed memory of large messages serve the next ones.

    By default glibc gives it back to the kernel, which then has to clear pages for every image anew: most of the time
    that one takes from the driver to the policy, and of the time that a compressed bag takes to be read. Elsewhere
    than on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGEST)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
