"""Other projects' checkpoints → ours, file by file.

authors.py authors_config.py   LLaVA's original layout: the authors' ProxyV, LLaVA-1.5, LLaVA-NeXT
llava_hf.py                    the layout of transformers' own LLaVA classes
internlm.py                    InternLM2 → a Llama folder
pickled.py                     an LLM or a tower with pickled weights → the same with safetensors
stage_one.py                   what stage 1 trained (mm_projector.bin), put onto pretrained parts
plan.py                        a conversion as data, checked on shapes before anything is written
weights.py tower.py folder.py  reading weights; the vision tower; the files around the weights
newline.py preprocessing.py    where LLaVA differs: the newline token, what it makes of a picture
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from proxyv.config import load_recipe
from proxyv.convert import authors_config, llava_hf
from proxyv.convert.authors import convert_authors, load_authors
from proxyv.convert.internlm import convert_internlm
from proxyv.convert.llava_hf import convert_llava_hf
from proxyv.convert.pickled import convert_pickled
from proxyv.convert.stage_one import convert_stage_one
from proxyv.convert.tower import read_config
from proxyv.convert.weights import locate
from proxyv.errors import UserError
from proxyv.model.families import FAMILIES

__all__ = ["Converted", "convert", "load_authors"]

# LLMs and towers as transformers has them, whose weights alone may have to be converted.
PLAIN_TYPES = {*FAMILIES, "clip", "clip_vision_model", "siglip", "siglip_vision_model"}
SUPPORTED = (
    f"LLaVA's layout ({', '.join(authors_config.MODEL_TYPES)}), "
    f"transformers' LLaVA ({', '.join(llava_hf.MODEL_TYPES)}), "
    "InternLM2 (internlm2), stage-1 files (mm_projector.bin), and LLMs and towers with pickled weights "
    f"({', '.join(sorted(PLAIN_TYPES))})"
)


@dataclass(frozen=True)
class Converted:
    """The folder that was written, and what a user must know about it."""

    folder: Path
    notes: list[str] = field(default_factory=list)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    tower: str | None = None,
    onto: str | Path | None = None,
    chat_template: str | None = None,
) -> Converted:
    """Turn a checkpoint of another project into a proxyv folder; what it is, its config.json says, not its name.

    Args:
        source: folder or hub id, or a stage-1 file `mm_projector.bin`.
        target: folder to write; must be empty or absent.
        tower: folder or hub id of the vision tower; default: what the checkpoint names.
        onto: a stage-1 file's recipe, which names LLM, tower and method.
        chat_template: name of a shipped chat template; default: the one the family was trained with.

    Raises UserError for a wrong model type, and for weights that are missing, unused or misshapen (listing them);
    nothing is written then.
    """
    target = Path(target)
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise UserError(f"{target}: is not empty; name another folder to write")
    if Path(source).is_file() or onto is not None:
        return Converted(target, _stage_one(Path(source), target, onto))
    folder = locate(source, "source")
    their_config = read_config(folder)
    kind = their_config.get("model_type")
    if kind == "internlm2":
        notes = convert_internlm(folder, target, their_config)
    elif kind in llava_hf.MODEL_TYPES and "text_config" in their_config:
        notes = convert_llava_hf(folder, target, their_config, chat_template)
    elif kind in authors_config.MODEL_TYPES:
        notes = convert_authors(folder, target, their_config, tower, chat_template)
    elif kind in PLAIN_TYPES:
        notes = convert_pickled(folder, target)
    else:
        raise UserError(f"{folder / 'config.json'}: model_type '{kind}' cannot be converted; supported are {SUPPORTED}")
    return Converted(target, notes)


def _stage_one(source: Path, target: Path, onto: str | Path | None) -> list[str]:
    """As `convert_stage_one`. Raises UserError where file or recipe is missing."""
    if not source.is_file():
        raise UserError(f"{source}: --onto takes a stage-1 file (mm_projector.bin), and this is no file")
    if onto is None:
        raise UserError(f"{source}: a stage-1 file holds no LLM; name the recipe of its model with --onto RECIPE")
    return convert_stage_one(source, target, load_recipe(onto))
