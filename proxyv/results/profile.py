"""What a recipe costs, counted on shapes alone: `profile.json` and the output of `proxyv profile`."""

from __future__ import annotations

from typing import Any, TypedDict

from proxyv.results.origin import EnvironmentRecord


class FlopsByPart(TypedDict):
    """FLOPs of one sample's prefill. The five parts add up to `total_flops`."""

    decoder_flops: int  # the decoder layers, ranking included as in the paper
    tower_flops: int
    projector_flops: int
    head_flops: int
    other_flops: int  # all outside these four
    total_flops: int
    # Choosing and merging vision tokens; lies in `other_flops` and `decoder_flops`.
    selection_flops: int
    selection_flops_before_llm: int  # between tower and LLM
    selection_flops_in_decoder: int  # the ranking in decoder layers


class PrefillFigures(FlopsByPart):
    """FLOPs, rows and memory of one sample's prefill."""

    crops: int  # that the model gets
    vision_tokens: int
    newline_tokens: int
    text_tokens: int
    vision_tokens_by_layer: list[int]  # that each decoder layer keeps for the text behind them
    mean_vision_tokens: float  # mean of `vision_tokens_by_layer`
    cache_bytes: int
    # The most that tensors hold at one moment beside weights and inputs: the cache so far, rows on their way, and the
    # whole matrices of scores of eager attention, which fused attention does without.
    activation_bytes: int


class ParameterCounts(TypedDict):
    """Numbers of parameters, in total and by module group."""

    total: int
    tower: int
    projector: int
    newline: int
    method: int
    llm: int
    per_module: dict[str, int]  # one module of each kind that the method adds


class RecipeProfile(PrefillFigures, EnvironmentRecord):
    """One recipe's costs."""

    recipe: str
    method: dict[str, Any]  # its name and fields
    needs: dict[str, str]  # what the method needs beyond features → what that means
    approximate: bool  # whether the method is rebuilt from what little is public
    dtype: str  # of the prefill, which the bytes depend on
    parameters: ParameterCounts
    added_parameters: int  # against the same recipe as `full`


class Reductions(TypedDict, total=False):
    """What a recipe saves against a baseline; empty without one."""

    compare: str  # the baseline's name
    decoder_flops_reduction: float  # a fraction: 0.4 where 40 % are saved
    total_flops_reduction: float
    compared: PrefillFigures  # the baseline's own figures


class Profile(RecipeProfile, Reductions):
    """One recipe's costs and, where a baseline was given, the reductions against it."""
