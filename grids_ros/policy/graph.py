"""CUDA graphs: one launch for a whole inference, instead of thousands of small ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor

WARM_UPS = 3  # calls before recording: libraries choose kernels and take their workspaces
Inputs = tuple[Tensor | None, ...]
Outputs = tuple[Tensor | None, ...]


class Capture(Protocol):
    """Records one call of a function of tensors.

    Returns what repeats it on whatever the inputs hold by then, and the outputs, which each repetition overwrites.
    """

    def __call__(self, function: Callable[..., Outputs], inputs: Inputs) -> tuple[Callable[[], None], Outputs]: ...


class CudaCapture:
    """CUDA graphs of one device, in one memory pool, captured on one stream.

    The pool is shared: what a graph returned is valid until another one is replayed.
    """

    def __init__(self, device: torch.device):
        self._device = device
        with torch.cuda.device(device):
            self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[..., Outputs], inputs: Inputs) -> tuple[Callable[[], None], Outputs]:
        with torch.cuda.device(self._device):  # capture is on the current device, wherever the kernels run
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    function(*inputs)
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # thread_local: another thread may allocate meanwhile
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                outputs = function(*inputs)
        return lambda: self._replay(graph), outputs

    def _replay(self, graph: torch.cuda.CUDAGraph) -> None:
        with torch.cuda.device(self._device):
            graph.replay()


class Recordings:
    """A function of tensors, recorded for some combinations of input shapes.

    The function returns tensors or None, and must neither wait for the device nor bring tensors onto it.
    """

    def __init__(self):
        self._recorded: dict[Hashable, tuple[Callable[[], None], Inputs, Outputs]] = {}

    def __len__(self) -> int:
        return len(self._recorded)

    def holds(self, meaning: Hashable, inputs: Inputs) -> bool:
        """Whether `replay` can serve these inputs."""
        return (meaning, _shapes(inputs)) in self._recorded

    def record(self, meaning: Hashable, capture: Capture, function: Callable[..., Outputs], inputs: Inputs) -> None:
        """Record the function for inputs of these shapes. meaning: whatever else the recording depends on."""
        own = tuple(None if tensor is None else tensor.clone() for tensor in inputs)
        self._recorded[meaning, _shapes(inputs)] = (*capture(function, own), own)

    def replay(self, meaning: Hashable, inputs: Inputs) -> Outputs:
        """The function's outputs for these inputs. Raises KeyError where nothing was recorded."""
        again, outputs, own = self._recorded[meaning, _shapes(inputs)]
        for static, tensor in zip(own, inputs, strict=True):
            if static is not None and tensor is not None:
                static.copy_(tensor, non_blocking=True)
        again()
        return tuple(None if tensor is None else tensor.clone() for tensor in outputs)

    def clear(self) -> None:
        """Forget all recordings."""
        self._recorded.clear()


def _shapes(inputs: Inputs) -> Hashable:
    return tuple(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in inputs)
