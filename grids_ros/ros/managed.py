"""What the two lifecycle nodes share: parameters, diagnostics, transitions that say why they failed, and `main`."""

from __future__ import annotations

import gc
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from grids_ros import memory
from grids_ros.parameters import Parameter, ParameterError
from grids_ros.ros import parameters
from grids_ros.ros.diagnostics import ERROR, WARN, Diagnostics

STEADY = Clock(clock_type=ClockType.STEADY_TIME)
# Exit codes: a bug; a bad parameter or a missing library; `autostart` did not reach active.
FAILED, REFUSED, NOT_STARTED = 1, 2, 3
AUTOSTART_DELAY_S = 0.1
SIGNALLED_S = 0.2  # until a signal that has come has ended the context
_FAILURE = TransitionCallbackReturn.FAILURE


class ManagedNode(LifecycleNode):
    """A lifecycle node. Subclasses give `configure`, `activate`, `deactivate`, `cleanup` and `diagnostic_values`.

    `configure` and `activate` raise ValueError or OSError for what the user can put right: the message is logged
    as it is. Anything else is a bug and is logged with its traceback. Either way the transition fails.
    `settings` holds the parameters as of the last configure.
    """

    def __init__(self, name: str, table: Sequence[Parameter], **options):
        """Raises ParameterError; options go to rclpy's node."""
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **options)
        self._table = {parameter.name: parameter for parameter in table}
        parameters.declare(self, table)
        self.settings: Mapping[str, object] = {}
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.diagnostics = Diagnostics(self, self.diagnostic_values)
        self.exit_code = 0
        self.stuck = False  # after `close`: a thread of it does not end
        if self.get_parameter("autostart").value:
            self._autostart = self.create_timer(AUTOSTART_DELAY_S, self._start_up, clock=STEADY)

    def _start_up(self) -> None:
        """Configure and activate, or end the process.

        The node does this itself, because a request from outside is lost when its sender finds the service of a
        process that was killed a moment ago, which DDS still announces.
        """
        self.destroy_timer(self._autostart)
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                self.exit_code = NOT_STARTED
                self.context.try_shutdown()
                return
        self.get_logger().info(f"{self.get_name()} is active")  # the launch file waits for these words

    def configure(self) -> None:
        raise NotImplementedError

    def activate(self) -> None:
        raise NotImplementedError

    def deactivate(self) -> None:
        """Called when active, and only then. Must not raise."""
        raise NotImplementedError

    def cleanup(self) -> None:
        """Give everything back. Called after a failed `configure` as well. Must not raise."""
        raise NotImplementedError

    def change(self, name: str, value: object) -> None:
        """Take the new value of a live parameter, when configured. Raises ValueError for one that cannot be."""
        raise NotImplementedError

    def diagnostic_values(self) -> Mapping[str, object]:
        raise NotImplementedError

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        def transition():
            self.settings = parameters.read(self, tuple(self._table.values()))
            self.configure()

        if self._succeeds("configure", transition):
            self.diagnostics.update(WARN, "inactive")
            return TransitionCallbackReturn.SUCCESS
        self._clean()
        return _FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.SUCCESS if self._succeeds("activate", self.activate) else _FAILURE

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if not self._succeeds("deactivate", self.deactivate):
            return _FAILURE
        self.diagnostics.update(WARN, "inactive")
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        if not self._succeeds("cleanup", self._clean):
            return _FAILURE
        self.diagnostics.update(WARN, "unconfigured")
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        def transition():
            if state.label == "active":
                self.deactivate()
            self._clean()

        succeeded = self._succeeds("shutdown", transition)
        self.diagnostics.update(WARN, "shut down")
        return TransitionCallbackReturn.SUCCESS if succeeded else _FAILURE

    def _clean(self) -> None:
        self.settings = {}
        self.cleanup()

    def _succeeds(self, name: str, transition: Callable[[], None]) -> bool:
        """rclpy swallows what a transition raises: the cause is told here, or nowhere."""
        try:
            transition()
        except (ValueError, OSError) as error:
            message = f"{name} failed: {error}"
            self.get_logger().error(message)
        except Exception as error:  # noqa: BLE001 - the transition fails, with its cause in the log
            message = f"{name} failed: {type(error).__name__}: {error}"
            self.get_logger().error(f"{message}\n{traceback.format_exc()}")
        else:
            return True
        self.diagnostics.update(ERROR, message)
        return False

    def _on_set_parameters(self, changes: list) -> SetParametersResult:
        """All that are set at once are checked before the first is taken: what is refused changes nothing."""
        known = [change for change in changes if change.name in self._table]
        try:
            for change in known:
                parameter = self._table[change.name]
                if self.settings and not parameter.live:
                    raise ParameterError(
                        f"parameter '{change.name}' is read on configure: deactivate and clean up the node first"
                    )
                parameter.check(change.value)
            if self.settings:
                for change in known:
                    self.change(change.name, change.value)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def run(
    make_node: Callable[[], Node],
    args: Sequence[str] | None = None,
    refusals: tuple[type[Exception], ...] = (ParameterError,),
) -> int:
    """Spin the node until the process is asked to end; the exit code. The node's `close` is called at the end.

    refusals: what `make_node` raises for a cause that the user can put right; its message is all that is printed.
    """
    memory.reuse()
    rclpy.init(args=args)
    try:
        node = make_node()
    except refusals as error:
        rclpy.logging.get_logger("grids_ros").fatal(str(error))
        rclpy.try_shutdown()
        return REFUSED
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:  # a signal cuts off whatever calls rclpy, and ends the context at once or a moment later
        time.sleep(SIGNALLED_S)
        if rclpy.ok():
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # ctrl-C reaches a launched node twice: once from the terminal
            signal.signal(number, signal.SIG_IGN)
        node.close()
        if getattr(node, "stuck", False):
            os._exit(FAILED)  # what an exit in order would wait for may never come
        executor.remove_node(node)
        node.destroy_node()
        code = getattr(node, "exit_code", 0)
        del node, executor
        gc.collect()  # frees the DDS participant here and now: left to the process's exit handlers, it can hang there
        rclpy.try_shutdown()
    return code
