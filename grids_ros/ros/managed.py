"""What the two lifecycle nodes share: parameters, diagnostics, transitions that say why they failed, and `main`."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock as ClockMessage

from grids_ros import memory
from grids_ros.parameters import ParameterError, table
from grids_ros.ros import parameters
from grids_ros.ros.clock import ClockWatch
from grids_ros.ros.compat import GuardedLifecycleNode
from grids_ros.ros.diagnostics import ERROR, WARN, Diagnostics
from grids_ros.ros.output import never_wait_for_readers
from grids_ros.ros.shutdown import ShutdownRequest, end_with

STEADY = Clock(clock_type=ClockType.STEADY_TIME)
# Exit codes: a bug; a bad parameter or argument, or a missing library; `autostart` did not reach active.
FAILED, REFUSED, NOT_STARTED = 1, 2, 3
AUTOSTART_DELAY_S = 0.1
POLL_S = 0.05  # a signal is answered after at most so long
REPORT_S = 5.0  # between two tracebacks of callbacks that raise
_FAILURE = TransitionCallbackReturn.FAILURE


class ManagedNode(GuardedLifecycleNode):
    """A lifecycle node. Subclasses give `configure`, `activate`, `deactivate`, `cleanup` and `diagnostic_values`.

    `configure` and `activate` raise ValueError or OSError for what the user can put right: the message is logged
    as it is. Anything else is a bug and is logged with its traceback. Either way the transition fails.
    `settings` holds the parameters as of the last configure, and is None before it.
    """

    goes_on_when_suspended = False  # see `suspend`

    def __init__(self, name: str, of: type, **options):
        """of: the dataclass of its parameters. Raises ParameterError; options go to rclpy's node."""
        self.clock_watch = ClockWatch()
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **options)
        self._parameters_of = of
        self._table = {parameter.name: parameter for parameter in table(of)}
        parameters.declare(self, of)
        self.settings: Any = None
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.diagnostics = Diagnostics(self, self.diagnostic_values)
        self.exit_code = 0  # another, set by any thread, ends the process: `run` looks at it
        self.stuck = False  # after `close`: a thread of it does not end
        if self.get_parameter("autostart").value:
            self._autostart = self.create_timer(AUTOSTART_DELAY_S, self._start_up, clock=STEADY)

    def create_subscription(self, msg_type, topic, callback, *args, **options):
        """As rclpy's, which subscribes to /clock by it."""
        if msg_type is ClockMessage:
            callback = self.clock_watch.checked(callback)
        return super().create_subscription(msg_type, topic, callback, *args, **options)

    def _start_up(self) -> None:
        """Configure and activate, or end the process.

        The node does this itself, because a request from outside is lost when its sender finds the service of a
        process that was killed a moment ago, which DDS still announces.
        """
        self.destroy_timer(self._autostart)
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                self.exit_code = NOT_STARTED
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

    def change(self, values: Mapping[str, object]) -> None:
        """Take new values of live parameters, when configured; all or none. Raises ValueError for what cannot be."""
        raise NotImplementedError

    def suspend(self, suspended: bool) -> None:
        """Ctrl-Z, and later `fg`, for a node that goes on."""
        raise NotImplementedError

    def diagnostic_values(self) -> Mapping[str, object]:
        raise NotImplementedError

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        def transition():
            self.settings = parameters.read(self, self._parameters_of)
            self.configure()

        before = self._entities()
        if self._succeeds("configure", transition):
            self.diagnostics.update(WARN, "inactive")
            return TransitionCallbackReturn.SUCCESS
        self._clean()
        self._destroy(self._entities() - before)
        return _FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        before = self._entities()
        if self._succeeds("activate", self.activate):
            return TransitionCallbackReturn.SUCCESS
        self._destroy(self._entities() - before)
        return _FAILURE

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
        self.settings = None
        self.cleanup()

    def _entities(self) -> set[Any]:
        """What the node has in the graph, and its timers."""
        return {*self.publishers, *self.subscriptions, *self.clients, *self.timers}

    def _destroy(self, entities: set[Any]) -> None:
        """What a transition had made before it failed: a publisher that stayed would count as a second node's."""
        for entity in entities:
            destroy = (self.destroy_publisher, self.destroy_subscription, self.destroy_client, self.destroy_timer)
            next(filter(None, (one(entity) for one in destroy)), None)

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
            if self.settings and any(change.name == "use_sim_time" for change in changes):
                raise ParameterError("use_sim_time cannot change while the node is configured: clean it up first")
            for change in known:
                parameter = self._table[change.name]
                if self.settings and not parameter.live:
                    raise ParameterError(
                        f"parameter '{change.name}' is read on configure: deactivate and clean up the node first"
                    )
                parameter.check(change.value)
            if self.settings and known:
                self.change({change.name: change.value for change in known})
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def run(
    make_node: Callable[[], Any],
    args: list[str] | None = None,
    refusals: tuple[type[Exception], ...] = (ParameterError,),
) -> int:
    """Spin the node until the process is asked to end; the exit code. The node's `close` is called at the end.

    A node that `goes_on_when_suspended` is told of Ctrl-Z and of `fg`, in place of being stopped.

    refusals: what `make_node` raises for a cause that the user can put right; its message is all that is printed.
    """
    memory.reuse()
    never_wait_for_readers()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # of rcl: an argument that it cannot read, a folder for logs that it cannot write
        print(f"cannot start: {_without_places(error)}", file=sys.stderr)
        return REFUSED
    end = ShutdownRequest()
    end.install()
    try:
        node = make_node()
        if node.has_parameter("parent_pid") and node.get_parameter("parent_pid").value:
            end_with(node.get_parameter("parent_pid").value)
    except refusals as error:
        rclpy.logging.get_logger("grids_ros").fatal(str(error))
        rclpy.try_shutdown()
        return REFUSED
    except KeyboardInterrupt:
        rclpy.try_shutdown()
        return 0
    if getattr(node, "goes_on_when_suspended", False):
        end.watch_suspension()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        _spin(executor, node, end)
    finally:
        end.ignore()
        node.close()
        if getattr(node, "stuck", False):
            os._exit(FAILED)  # what an exit in order would wait for may never come
        executor.remove_node(node)
        executor.shutdown(timeout_sec=0.0)
        node.destroy_node()
        code = getattr(node, "exit_code", 0)
        # Frees the DDS participant here and now: left to the exit handlers it can hang there, and a garbage collection
        # would look through all of PyTorch's objects.
        vars(node).clear()
        rclpy.try_shutdown()
    return code


