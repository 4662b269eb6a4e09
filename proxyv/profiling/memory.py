"""Peak memory of a prefill."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from proxyv.model.modeling import ProxyVForConditionalGeneration


@torch.no_grad()
def peak_memory(model: ProxyVForConditionalGeneration, inputs: dict[str, Any]) -> int:
    """Bytes of the model's own weights plus the most that one prefill (cache included) holds beside them.

    On CUDA the allocator's peak; other models on the device are left out. On the CPU, where the allocator keeps no
    such count, the most tensor memory alive at once; scratch space inside an operator is then not seen.
    """
    weights = [*model.parameters(), *model.buffers()]
    own = sum(tensor.nbytes for tensor in weights)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
        before = torch.cuda.memory_allocated(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
        model(**inputs, use_cache=True, logits_to_keep=1)
        torch.cuda.synchronize(model.device)
        return own + torch.cuda.max_memory_allocated(model.device) - before
    tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
    with LiveTensors([*weights, *tensors]) as live:
        model(**inputs, use_cache=True, logits_to_keep=1)
    return own + live.peak


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that operators return, for as long as each one's storage lives.

    `peak` is the largest sum so far; tensors in `known` and views of them cost nothing.
    """

    def __init__(self, known: Iterable[torch.Tensor]):
        super().__init__()
        self.bytes = self.peak = 0
        self.seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self.seen:
            return
        self.seen.add(storage)
        size = storage.nbytes()
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.bytes -= size
