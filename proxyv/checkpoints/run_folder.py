"""What lies where in a run folder.

    <output_dir>/<name>/recipe.yaml              the resolved recipe
    <output_dir>/<name>/.lock                    which process is at work here (proxyv/locks.py)
    <output_dir>/<name>/<stage>/                 a complete model once the stage is finished
    <output_dir>/<name>/<stage>/checkpoint-N/    a complete model and the state to go on from (checkpoint_folder.py)
    <output_dir>/<name>/<stage>/log.jsonl        one line every `logging_steps`
    <output_dir>/<name>/<stage>/finished.json    written last: steps, loss, totals of all legs, environment

A stage with `lora` leaves adapter folders (proxyv/checkpoints/adapter_folder.py) where others leave complete models.
The model of a run is that of its last stage; it is not copied.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from proxyv.config import Recipe, load_recipe, save_recipe
from proxyv.errors import UserError, suggest
from proxyv.model.registry import settle_recipe
from proxyv.schema import describe_change
from proxyv.yaml_files import read_yaml

RECIPE = "recipe.yaml"
FINISHED = "finished.json"
LOG = "log.jsonl"


def stage_names(recipe: Recipe) -> list[str]:
    """The stages to run, in order. Raises UserError where there are none, or an unknown one is named."""
    names = list(recipe.stages) if recipe.run_stages is None else list(recipe.run_stages)
    if not names:
        raise UserError("stages: the recipe has no stage to train; add one")
    for name in names:
        if name not in recipe.stages:
            raise UserError(f"run_stages: '{name}' is no stage{suggest(name, recipe.stages)}")
    return names


def run_folder(recipe: Recipe) -> Path:
    """Where the recipe's run goes. Raises UserError for a recipe without name."""
    if not recipe.name:
        raise UserError("name: the recipe has none; give it one, it names the run folder")
    return Path(recipe.output_dir) / recipe.name


def open_run(recipe: Recipe, run: Path, resume: bool) -> None:
    """Make the run folder with its resolved recipe, or check that it may be continued.

    Raises UserError where it holds another recipe's run, or this one's and `resume` is false.
    """
    names = stage_names(recipe)
    started = [name for name in names if (run / name).exists()]
    if not started:
        run.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, run / RECIPE)
        return
    if change := recipe_change(recipe, run):
        raise UserError(f"{run} holds the run of another recipe; choose another name or output_dir ({change})")
    if not resume:
        state = "a finished run" if is_finished(run / names[-1]) else "an unfinished run"
        raise UserError(f"{run} holds {state} of this recipe; choose another name, or go on with --resume")


def run_of(folder: Path) -> Path | None:
    """The run folder that a model folder lies in, at most two levels up, or the folder itself: the nearest that holds
    a recipe. None: there is none."""
    return next((parent for parent in (folder, *folder.parents[:2]) if (parent / RECIPE).is_file()), None)


def read_recipe(run: Path | None) -> dict[str, Any]:
    """A run folder's resolved recipe as plain values; empty where there is none."""
    if run is None or not (run / RECIPE).is_file():
        return {}
    return cast("dict[str, Any]", OmegaConf.to_container(read_yaml(run / RECIPE)))


def recipe_change(recipe: Recipe, folder: Path) -> str | None:
    """The first field in which `recipe` is not the one that lies in the folder, in words; None where it is the same.

    Defaults of the method count as written out, in both. Raises UserError where one of the methods is unknown.
    """
    if not (folder / RECIPE).is_file():
        return f"no {RECIPE} lies there"
    recorded, wanted = settle_recipe(load_recipe(folder / RECIPE)), settle_recipe(recipe)
    return describe_change(asdict(recorded), asdict(wanted))


def is_finished(stage_folder: Path) -> bool:
    """Whether a stage has run to its end."""
    return (stage_folder / FINISHED).is_file()


def find_model(path: str | Path) -> Path:
    """The model folder that `path` means: the folder itself, or the last stage of a finished run.

    Raises UserError where there is none.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        return path
    if not (path / RECIPE).is_file():
        raise UserError(f"{path}: neither a model folder (no config.json) nor a run folder (no {RECIPE}); fix the path")
    last = path / stage_names(load_recipe(path / RECIPE))[-1]
    if not is_finished(last):
        raise UserError(f"{path}: stage '{last.name}' is not finished; go on with --resume or name a model folder")
    return last
