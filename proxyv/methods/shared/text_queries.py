"""What methods share in whose layers text and newlines are queries, and vision tokens are keys and values only.

The plan says which rows are queries and what each may see; the mixin takes only these rows through attention. A method
says what becomes of the vision tokens. Rows that a method put behind an image are queries like newlines.

Letters as in `proxyv.model`; K is L, or more where proxies ride behind the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from proxyv.domains import Size
from proxyv.errors import FieldError
from proxyv.model.attention import Tables, attend, back_end_of, mask_for, rotary_tables
from proxyv.model.configuration import ProxyVConfig
from proxyv.model.families import Family, family_of, mix_into_layers
from proxyv.model.layout import Layout
from proxyv.model.method import Method, Plan
from proxyv.model.pretrained import ProxyVPreTrainedModel
from proxyv.model.rows import pack_left

# ── the method ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class TextQueryMethod(Method):
    """From `start_layer` on (counted from 0), vision tokens are no queries."""

    start_layer: Size = 12

    def mixin(self) -> type[TextQueryLayer]:
        """What stands in front of the LLM's decoder layers."""
        raise NotImplementedError

    def check(self, config: ProxyVConfig, tokens: int) -> None:
        check_start_layer(self.start_layer, config.text_config)

    def install(self, model: ProxyVPreTrainedModel, tokens: int) -> None:
        llm = model.language_model
        layers = range(self.start_layer, llm.config.num_hidden_layers)
        for index, layer in mix_into_layers(llm, self.mixin(), layers):
            layer.attach_method(self, llm.config, tokens, index)

    def plan(self, model: ProxyVPreTrainedModel, layout: Layout, embeddings: torch.Tensor) -> TextQueryPlan:
        llm = model.language_model
        back_end = back_end_of(llm.config)
        return make_text_query_plan(layout, cast(nn.Module, llm.model.rotary_emb), back_end, embeddings)


def check_start_layer(start_layer: int, text_config: PreTrainedConfig) -> None:
    """Raise UserError where `method.start_layer` is no layer of the LLM."""
    layers = text_config.num_hidden_layers
    if start_layer >= layers:
        raise FieldError("start_layer", f"{start_layer} is not a layer of the LLM; use 0 to {layers - 1}")


def check_hidden_ratio(hidden_ratio: int, text_config: PreTrainedConfig) -> None:
    """Raise UserError where `method.hidden_ratio` does not divide the LLM's width."""
    if text_config.hidden_size % hidden_ratio:
        raise FieldError(
            "hidden_ratio", f"{hidden_ratio} does not divide the LLM's width {text_config.hidden_size}; use a divisor"
        )


