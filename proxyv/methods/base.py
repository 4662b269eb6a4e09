"""The interface of a method: a way to spend less on vision tokens. Every default is the identity.

A method is a frozen dataclass in its own file; its fields are what a recipe may set under `method:`. Core code
calls the hooks below and never asks which method it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

if TYPE_CHECKING:  # proxyv.model imports this module
    from proxyv.model.layout import Layout


@dataclass(frozen=True)
class Method:
    """Identity: every vision token goes through every layer."""

    name: ClassVar[str] = ""
    # Submodule names by which this method's parameters are told from the LLM's own.
    modules: ClassVar[tuple[str, ...]] = ()

    def check(self, text_config: PreTrainedConfig, tokens: int) -> None:
        """Raise UserError where the fields do not fit the LLM, or crops of `tokens` vision tokens."""

    def install(self, llm: PreTrainedModel, tokens: int) -> None:
        """Put this method's layers and modules into a fresh causal LM, in place; called once, before weights
        are loaded."""

    def plan(self, llm: PreTrainedModel, layout: Layout, embeddings: torch.Tensor) -> Any:
        """What this method's layers need for one prefill; handed to every layer as `vision_plan`."""
        return None
