"""One timed pass of a model: untouched from prompt to last new token, or the prefill alone, split into its parts.

The clock is the host's, read after the device has finished all work that was sent to it: what a user waits for, with
the time that Python takes to send it. The untouched pass waits three times: before it, after the prefill, at the end.

The split pass waits at every border between parts, so host and device no longer overlap there, and its parts add up to
a little more than the untouched prefill. It shows where the time goes; how long a prefill takes is what the
untouched pass says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import nn

from proxyv.model.layout import Layout
from proxyv.model.method import Method, Plan, Prompt, Selection, VisionTokens
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.model.vision import TowerView
from proxyv.results.bench import TimeName

TIMES: tuple[TimeName, ...] = ("prefill_ms", "decode_ms_per_token", "end_to_end_ms")
# In order: the pass over the crops; the projector; the method's hooks before the LLM, and its ranking inside the
# layers; the decoder layers without that; the rest (layout, embeddings, masks, head).
PARTS = ("tower", "projector", "selection", "llm", "other")

Clock = Callable[[], float]


def device_clock(device: torch.device) -> Clock:
    """Milliseconds at the moment when the device has finished all work that was sent to it."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() * 1e3

    return now


@torch.no_grad()
def timed_pass(model: ProxyVForConditionalGeneration, inputs: dict[str, Any], new_tokens: int) -> dict[str, float]:
    """Prefill, then greedy decoding of `new_tokens` tokens with the cache: milliseconds by name, see `CellTimes`."""
    clock = device_clock(model.device)
    start = clock()
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    prefill = clock()
    for _ in range(new_tokens):
        token = output.logits[:, -1:].argmax(-1)
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
    end = clock()
    return {
        "prefill_ms": prefill - start,
        "decode_ms_per_token": (end - prefill) / new_tokens,
        "end_to_end_ms": end - start,
    }


@torch.no_grad()
def split_pass(model: ProxyVForConditionalGeneration, inputs: dict[str, Any]) -> dict[str, float]:
    """One prefill, in milliseconds by part: `<part>_ms` for each of `PARTS`; together they are the whole pass."""
    method = model.method
    watch = Stopwatch(device_clock(model.device))
    with ExitStack() as hooks:
        parts: dict[str, list[nn.Module]] = {
            "tower": [model.vision_tower],
            "projector": [model.projector],
            "llm": [model.get_decoder()],
            "selection": [module for module in model.modules() if isinstance(module, Selection)],
        }
        for part, modules in parts.items():
            for module in modules:
                hooks.enter_context(module.register_forward_pre_hook(lambda *_, part=part: watch.enter(part)))
                hooks.enter_context(module.register_forward_hook(lambda *_: watch.leave()))
        try:
            model.method = cast(Method, TimedMethod(method, watch))
            watch.start()
            model(**inputs, use_cache=True, logits_to_keep=1)
            watch.stop()
        finally:
            model.method = method
    return {f"{part}_ms": watch.times[part] for part in PARTS}


class Stopwatch:
    """Time by part, in milliseconds.

    Time in a part that runs within another counts for the inner part alone. Only what runs within a selection all
    counts as selection, even a pass of the LLM over the question.
    """

    def __init__(self, clock: Clock):
        self.clock = clock
        self.times = dict.fromkeys(PARTS, 0.0)
        self.open: list[str] = []
        self.last = 0.0

    def start(self) -> None:
        """From here on time counts for "other", until a part is entered."""
        self.open, self.last = ["other"], self.clock()

    def stop(self) -> None:
        """The end; every part must have been left."""
        self.leave()

    def enter(self, part: str) -> None:
        """What runs from here on belongs to `part`."""
        self._note()
        self.open.append("selection" if self.open[-1] == "selection" else part)

    def leave(self) -> None:
        """The part that was entered last ends."""
        self._note()
        self.open.pop()

    def _note(self) -> None:
        now = self.clock()
        self.times[self.open[-1]] += now - self.last
        self.last = now


class TimedMethod:
    """A method whose work before the LLM is timed; in all else it is the inner one."""

    def __init__(self, inner: Method, watch: Stopwatch):
        self.inner, self.watch = inner, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def select(self, model: ProxyVForConditionalGeneration, view: TowerView, prompt: Prompt) -> VisionTokens:
        """See `Method.select`."""
        return self._timed(self.inner.select, model, view, prompt)

    def merge(self, model: ProxyVForConditionalGeneration, vision: VisionTokens, prompt: Prompt) -> VisionTokens:
        """See `Method.merge`."""
        return self._timed(self.inner.merge, model, vision, prompt)

    def plan(self, model: ProxyVForConditionalGeneration, layout: Layout, like: torch.Tensor) -> Plan | None:
        """See `Method.plan`."""
        return self._timed(self.inner.plan, model, layout, like)

    def _timed(self, hook: Callable[..., Any], *arguments: Any) -> Any:
        self.watch.enter("selection")
        result = hook(*arguments)
        self.watch.leave()
        return result
