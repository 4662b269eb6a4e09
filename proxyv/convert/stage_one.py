"""The authors' stage-1 file `mm_projector.bin` (and LLaVA's) put onto the pretrained parts that a recipe names.

The file holds what stage 1 trained: projector, newline, guided updates, proxy initialiser, under LLaVA's names.
"""

from __future__ import annotations

from pathlib import Path

import torch

from proxyv.config import Recipe
from proxyv.convert.authors import authors_translation
from proxyv.convert.folder import meta_model, write_folder
from proxyv.convert.newline import add_fresh_newline
from proxyv.convert.plan import ConversionPlan, Part, Tensors
from proxyv.convert.tower import tower_part
from proxyv.convert.weights import WeightFiles, find_weights, locate
from proxyv.errors import UserError
from proxyv.model.build import build_config, build_processor


def convert_stage_one(source: Path, target: Path, recipe: Recipe) -> list[str]:
    """Write the recipe's model with the trained parts of `source`. Returns notes for the user.

    Raises UserError where the recipe names no pretrained LLM or tower, or the weights do not fit its method.
    """
    processor = build_processor(recipe)
    plan = stage_one_plan(source, recipe)
    folder = locate(str(recipe.llm.pretrained), "llm.pretrained", weights=False)
    write_folder(plan, folder, target, processor, recipe.llm.chat_template)
    return plan.notes


def stage_one_plan(source: Path, recipe: Recipe) -> ConversionPlan:
    """The plan: LLM, tower and stage-1 file together make the model.

    Raises UserError where the recipe names no pretrained LLM or tower, or one that cannot be found.
    """
    for field, name in (("llm.pretrained", recipe.llm.pretrained), ("vision.pretrained", recipe.vision.pretrained)):
        if name is None:
            raise UserError(f"{field}: the recipe names none, and a stage-1 file holds only what stage 1 trained")
    config = build_config(recipe)
    trained = WeightFiles((source,))
    outlines = trained.outlines()
    is_proxyv = any("vision_mlp_layers" in name for name in outlines)
    if is_proxyv:  # LLaVA's own stage 1 sees one crop and no newline
        config.newline_positions = "authors"
    model = meta_model(config)
    llm = find_weights(locate(str(recipe.llm.pretrained), "llm.pretrained"))

    def into_llm(name: str, tensor: torch.Tensor) -> Tensors | None:
        return {f"language_model.{name}": tensor}

    parts = [
        Part(llm, into_llm),
        tower_part(str(recipe.vision.pretrained), model),
        Part(trained, authors_translation(model)),
    ]
    dtype = next(iter(llm.outline(llm.files[0]).values())).dtype
    plan = ConversionPlan(str(source), model, parts, dtype)
    if "model.image_newline" not in outlines:
        add_fresh_newline(plan)
    return plan
