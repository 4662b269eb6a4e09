"""Where models, towers and tokenizers are read from: folders and hub ids, and what is refused before any is opened.

No code of theirs is run, and no pickle is read: weights come from safetensors alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from proxyv.errors import UserError, reading
from proxyv.files import read_json
from proxyv.hub import hub_answers

# Files in which a folder may name code of its own, by the key "auto_map".
_SETTINGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_UNKNOWN = "\ue000"  # of the private use area
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
CONVERT = "pickled weights: proxyv convert SOURCE NEW_FOLDER"
SAVE_AGAIN = "restore the file, or save the model again"


def check_source(source: str | Path, field: str) -> None:
    """Raise UserError for a path that is not there, and for a hub id where the hub does not answer; `field` names what
    holds it. What the hub has of that name is not asked."""
    named = bool(str(source).strip())
    if named and os.path.isdir(source):  # unlike Path's, for names of any length
        return
    if named and os.path.exists(source):
        raise UserError(f"{field}: '{source}' is no folder; give the folder that the file lies in")
    try:
        validate_repo_id(str(source))
    except HFValidationError as error:
        raise UserError(f"{field}: there is no folder '{source}'; fix the path") from error
    cached = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=str(source), repo_type="model")).is_dir()
    if not (cached or constants.HF_HUB_OFFLINE or hub_answers(constants.ENDPOINT)):
        raise UserError(
            f"{field}: there is no folder '{source}', and {constants.ENDPOINT} does not answer; fix the path, or "
            "download it where there is a connection (hf download)"
        )


def check_folder(folder: str | Path) -> None:
    """Raise UserError where a folder brings code of its own, or its settings are no JSON objects; hub ids pass.

    A configuration of a type that transformers knows may name code, as Phi-3's does: transformers' own is taken.
    """
    for name in _SETTINGS:
        file = Path(folder) / name
        settings = read_json(file, SAVE_AGAIN) if file.is_file() else {}
        known = name == "config.json" and str(settings.get("model_type")) in CONFIG_MAPPING_NAMES
        if "auto_map" in settings and not known:
            raise UserError(
                f"{file}: auto_map: names code of the folder's own, which is never run; use a model and a tokenizer "
                "that transformers knows by itself"
            )


def check_weights(folder: str | Path) -> None:
    """Raise UserError where a folder has weights, but none in safetensors; hub ids pass."""
    folder = Path(folder)
    if not folder.is_dir() or any(folder.glob("*.safetensors")) or (folder / "model.safetensors.index.json").is_file():
        return
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES and file.is_file())
    if pickles:
        raise UserError(
            f"{folder / pickles[0]}: is a pickle, which may run code when it is read; weights come from safetensors "
            f"alone, so convert the folder: proxyv convert {folder} NEW_FOLDER"
        )
    raise UserError(f"{folder}: holds no weights (*.safetensors); copy them there, or name another folder")


def load_tokenizer(source: str | Path, field: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id. Raises UserError where there is none, it is damaged, or it needs code of its
    own; `field` names what holds the source."""
    check_source(source, field)
    check_folder(source)
    with reading(
        f"{field}: '{source}'", "give the folder or hub id of a whole tokenizer that needs no code of its own"
    ):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, **{**options, "trust_remote_code": False}
        )
        tokenizer(_UNKNOWN, add_special_tokens=False)  # some damage shows at a character that is in no vocabulary
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, (int, float)):  # compared only when a text is tokenised
        raise UserError(
            f"{field}: '{source}': tokenizer_config.json: model_max_length: {longest!r:.60} must be a number"
        )
    return tokenizer


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights of a folder's safetensors, by name; none for a hub id. Raises UserError where a file is
    damaged, or one that the index names is missing."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        with reading(file, SAVE_AGAIN), safe_open(file, framework="pt") as opened:
            shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """A folder's safetensors: those its index names, else all. Raises UserError for a wrong index or missing files."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("model*.safetensors"))
    return indexed_files(index)


def indexed_files(index: Path) -> list[Path]:
    """The files that an index of sharded weights names. Raises UserError for a wrong index or missing files."""
    places = read_json(index, SAVE_AGAIN).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: weight_map: must say for each weight which file holds it; {SAVE_AGAIN}")
    names = sorted(set(places.values()))
    if absent := [name for name in names if Path(name).name != name or not os.path.isfile(index.parent / name)]:
        raise UserError(f"{index}: lists files that are not there: {', '.join(absent)}; copy them into the folder")
    return [index.parent / name for name in names]
