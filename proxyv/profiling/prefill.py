"""One sample's prefill on the meta device, by the model's own forward: what it computes, part by part, which rows stay
in the cache, and how much memory its tensors take. Shapes only, so a model of any size takes a second.

A multiplication and its addition count as two FLOPs; causal attention counts as full, as in the paper's figures
(arXiv 2505.15816). Element-wise work (norms, activations, rotary) is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from proxyv.config import Recipe
from proxyv.model.build import build_model
from proxyv.model.method import Selection
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.profiling.memory import LiveTensors
from proxyv.profiling.sample import make_inputs
from proxyv.results.profile import FlopsByPart

DTYPE = torch.bfloat16  # what prefills run in; memory is counted in it


@dataclass(frozen=True)
class Prefill:
    """What one sample's prefill did. FLOPs and bytes are integers."""

    layers: tuple[int, ...]  # FLOPs of each decoder layer, ranking included
    tower: int  # FLOPs of the pass over the crops
    projector: int
    head: int
    selection_before: int  # FLOPs between tower and decoder, without the projector
    ranking: int  # FLOPs of the modules in decoder layers that choose among vision tokens (`Selection`)
    total: int
    cached_rows: tuple[int, ...]  # rows that each decoder layer leaves in the cache
    cache_bytes: int
    activation_bytes: int  # most memory of tensors at one moment; weights and inputs apart, the cache included

    @property
    def flops(self) -> FlopsByPart:
        """FLOPs by part. `selection_flops` lie in `other_flops` and, the ranking, in `decoder_flops`."""
        decoder = sum(self.layers)
        return {
            "decoder_flops": decoder,
            "tower_flops": self.tower,
            "projector_flops": self.projector,
            "head_flops": self.head,
            "other_flops": self.total - decoder - self.tower - self.projector - self.head,
            "total_flops": self.total,
            "selection_flops": self.selection_before + self.ranking,
            "selection_flops_before_llm": self.selection_before,
            "selection_flops_in_decoder": self.ranking,
        }


def shapes(recipe: Recipe) -> ProxyVForConditionalGeneration:
    """The recipe's model without weights, in the dtype that prefills run in."""
    # Eager attention is plain matrix products, which every torch release counts; fused back-ends do the same
    # products, but some cannot run on shapes alone.
    return build_model(replace(recipe, attention="eager"), device="meta").to(DTYPE).eval()


@torch.no_grad()
def run_prefill(model: ProxyVForConditionalGeneration, crops: int, text_tokens: int) -> Prefill:
    """Run a model on the meta device over one sample, up to the logits of the first answer token.

    Args:
        crops: crops of the image that the model gets.
        text_tokens: tokens of text behind it.
    """
    inputs = make_inputs(model, crops, text_tokens)
    known = [*model.parameters(), *model.buffers(), inputs["pixel_values"], inputs["input_ids"]]
    counter = FlopCounterMode(display=False)
    with Spans(counter) as spans, counter, LiveTensors(known) as live:
        layers = cast(Sequence[nn.Module], model.get_decoder().layers)
        rankings = [module for module in model.modules() if isinstance(module, Selection)]
        spans.watch(tower=[model.vision_tower], projector=[model.projector], decoder=[model.get_decoder()])
        spans.watch(head=[model.get_output_embeddings()], layer=layers, ranking=rankings)
        output = model(**inputs, use_cache=True, logits_to_keep=1)
    # A method may run the LLM before (over the question alone): the prefill is its last run.
    decoder = spans.of("decoder")[-1]
    tower = spans.of("tower")[0]
    projectors = spans.of("projector")
    projected = sum(span.flops for span in projectors if span.end <= decoder.start)
    cached = [layer for layer in cast(Any, output.past_key_values).layers if layer.is_initialized]
    return Prefill(
        layers=tuple(span.flops for span in spans.of("layer", decoder)),
        tower=tower.flops,
        projector=sum(span.flops for span in projectors),
        head=spans.of("head")[-1].flops,
        selection_before=decoder.start - tower.end - projected,
        ranking=sum(span.flops for span in spans.of("ranking", decoder)),
        total=counter.get_total_flops(),
        cached_rows=tuple(layer.get_seq_length() for layer in cached),
        cache_bytes=sum(tensor.nbytes for layer in cached for tensor in (layer.keys, layer.values)),
        activation_bytes=live.peak,
    )


@dataclass(frozen=True)
class Span:
    """One call of a module: the FLOPs that had been counted when it began and when it ended."""

    part: str
    start: int
    end: int

    @property
    def flops(self) -> int:
        """What the call cost."""
        return self.end - self.start


class Spans(ExitStack):
    """Notes the calls of watched modules while a FLOP counter runs, in the order in which they end."""

    def __init__(self, counter: FlopCounterMode):
        super().__init__()
        self.counter = counter
        self.open: list[tuple[str, int]] = []
        self.ended: list[Span] = []

    def watch(self, **parts: Sequence[nn.Module]) -> None:
        """Note the calls of these modules under these names until the context ends."""
        for part, modules in parts.items():
            for module in modules:
                self.enter_context(module.register_forward_pre_hook(lambda *_, part=part: self._begin(part)))
                self.enter_context(module.register_forward_hook(lambda *_, part=part: self._end(part)))

    def of(self, part: str, within: Span | None = None) -> list[Span]:
        """The calls under a name, all or those that began within another call."""
        return [span for span in self.ended if span.part == part and (within is None or within.start <= span.start)]

    def _begin(self, part: str) -> None:
        self.open.append((part, self.counter.get_total_flops()))

    def _end(self, part: str) -> None:
        _, start = self.open.pop()
        if all(part != outer for outer, _ in self.open):  # a call within one of the same name is part of it
            self.ended.append(Span(part, start, self.counter.get_total_flops()))
