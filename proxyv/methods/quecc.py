"""QueCC: in each window of patches, one query that knows the question pools features of several tower layers.

Paper: "Inference Optimal VLMs Need Only One Visual Token but Larger Models", arXiv 2411.03312. Source of
the details: the authors' public code (github.com/locuslab/llava-token-compression). The question's embedding t is the
LLM's last hidden state at the last token of the question, read without images and without gradient; its projection
is added to every patch before the windows' queries are formed. That text pass is part of the prefill's cost.
Deviations: the question is the text behind a sample's last image up to where its first answer begins, with what the
template puts there; the public code cuts it out of the prompt's characters and stops before the role's name. Text
without such rows falls back to all text before the first answer. One question serves all crops of all images of its
sample; the public code takes single crops only. Any LLM width works, where the public code expects 4096 = 4 · 1024.
Shifts of all keys of a window, which its softmax cancels (biases of the key projection and of the norm before it),
are left out: they never learn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from proxyv.domains import Count, Index
from proxyv.errors import FieldError
from proxyv.methods.shared.before_llm import attend_plainly, check_hidden_states, check_window, windows
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.rows import pack_left
from proxyv.model.vision import TowerView


@dataclass(frozen=True)
class QueCC(Method):
    """One vision token per `window` × `window` patches; `key_layers` index the tower's hidden states."""

    name: ClassVar[str] = "quecc"
    trained: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("reducer",)
    needs: ClassVar[tuple[str, ...]] = ("question", "tower_layers", "grid")

    window: Count = 4
    key_layers: tuple[Index, ...] = (12, 16, 22, 23)
    heads: Count = 8

    def tokens_per_crop(self, tokens: int) -> int:
        return tokens // self.window**2

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        check_window(self.window, tokens, least=2)  # nothing to choose from in a window of one patch
        check_hidden_states("key_layers", self.key_layers, config.vision_config)
        size = config.vision_config.hidden_size
        if size % self.heads:
            raise FieldError("heads", f"{self.heads} does not divide the tower's width {size}; use a divisor")

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        text, vision = model.config.text_config, model.config.vision_config
        model.reducer = QuestionPooling(
            text.hidden_size, vision.hidden_size, len(self.key_layers), self.window, self.heads
        )

    def select(self, model: ProxyVPreTrainedModel, view: TowerView, prompt: Prompt) -> VisionTokens:
        question = question_states(model, prompt)
        keys = torch.cat([view.patches(layer) for layer in self.key_layers], -1)
        of_crop = prompt.layout.sample_of_crop.to(question.device)
        return VisionTokens(model.reducer(view.patches(), keys, question[of_crop]))


def question_rows(prompt: Prompt, is_image: torch.Tensor) -> torch.Tensor:
    """(B, L) bool: the rows of each sample's question, none of an answer.

    The text behind the last image, up to the first ranking row there; where that is nothing, all text up to the
    sample's first ranking row.

    Args:
        is_image: (B, L) bool, True at placeholders.
    """
    layout = prompt.layout
    row = torch.arange(layout.length, device=is_image.device).expand_as(is_image)
    text = layout.valid & ~is_image
    last_image = row.masked_fill(~is_image, -1).amax(1, keepdim=True)
    end = row.masked_fill(~(layout.ranking_rows & (row >= last_image)), layout.length).amin(1, keepdim=True)
    behind = text & (row > last_image) & (row <= end)
    first = row.masked_fill(~layout.ranking_rows, layout.length).amin(1, keepdim=True)
    return torch.where(behind.any(1, keepdim=True), behind, text & (row <= first))


def question_states(model: ProxyVPreTrainedModel, prompt: Prompt) -> torch.Tensor:
    """(B, D) the LLM's last hidden state of each question's last token, without gradient; zeros for a sample without
    images or without text."""
    ids, layout = prompt.input_ids, prompt.layout
    chosen = question_rows(prompt, ids == model.config.image_token_id)
    with_image = torch.zeros_like(chosen[:, :1])
    with_image[sorted(set(layout.sample_of_image))] = True
    index, real = pack_left(chosen & with_image)
    counts = real.sum(1, keepdim=True)
    # Padding stands on the right, where causal attention hides it from the question.
    ids = ids.gather(1, index).masked_fill(~real, 0)
    ids = ids.to(model.get_input_embeddings().weight.device)
    every = torch.ones_like(ids)  # without a mask, transformers looks for packed sequences, not on shapes alone
    with torch.no_grad():
        output = model.language_model.model(input_ids=ids, attention_mask=every, use_cache=False)
    states: torch.Tensor = output.last_hidden_state
    last = (counts - 1).clamp(min=0)[..., None].expand(-1, -1, states.shape[-1]).to(states.device)
    return states.gather(1, last)[:, 0].masked_fill((counts == 0).to(states.device), 0.0)


class QuestionPooling(nn.Module):
    """Patches, features of several tower layers and a question → one vector per window, of the tower's width."""

    def __init__(self, text_size: int, size: int, layers: int, window: int, heads: int):
        super().__init__()
        self.window, self.heads = window, heads
        self.question = nn.Sequential(nn.Linear(text_size, size), nn.LayerNorm(size, eps=1e-6))
        self.query = _normed_mlp(size, size)
        self.key = _normed_mlp(layers * size, size, bias=False)
        self.value = _normed_mlp(layers * size, size)
        self.shrink = nn.Conv2d(size, size, window, stride=window, groups=size)
        self.query_proj = nn.Linear(size, size)
        self.key_proj = nn.Linear(size, size, bias=False)
        self.value_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)

    def forward(self, patches: torch.Tensor, layers: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        """patches (C, P, T), layers (C, P, layers · T), question (C, D) → (C, P / window², T)."""
        side = math.isqrt(patches.shape[1])
        of_patches = self.query(patches + self.question(question)[:, None])
        grid = of_patches.transpose(1, 2).unflatten(2, (side, side))
        queries = self.shrink(grid).flatten(2).transpose(1, 2)  # (C, windows, T)
        keys = windows(self.key(layers), self.window)  # (C, windows, window², T)
        values = windows(self.value(layers), self.window)
        pooled = attend_plainly(
            self.query_proj(queries).flatten(0, 1)[:, None],
            self.key_proj(keys).flatten(0, 1),
            self.value_proj(values).flatten(0, 1),
            self.heads,
        )
        vectors: torch.Tensor = self.out_proj(pooled)
        return vectors.view_as(queries)


def _normed_mlp(size: int, out: int, bias: bool = True) -> nn.Sequential:
    """Linear, GELU, Linear, LayerNorm; `bias` is the norm's."""
    return nn.Sequential(nn.Linear(size, out), nn.GELU(), nn.Linear(out, out), nn.LayerNorm(out, eps=1e-6, bias=bias))
