"""The models of one timing run, side by side on one device. Where names and shapes agree they share the very tensors,
so that ten methods on a large LLM take little more memory than one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proxyv.checkpoints.adapter_folder import load_model
from proxyv.checkpoints.run_folder import find_model
from proxyv.config import Recipe
from proxyv.errors import UserError
from proxyv.methods import describe_method, make_method
from proxyv.model.build import build_model
from proxyv.model.lora import merge_adapters
from proxyv.model.modeling import ProxyVForConditionalGeneration

FOLDING = ("no", "yes", "both")
Pool = dict[tuple[str, torch.Size], nn.Parameter]  # by name and shape


@dataclass(frozen=True)
class Candidate:
    """One model of a run: a recipe, as it is or folded (see the model's `fold`)."""

    recipe: Recipe
    model: ProxyVForConditionalGeneration
    folded: bool = False

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.recipe.name}, folded" if self.folded else self.recipe.name


def build_candidates(
    recipes: Sequence[Recipe],
    may_fold: int,
    device: str,
    dtype: torch.dtype,
    model_path: str | Path | None = None,
    fold: str = "no",
) -> list[Candidate]:
    """The recipes' models in eval mode.

    Args:
        may_fold: how many recipes, from the first on, `fold` applies to: "yes" folds their models, "both" adds a
            folded one to each that can be folded.
        model_path: trained weights of the first recipe, which the others share; None: random ones.
    """
    pool: Pool = {}
    candidates: list[Candidate] = []
    for index, recipe in enumerate(recipes):
        model = _build(recipe, device, dtype, pool, model_path if index == 0 else None)
        folded = fold == "yes" and index < may_fold
        if folded:
            model.fold()
        candidates.append(Candidate(recipe, model, folded))
        if fold == "both" and index < may_fold and _foldable(model):
            twin = _build(recipe, device, dtype, pool)
            twin.fold()
            candidates.append(Candidate(recipe, twin, folded=True))
    return candidates


def _foldable(model: nn.Module) -> bool:
    return any(hasattr(module, "fold") for module in model.modules() if module is not model)


def _build(
    recipe: Recipe, device: str, dtype: torch.dtype, pool: Pool, model_path: str | Path | None = None
) -> ProxyVForConditionalGeneration:
    torch.manual_seed(recipe.seed)
    if model_path is not None:
        model = _trained(recipe, model_path, device, dtype)
    else:
        with torch.device(device), _default_dtype(dtype):
            model = build_model(recipe, weights=False)
    share_parameters(model, pool)
    return model.eval()


def share_parameters(model: nn.Module, pool: Pool) -> None:
    """Put the pool's parameters in place of the model's own where name and shape agree; add those that it lacks."""
    for name, own in list(model.named_parameters(remove_duplicate=False)):
        shared = pool.setdefault((name, own.shape), own)
        if shared is not own:
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, shared)


def _trained(recipe: Recipe, path: str | Path, device: str, dtype: torch.dtype) -> ProxyVForConditionalGeneration:
    """The trained model of a run, model or adapter folder, adapters merged. Raises UserError where there is none, or
    it is no model of this recipe."""
    model: Any = load_model(find_model(path), dtype=dtype, attn_implementation=recipe.attention)
    merge_adapters(model)
    wanted = describe_method(make_method(recipe.method))
    if model.config.method != wanted:
        raise UserError(f"model_path: {path} was trained with method {model.config.method}, the recipe says {wanted}")
    shapes = {name: tensor.shape for name, tensor in build_model(recipe, device="meta").state_dict().items()}
    for name, tensor in model.state_dict().items():
        if shapes.get(name) != tensor.shape:  # else the baseline, which the recipe describes, would be another model
            raise UserError(f"model_path: '{name}' of {path} does not have the recipe's shape; use the model's recipe")
    trained: ProxyVForConditionalGeneration = model.to(device)
    return trained


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
