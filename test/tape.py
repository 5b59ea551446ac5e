"""What a CUDA graph does, on a CPU: the operations of one call are repeated, and nothing else is.

Python ran once, when it was recorded. A number that it read from a tensor, a tensor that it made from a number, and a
choice that it took are in the recording for good; only the inputs' memory is read anew.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grids_ros.policy.runner import Backend
from grids_ros.policy.towers import EAGER

WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")
EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Tape(TorchDispatchMode):
    """Keeps every operation with the tensors that it took and gave."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        if name in WAITS:
            raise RuntimeError(f"{name} waits for the device: no CUDA graph can hold it")
        with self:  # inference mode dispatches composites as they are, among them views that copy
            result = function.decompose(*arguments, **(options or {}))
        if result is not NotImplemented:
            return result
        result = function(*arguments, **(options or {}))
        returned = [value.alias_info for value in function._schema.returns]
        if name not in EMPTY and not any(alias is not None and not alias.is_write for alias in returned):
            self.operations.append((function, arguments, options or {}, result))
        return result

    def replay(self) -> None:
        for function, arguments, options, result in self.operations:
            again = function(*arguments, **options)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)


def capture(function, inputs):
    """As `graph.Capture`."""
    with Tape() as tape:
        outputs = function(*inputs)
    return tape.replay, outputs


def backend(record=capture) -> Backend:
    return Backend("taped", lambda: EAGER, record)