# ── the plan ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class QueryRows:
    """The rows that are queries in one layer, and the way back to all rows."""

    index: torch.Tensor  # (B, Q) int64 flat rows (sample · K + row); padding slots repeat a real row
    vision_rows: torch.Tensor  # (C, P) int64 flat rows; where absent, the crop's newline
    source: torch.Tensor  # (B · K,) int64 for each flat row its place in [vision rows | query rows | zero row]
    mask: torch.Tensor  # (B, 1, Q, K), as the back-end reads it
    keys: int  # K
    cos: torch.Tensor  # (B, Q, rotary size) rotary tables of the queries
    sin: torch.Tensor

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """rows (B, K, …) of any dtype → the query rows (B, Q, …)."""
        return rows.flatten(0, 1)[self.index]

    def gather_vision(self, rows: torch.Tensor) -> torch.Tensor:
        """rows (B, K, …) of any dtype → the vision rows (C, P, …); where absent, the crop's newline."""
        return rows.flatten(0, 1)[self.vision_rows]

    def scatter(self, vision: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Put vision rows (C, P, D) and query rows (B, Q, D) of one dtype back: (B, K, D). Padding becomes zero."""
        parts = [vision.flatten(0, 1), queries.flatten(0, 1), queries.new_zeros(1, queries.shape[-1])]
        return torch.cat(parts)[self.source].view(queries.shape[0], -1, queries.shape[-1])


@dataclass
class TextQueryPlan(Plan):
    """One prefill's plan."""

    length: int  # L
    text: QueryRows  # text and newlines
    cos: torch.Tensor  # (B, K, rotary size) rotary tables of all rows
    sin: torch.Tensor


def make_text_query_plan(layout: Layout, rotary: nn.Module, back_end: str, like: torch.Tensor) -> TextQueryPlan:
    """Derive the plan from the layout.

    Args:
        rotary: the LLM's rotary embedding module.
        back_end: attention back-end, decides the form of the masks.
        like: the input embeddings (B, L, D); tensors take their device, masks and tables their dtype.
    """
    tables = rotary_tables(rotary, like, layout.position_ids)
    index, valid = text_rows(layout)
    before = layout.position_ids[:, None] <= layout.position_ids.gather(1, index)[:, :, None]
    rows = query_rows(layout, index, valid, before & layout.valid[:, None], tables, back_end, like)
    return TextQueryPlan(layout.length, rows, *tables)


def text_rows(layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of text and newlines, moved to the front: (B, Q) within the sample, and which of them are real."""
    return pack_left(layout.valid & ~layout.is_vision)


def query_rows(
    layout: Layout,
    index: torch.Tensor,
    valid: torch.Tensor,
    visible: torch.Tensor,
    tables: Tables,
    back_end: str,
    like: torch.Tensor,
) -> QueryRows:
    """The query rows of one kind of layer.

    Args:
        index: (B, Q) int64 within the sample; valid: (B, Q) bool, False at padding slots.
        visible: (B, Q, K) bool, what each may see of the key rows.
        tables: of all rows, at least K.
        back_end, like: as in `make_text_query_plan`.
    """
    (samples, count), keys = index.shape, visible.shape[2]
    flat = index + torch.arange(samples, device=index.device)[:, None] * keys
    vision = layout.vision_rows % layout.length + layout.sample_of_crop[:, None] * keys
    zero_row = vision.numel() + samples * count
    source = torch.full((samples * keys,), zero_row, device=index.device)
    source[vision.flatten()] = torch.arange(vision.numel(), device=index.device)
    # After the vision rows, see `Layout`: newlines are queries.
    source[flat[valid]] = vision.numel() + torch.arange(samples * count, device=index.device)[valid.flatten()]
    visible = visible | ~valid[:, :, None]  # padding slots: any finite result will do
    on = index.to(like.device)[..., None].expand(-1, -1, tables[0].shape[-1])
    return QueryRows(
        flat.to(like.device),
        vision.to(like.device),
        source.to(like.device),
        mask_for(visible[:, None].to(like.device), back_end, like.dtype),
        keys,
        tables[0].gather(1, on),
        tables[1].gather(1, on),
    )


# ── the layer ───────────────────────────────────────────────────────────────────────────────────────────────────────


class TextQueryLayer(nn.Module):
    """Mixin in front of a Hugging Face decoder layer. With a plan (prefill with images) a method's
    `forward_with_images` runs in its place; without one (decoding, text only) it is the plain parent layer."""

    method: Any
    family: Family
    is_last: bool  # nothing reads the vision tokens after the last layer
    self_attn: Any  # the parent layer's own

    def attach_method(self, method: Any, config: PreTrainedConfig, tokens: int, index: int) -> None:
        """Add the method's modules to an existing decoder layer, which is number `index`; crops have up to `tokens`
        vision tokens."""
        self.method, self.family = method, family_of(config)
        self.is_last = index == config.num_hidden_layers - 1

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        position_embeddings: Tables | None = None,
        vision_plan: Any = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, rows that come in, D) → (B, rows that go out, D); the other arguments are the parent's."""
        if vision_plan is not None:
            return self.forward_with_images(hidden_states, vision_plan, past_key_values)
        output: torch.Tensor = cast(Any, super()).forward(
            hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        return output

    def forward_with_images(self, hidden: torch.Tensor, plan: Any, cache: Cache | None) -> torch.Tensor:
        """As `forward`, in a prefill with images: (B, rows that come in, D) → (B, rows that go out, D). Fills the
        cache."""
        raise NotImplementedError

    def attend_queries(
        self, hidden: torch.Tensor, queries: QueryRows, plan: TextQueryPlan, cache: Cache | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of the query rows over all rows (B, K, D). Returns (B, Q, H · head size), before the output
        projection, and the values of all rows (B, G, K, head size). Fills the cache."""
        entering = self.family.block.enter_attention(self, hidden)
        query, key, value = self.family.project_qkv(self.self_attn, entering, queries.gather)
        query = self.family.rotate(self.self_attn, query, queries.cos, queries.sin)
        key = self.family.rotate(self.self_attn, key, plan.cos[:, : queries.keys], plan.sin[:, : queries.keys])
        if cache is not None:  # rows behind the prompt's, proxies, never enter the cache
            cache.update(key[:, :, : plan.length], value[:, :, : plan.length], self.self_attn.layer_idx)
        return attend(self.self_attn, query, key, value, queries.mask), value

    def project_and_feed(self, rows: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Output projection, FFN and both residuals: rows (…, D), attended (…, H · head size) → (…, D)."""
        return self.family.block.add_attention_and_feed(self, rows, self.self_attn.o_proj(attended))

    def attend_and_feed(
        self, hidden: torch.Tensor, queries: QueryRows, plan: TextQueryPlan, cache: Cache | None
    ) -> torch.Tensor:
        """Attention and FFN for the query rows only; keys and values from all rows (B, K, D). Returns (B, Q, D)."""
        attended, _ = self.attend_queries(hidden, queries, plan, cache)
        return self.project_and_feed(queries.gather(hidden), attended)