def _without_places(error: RuntimeError) -> str:
    """What rcl says, without the lines of its sources."""
    return re.sub(r",? at \S+:\d+", "", " ".join(str(error).split()))


def _spin(executor: SingleThreadedExecutor, node: Node, end: ShutdownRequest) -> None:
    """Run callbacks until the process is asked to end.

    A callback that raises costs its message, not the process: whatever comes in, an arm must not lose its stream.
    rclpy itself raises here, for requests and parameters that it cannot read. Beside the control loop's tick this is
    the one place where an error that nobody expected does not end the work.
    """
    suspended = False
    while node.context.ok() and not end.requested and not getattr(node, "exit_code", 0):
        try:
            if end.suspended != suspended and isinstance(node, ManagedNode):
                suspended = end.suspended
                node.suspend(suspended)
            executor.spin_once(timeout_sec=POLL_S)
        except (KeyboardInterrupt, ExternalShutdownException):
            return
        except Exception as error:  # noqa: BLE001 - reported; see above
            if not node.context.ok():
                return
            message = f"a callback failed: {type(error).__name__}: {error}"
            node.get_logger().error(f"{message}\n{traceback.format_exc()}", throttle_duration_sec=REPORT_S)
            if isinstance(node, ManagedNode):
                node.diagnostics.update(ERROR, message)
