"""What a cache must set_cache_rows where a method has dropped rows: which rows are real, and the next position.

Layers of one model may then hold different numbers of rows. The stock cache knows its length only, so such a prefill
puts `CachedRowsLayer`s into the cache it was given; later steps read positions and masks from them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.masking_utils import create_causal_mask

from proxyv.errors import UserError
from proxyv.model.attention import Tables, rotary_tables


@dataclass(frozen=True)
class CachedRows:
    """The rows that a prefill left in a layer's cache. Rows that decoding adds behind them are all real."""

    valid: torch.Tensor  # (B, K) bool
    next_position: torch.Tensor  # (B,) int64 position of the first token after the prompt
    padded: bool  # whether any row is not valid, known without asking the device
    prompt_length: int  # columns of the prompt's input_ids, dropped rows and padding included

    def of_samples(self, samples: torch.Tensor) -> CachedRows:
        """The same of some samples, in their order (beam search)."""
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
        """Columns of input_ids that this cache stands for."""
        return self.rows.prompt_length + self.added

    def valid_with(self, new: int) -> torch.Tensor | None:
        """(B, rows + new) bool, True at real rows; None where all are."""
        if not self.rows.padded:
            return None
        behind = self.rows.valid.new_ones(len(self.rows.valid), self.added + new)
        return torch.cat([self.rows.valid, behind], 1)

    def positions(self, new: int) -> torch.Tensor:
        """(B, new) positions of the next tokens."""
        first = self.rows.next_position[:, None] + self.added
        return first + torch.arange(new, device=first.device)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """As the stock layer's."""
        super().reorder_cache(cast(torch.LongTensor, beam_idx))
        self.rows = self.rows.of_samples(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """As the stock layer's."""
        super().batch_select_indices(indices)
        self.rows = self.rows.of_samples(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """As the stock layer's."""
        super().batch_repeat_interleave(repeats)
        samples = torch.arange(len(self.rows.valid), device=self.rows.valid.device)
        self.rows = self.rows.of_samples(samples.repeat_interleave(repeats))


class FilteredCacheLayer(CachedRowsLayer):
    """A cache layer whose prompt attends to all of its rows, of which it then keeps some."""

    def __init__(self, rows: CachedRows, index: torch.Tensor):
        super().__init__(rows)
        self.index = index  # (B, K) int64 place of the kept rows among the prompt's

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the stock layer's, but for the prompt: (B, G, rows, head size), all rows come back."""
        if self.get_seq_length():
            return cast(Any, super().update(key_states, value_states, *args, **kwargs))
        index = self.index.to(key_states.device)[:, None, :, None]
        index = index.expand(-1, key_states.shape[1], -1, key_states.shape[3])
        super().update(key_states.gather(2, index), value_states.gather(2, index))
        return key_states, value_states


def set_cached_rows(cache: Cache, layer: int, rows: CachedRows, index: torch.Tensor | None = None) -> None:
    """Make an empty layer of a cache set_cache_rows its rows.

    Args:
        index: (B, K) int64, which of the rows that the prefill gives it they are; None: all.

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
    """A cache's layer, where it knows its rows and has some."""
    if cache is None or layer >= len(cache.layers):
        return None
    found = cache.layers[layer]
    return found if isinstance(found, CachedRowsLayer) and found.get_seq_length() else None


@dataclass(frozen=True)
class LayerArgs:
    """What decoder layers need that work on rows of their own: instead of what the stock model hands to all."""

    mask: Any  # attention_mask, as the back-end reads it
    position_embeddings: Tables  # of (B, Q) rows


class DecodeRows:
    """Masks and positions of one decoding step for layers whose cache knows its rows; each kind is made once."""

    def __init__(self, llm: PreTrainedModel, cache: Cache, embeddings: torch.Tensor):
        self.llm, self.cache, self.embeddings = llm, cache, embeddings
        self.made: dict[int, LayerArgs] = {}

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
        embeddings: (B, Q, D), gives shape, dtype and device of the asking rows.
        valid: (B, past + Q) bool; None: all.
        past: the cache layer that holds the rows before them.
    """
    cache = None
    if past is not None:
        cache = DynamicCache()
        cache.layers = [past]
    return create_causal_mask(
        config=config, inputs_embeds=embeddings, attention_mask=valid, past_key_values=cache, position_ids=None
    )
