"""What a cache must know where a method has dropped rows: which rows are real, and the next position.

Layers of one model may then hold different numbers of rows. The stock cache knows its length only, so such a prefill
puts `CachedRowsLayer`s into the cache it was given; later steps read positions and masks from them.

Letters as in `proxyv.model`; K are the rows in a layer's cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.masking_utils import create_causal_mask

from proxyv.errors import UserError
from proxyv.model.attention import Tables, rotary_tables


@dataclass(frozen=True)
class CachedRows:
    """The K rows that a prefill left in a layer's cache. Rows that decoding adds behind them are all real."""

    valid: torch.Tensor  # (B, K) bool, False at padding
    next_position: torch.Tensor  # (B,) int64 position of the first token after the prompt
    padded: bool  # whether any row is not valid, known without waiting for the device
    prompt_length: int  # columns of the prompt's input_ids, dropped rows and padding included

    def of_samples(self, samples: torch.Tensor) -> CachedRows:
        """The same of some samples, (new B,) int64, in their order (beam search)."""
        samples = samples.to(self.valid.device)
        return replace(self, valid=self.valid[samples], next_position=self.next_position[samples])


class CachedRowsLayer(DynamicLayer):
    """A cache layer that knows its prompt's rows."""

    def __init__(self, rows: CachedRows):
        super().__init__()
        self.rows = rows

    @property
    def added(self) -> int:
        """Rows that were decoded since the prefill."""
        return int(self.get_seq_length()) - self.rows.valid.shape[1]

    @property
    def seen(self) -> int:
        """Columns of input_ids whose tokens went into this cache, dropped ones included."""
        return self.rows.prompt_length + self.added

    def valid_with(self, new: int) -> torch.Tensor | None:
        """Which rows are real with `new` more behind them, (B, K + added + new) bool; None where all are."""
        if not self.rows.padded:
            return None
        behind = self.rows.valid.new_ones(len(self.rows.valid), self.added + new)
        return torch.cat([self.rows.valid, behind], 1)

    def positions(self, new: int) -> torch.Tensor:
        """(B, new) int64, the positions of the next tokens."""
        first = self.rows.next_position[:, None] + self.added
        return first + torch.arange(new, device=first.device)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """As the stock layer's: (B,) int64, the sample that each is to be."""
        super().reorder_cache(beam_idx)
        self.rows = self.rows.of_samples(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """As the stock layer's: (new B,) int64, the samples that stay."""
        super().batch_select_indices(indices)
        self.rows = self.rows.of_samples(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """As the stock layer's: each sample `repeats` times."""
        super().batch_repeat_interleave(repeats)
        samples = torch.arange(len(self.rows.valid), device=self.rows.valid.device)
        self.rows = self.rows.of_samples(samples.repeat_interleave(repeats))


class FilteredCacheLayer(CachedRowsLayer):
    """A cache layer whose prompt attends to all of its rows, of which it then keeps some."""

    def __init__(self, rows: CachedRows, index: torch.Tensor):
        super().__init__(rows)
        self.index = index  # (B, K) int64, the kept rows among the prompt's

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the stock layer's, keys and values (B, G, rows, head size); of the prompt all rows come back, not only
        those that are kept."""
        if self.get_seq_length():
            all_states: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return all_states
        index = self.index.to(key_states.device)[:, None, :, None]
        index = index.expand(-1, key_states.shape[1], -1, key_states.shape[3])
        super().update(key_states.gather(2, index), value_states.gather(2, index))
        return key_states, value_states


def set_cached_rows(cache: Cache, layer: int, rows: CachedRows, index: torch.Tensor | None = None) -> None:
    """Let an empty layer of a cache know its rows, in place.

    Args:
        layer: its number.
        index: (B, K) int64, which of the prefill's rows they are; None: all, and as many.

    Raises UserError for a cache of fixed or quantised layers.
    """
    while len(cache.layers) <= layer:
        cache.layers.append(DynamicLayer())
    if type(cache.layers[layer]) not in (DynamicLayer, CachedRowsLayer) or cache.layers[layer].get_seq_length():
        raise UserError(
            f"cache: a method that drops vision tokens needs an empty dynamic cache, not "
            f"{type(cache.layers[layer]).__name__}; leave out cache_implementation"
        )
    cache.layers[layer] = CachedRowsLayer(rows) if index is None else FilteredCacheLayer(rows, index)


def cached_rows_layer(cache: Cache | None, layer: int) -> CachedRowsLayer | None:
    """Layer number `layer` of a cache, where it knows its rows and has some."""
    if cache is None or layer >= len(cache.layers):
        return None
    found = cache.layers[layer]
    return found if isinstance(found, CachedRowsLayer) and found.get_seq_length() else None


def over_cached_keys(mask: torch.Tensor, cache: Cache | None, layer: int) -> torch.Tensor:
    """A prompt's mask (B, 1, Q, Q), bool or additive, over all K keys that a layer's empty cache will return: one of
    fixed size has room behind the prompt, which nobody sees. Returns (B, 1, Q, K)."""
    rows = mask.shape[2]
    keys = rows if cache is None else cache.get_mask_sizes(rows, layer)[0]
    if keys == rows:
        return mask
    unseen = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return nn.functional.pad(mask, (0, keys - rows), value=unseen)


@dataclass(frozen=True)
class LayerArgs:
    """What decoder layers need that work on rows of their own, in place of what the stock model hands to all."""

    mask: Any  # attention_mask, as the back-end reads it
    position_embeddings: Tables  # of (B, Q) rows


class DecodeRows:
    """Masks and positions of one decoding step, or a later turn, for layers whose cache knows its rows. Layers with the
    same rows share theirs.

    Args:
        embeddings: (B, new, D) of the new tokens.
    """

    def __init__(self, llm: PreTrainedModel, cache: Cache, embeddings: torch.Tensor):
        self.llm, self.cache, self.embeddings = llm, cache, embeddings
        self.made: dict[int, LayerArgs] = {}  # by the id of the rows

    def of(self, layer: int) -> LayerArgs | None:
        """What a decoder layer needs, or None where the stock arguments fit it."""
        kept = cached_rows_layer(self.cache, layer)
        if kept is None:
            return None
        key = id(kept.rows)
        if key not in self.made:
            new = self.embeddings.shape[1]
            valid = kept.valid_with(new)
            mask = None if valid is None and new == 1 else row_mask(self.llm.config, self.embeddings, valid, kept)
            tables = rotary_tables(self.llm.model.rotary_emb, self.embeddings, kept.positions(new))
            self.made[key] = LayerArgs(mask, tables)
        return self.made[key]


def row_mask(
    config: PreTrainedConfig, embeddings: torch.Tensor, valid: torch.Tensor | None, past: CachedRowsLayer | None = None
) -> Any:
    """The causal mask of transformers for rows in reading order, in the form that the model's back-end reads.

    Args:
        embeddings: (B, Q, …), gives number, dtype and device of the queries.
        valid: (B, K) bool, of the rows in the cache and the queries; None: all are real.
        past: the cache layer that holds the rows before the queries; None: there are none.
    """
    cache = None
    if past is not None:
        cache = DynamicCache()
        cache.layers = [past]
    return create_causal_mask(
        config=config, inputs_embeds=embeddings, attention_mask=valid, past_key_values=cache, position_ids=None
    )
