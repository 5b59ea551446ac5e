"""Limits of tests that pytest and pytest-timeout leave out."""

import faulthandler
import signal

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

TEARDOWN_S = 600.0


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """A run that is ended from outside shows what it was doing."""
    faulthandler.register(signal.SIGTERM, file=config.stash[fault_handler_stderr_fd_key], chain=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
    """pytest cancels its limits as soon as a test fails; the teardown gets one of its own."""
    faulthandler.dump_traceback_later(TEARDOWN_S, exit=True, file=item.config.stash[fault_handler_stderr_fd_key])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
