"""CUDA graphs: one launch for a whole inference, instead of thousands of small ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 3  # calls before recording: libraries choose kernels and take their workspaces


class Graphs:
    """A function of tensors, recorded once for each combination of input shapes, and replayed from then on.

    The function returns tensors or None, and must neither wait for the device nor bring tensors onto it. What it
    returned is overwritten by its next call with the same shapes.
    """

    def __init__(self, function: Callable):
        self._function, self._recorded = function, {}

    def __call__(self, *inputs: Tensor | None):
        key = tuple(None if tensor is None else tensor.shape for tensor in inputs)
        if key not in self._recorded:
            self._recorded[key] = self._record(inputs)
        graph, own, outputs = self._recorded[key]
        for static, tensor in zip(own, inputs, strict=True):
            if tensor is not None:
                static.copy_(tensor, non_blocking=True)
        graph.replay()
        return outputs

    def _record(self, inputs: tuple[Tensor | None, ...]):
        own = [None if tensor is None else tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._function(*own)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(*own)
        return graph, own, outputs
