"""QueCC: in each window of patches, one query that knows the question pools features of several tower layers.

Paper: "Inference Optimal VLMs Need Only One Visual Token but Larger Models", arXiv 2411.03312. Source of
the details: the authors' public code (github.com/locuslab/llava-token-compression). The question's embedding t is the
LLM's last hidden state at the last token of the question, read without images and without gradient; its projection
is added to every patch before the windows' queries are formed. That text pass is part of the prefill's cost. Every
weight begins as there: torch's own scale, and for the maps of the attention that of torch's multi-head attention.
The question is the text behind a sample's last image, up to where the template announces the answer to it, alike in
training and at inference, whatever turns follow; the tokenizer's BOS stands before it, where it has one.
Deviations: the question's tokens are the prompt's own, where the public code cuts its characters out and tokenises them
once more; it also drops what stands between the image and the first line break. Where nothing stands behind the last
image, the question is the text before it in the same turn (the public code reads an empty one: its data puts images
first). Where a model does not know its template (`turn_tokens`), the question ends at the first answer by the labels,
or with the prompt, and has no BOS. One question serves all crops of all images of its sample; the public code takes
single crops only. Any LLM width works, where the public code expects 4096 = 4 · 1024. Shifts of all keys of a window,
which its softmax cancels (biases of the key projection and of the norm before it), are left out: they never learn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import nn

from proxyv.domains import Count, Index
from proxyv.errors import FieldError
from proxyv.methods.shared.before_llm import attend_plainly, check_hidden_states, check_window, windows
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.method import Method, Prompt, VisionTokens
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.rows import pack_left
from proxyv.model.turns import TurnTokens, occurrences
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


def question_rows(prompt: Prompt, is_image: torch.Tensor, turns: TurnTokens | None = None) -> torch.Tensor:
    """(B, L) bool: the rows of each sample's question, none of an answer, and no blank at its ends.

    The text behind the last image, up to its answer; where nothing stands there, the text before that image in the
    same turn. An answer begins where the template writes that it does, or behind the first ranking row.

    Args:
        is_image: (B, L) bool, True at placeholders.
        turns: the tokens that mark turns; None: ranking rows alone tell where an answer begins.
    """
    ids, layout = prompt.input_ids, prompt.layout
    row = torch.arange(layout.length, device=ids.device).expand_as(ids)
    answer = layout.ranking_rows.to(ids.device).roll(1, 1)  # behind a ranking row; of the last one there is no row
    answer[:, 0] = False
    turn = torch.zeros_like(row[:, :1])  # the first row of the turn that the last image stands in, where that is known
    text = words = layout.valid.to(ids.device) & ~is_image
    last_image = _last(row, is_image)
    if turns is not None:
        for mark in turns["answer"]:
            answer |= occurrences(ids, mark)
        for mark in turns["user"]:
            before_image = occurrences(ids, mark) & (row < last_image)
            turn = torch.maximum(turn, _last(row + len(mark), before_image))
        own = (layout.position_ids.to(ids.device) < len(turns["begin"])) & _among(ids, turns["begin"])
        text = text & ~own  # what the tokenizer begins with is put before the question anew
        words = text & ~_among(ids, turns["blank"])

    behind = (row > last_image) & (row < _first(row, answer & (row > last_image)))
    # Answers of earlier turns are known behind the image only: a turn whose beginning is not marked ends at the first.
    known = torch.where(turn > 0, last_image, _first(row, answer).minimum(last_image))
    before = (row >= turn) & (row < known)
    asked = torch.where((words & behind).any(1, keepdim=True), behind, before)
    words = words & asked
    return text & asked & (row >= _first(row, words)) & (row <= _last(row, words))


def _first(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """(B, 1) the least of values (B, L) where a mask (B, L) is set; L where it is nowhere."""
    return values.masked_fill(~where, values.shape[1]).amin(1, keepdim=True)


def _last(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """(B, 1) the largest of values (B, L) where a mask (B, L) is set; −1 where it is nowhere."""
    return values.masked_fill(~where, -1).amax(1, keepdim=True)


def _among(ids: torch.Tensor, some: list[int]) -> torch.Tensor:
    return torch.isin(ids, torch.tensor(some, dtype=ids.dtype, device=ids.device))


def question_states(model: ProxyVPreTrainedModel, prompt: Prompt) -> torch.Tensor:
    """(B, D) the LLM's last hidden state of each question's last token, without gradient; of what the tokenizer begins
    with, where a question is empty; zeros for a sample without images, or without that."""
    ids, layout = prompt.input_ids, prompt.layout
    turns = cast(TurnTokens | None, model.config.turn_tokens)
    chosen = question_rows(prompt, ids == model.config.image_token_id, turns)
    with_image = torch.zeros_like(chosen[:, :1])
    with_image[sorted(set(layout.sample_of_image))] = True
    index, real = pack_left(chosen & with_image)
    # Padding stands on the right, where causal attention hides it from the question.
    ids = ids.gather(1, index).masked_fill(~real, 0)
    begin = ids.new_tensor([] if turns is None else turns["begin"]).expand(len(ids), -1)
    ids = torch.cat([begin, ids], 1).to(model.get_input_embeddings().weight.device)
    every = torch.ones_like(ids)  # without a mask, transformers looks for packed sequences, not on shapes alone
    with torch.no_grad():
        output = model.language_model.model(input_ids=ids, attention_mask=every, use_cache=False)
    states: torch.Tensor = output.last_hidden_state
    counts = ((begin.shape[1] + real.sum(1, keepdim=True)) * with_image).to(states.device)
    last = (counts - 1).clamp(min=0)[..., None].expand(-1, -1, states.shape[-1])
    return states.gather(1, last)[:, 0].masked_fill(counts == 0, 0.0)


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
        self.query_proj = _XavierLinear(size, size)
        self.key_proj = _XavierLinear(size, size, bias=False)
        self.value_proj = _XavierLinear(size, size)
        self.out_proj = _UnbiasedStart(size, size)

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


class _UnbiasedStart(nn.Linear):
    """A linear map whose bias begins at zero: the last one of torch's multi-head attention."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class _XavierLinear(_UnbiasedStart):
    """One of the three first maps of torch's multi-head attention, which begin as one matrix of three times the
    outputs: uniform up to √(6 / (4 · size)), by Glorot and Bengio."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.xavier_uniform_(self.weight, gain=0.5**0.5)
