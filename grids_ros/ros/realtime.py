"""Real-time scheduling and locked memory for a process that must keep time, as far as the user's limits allow.

The limits are set in /etc/security/limits.d, as for any ros2_control robot: `rtprio` and `memlock`. Without them
everything works, and a busy machine is felt.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

PRIORITY = 40  # of SCHED_FIFO, 1 to 99: below the arm's own controllers, which by convention run at 50 and above
SWITCH_S = 1e-4  # how long a Python thread may keep another one waiting [s]; 5 ms by default
KEPT_BYTES = 256 * 2**20  # of freed memory, at most
_LARGE_BYTES = 32 * 2**20  # glibc allows no more
_LIBC = ctypes.CDLL(None, use_errno=True)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # Linux; on fault: not the untouched part of every thread's stack


def enter() -> str:
    """Make this process real-time; to be called before threads are started, which inherit it.

    Returns what was reached, and what each limit must be where it was not.
    """
    sys.setswitchinterval(SWITCH_S)
    keep_memory()
    return f"{_schedule()}; {_lock_memory()}"


def keep_memory() -> None:
    """Let this process keep the memory that it frees, up to KEPT_BYTES.

    By default glibc returns every large piece, such as an image, and the next one costs a page fault for every
    4 kB: more than half of the time in which rclpy takes a 640x480 image out of its message.
    """
    if not (_LIBC.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES) and _LIBC.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)):
        raise OSError("mallopt refused to keep freed memory")


def _schedule() -> str:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError as error:
        return f"not scheduled as real-time ({error.strerror}): set rtprio {PRIORITY} in /etc/security/limits.d"
    return f"SCHED_FIFO {PRIORITY}"


def _lock_memory() -> str:
    advice = "set memlock unlimited in /etc/security/limits.d"
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not unlimited and os.geteuid() != 0:  # within a limit it would succeed, and a later allocation fail
        return f"memory not locked (its size is limited): {advice}"
    if _LIBC.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"memory not locked ({os.strerror(ctypes.get_errno())}): {advice}"
    return "memory locked"
