"""A sweep: every recipe with every seed, all of it resumable.

    <output>/<recipe>/recipe.yaml      the recipe, whatever the seed
    <output>/<recipe>/profile.json     FLOPs, counted once
    <output>/<recipe>/seed-<n>/        a run folder (proxyv/checkpoints/run_folder.py) and its eval/
    <output>/shared/seed-<n>/          the run of the shared stages
    <output>/sweep.json, .md, .csv, .png

Seeds are the outer loop, so that all recipes can be compared early.
"""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from proxyv import processes
from proxyv.checkpoints.load import load_for_evaluation
from proxyv.checkpoints.run_folder import RECIPE, recipe_change
from proxyv.config import Recipe, load_recipe, save_recipe
from proxyv.environment import find_device
from proxyv.errors import UserError, naming, suggest
from proxyv.evaluation import check_suite, evaluate_suite, load_suite
from proxyv.evaluation.batches import BatchSize, check_numbers
from proxyv.experiments.shared_stages import own_recipe, shared_recipe
from proxyv.experiments.sweep_results import SHARED, collect, seed_folder, write_results
from proxyv.files import write_json
from proxyv.locks import LOCK, only_process
from proxyv.model.build import switch_method
from proxyv.model.registry import settle_recipe
from proxyv.profiling import profile_recipe
from proxyv.results.scores import SuiteResult
from proxyv.results.sweep import SweepResult
from proxyv.schema import check_dataclass
from proxyv.train import train

STEPS = ("profile", "train", "eval")
# Fields of a recipe that a sweep sets itself, and the option that says how.
OWN_FIELDS = {"name": "the names of the files", "seed": "--seeds", "output_dir": "--output"}


def sweep(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    do: Sequence[str] = STEPS,
    seeds: Sequence[int] = (0,),
    shared: Sequence[str] = (),
    batch_size: BatchSize = 1,
    device: str | None = None,
    overrides: Sequence[str] = (),
) -> SweepResult:
    """Do the steps for every recipe and seed below `output`; what is finished there is kept.

    A recipe that fails does not hold up the others: its message is in the result, see `failures`. A recipe with
    `start_from` and no `run_stages` is training-free: the model it starts from is evaluated with its method.

    Args:
        paths: recipe files, or folders of them.
        do: some of STEPS, in any order.
        seeds: of the training; `seed` in a recipe is not used.
        shared: stages that are trained once per seed, with method `full`, for all recipes.
        batch_size: samples generated at once in the evaluation, or "auto"; see `evaluate`.
        device: of the evaluation; default: cuda where there is one, which is also what training takes.
        overrides: fields of all recipes, as `load_recipe` takes them.

    Returns what is written to `<output>/sweep.json`: everything that has been done in `output` so far.

    Raises UserError for wrong arguments or recipes and where `output` holds other recipes' runs, or another process is
    at work there, before anything is done; and where shared stages fail.
    """
    for step in do:
        if step not in STEPS:
            raise UserError(f"do: '{step}' is no step{suggest(step, STEPS)}")
    if processes.world_size() > 1 and set(do) != {"train"}:
        raise UserError("do: several processes can only train; take `train` here and the other steps in one process")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: {' '.join(map(str, seeds)) or 'none'} given; name each seed once")
    for seed in seeds:
        check_dataclass(Recipe(name="sweep", seed=seed))
    recipes = load_recipes(paths, overrides)
    if "eval" in do:
        check_evaluation(recipes, batch_size)
        find_device(device)
    foundation = shared_recipe(recipes, shared, SHARED) if shared else None
    running = _Sweep(Path(output), recipes, foundation, tuple(do), batch_size, device)
    processes.connect()
    with ExitStack() as held:
        processes.from_main(lambda: held.enter_context(only_process(Path(output) / LOCK)))
        processes.from_main(running.open)
        return running.run(seeds)


def load_recipes(paths: Sequence[str | Path], overrides: Sequence[str]) -> list[Recipe]:
    """The recipes behind files and folders, every field of their methods written out.

    Raises UserError for none, two of one name, or an unknown method.
    """
    for override in overrides:
        if (name := override.split("=")[0]) in OWN_FIELDS:
            raise UserError(f"{name}: a sweep sets it itself, by {OWN_FIELDS[name]}; leave out --{name}")
    files: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path}: holds no recipe; give YAML files or a folder of them")
        files += found
    recipes: dict[str, Recipe] = {}
    for file in files:
        recipe = load_recipe(file, overrides)
        if recipe.name in recipes or recipe.name == SHARED:
            taken = f"{SHARED} is the folder of shared stages" if recipe.name == SHARED else "two recipes have it"
            raise UserError(f"{file}: name: '{recipe.name}' cannot name a folder, {taken}; give another name")
        if recipe.run_stages == [] and recipe.start_from is None:
            raise UserError(f"{file}: run_stages: empty, and no start_from to evaluate; set one of the two")
        recipes[recipe.name] = settle_recipe(recipe, str(file))
    return list(recipes.values())


def check_evaluation(recipes: Sequence[Recipe], batch_size: BatchSize) -> None:
    """Raise UserError for what the evaluation would refuse after the training."""
    check_numbers(batch_size)
    for recipe in recipes:
        if recipe.suite is None:
            raise UserError(f"{recipe.name}: suite: the recipe names none; add --suite NAME, or leave eval out of --do")
        with naming(recipe.name):
            if recipe.pages is None:
                check_suite(recipe.suite, recipe.data_root, batch_size)
            else:  # whose data may not be rendered yet
                load_suite(recipe.suite)


def evaluate_run(recipe: Recipe, run: Path, *, batch_size: BatchSize, device: str | None = None) -> SuiteResult:
    """Evaluate the model of a run folder on the recipe's suite into its eval/, keeping the answers that are there.

    A training-free recipe's model is that of `start_from`, with the recipe's method switched on.

    Raises UserError for a recipe without suite, and for a training-free one whose method has weights to train.
    """
    if recipe.suite is None:
        raise UserError(f"{recipe.name}: suite: the recipe names none; give it one")
    if recipe.run_stages == []:
        loaded = load_for_evaluation(str(recipe.start_from), device)
        switch_method(loaded.model, loaded.processor, recipe.method)
        if any(loaded.model.module_group(name) == "method" for name, _ in loaded.model.named_parameters()):
            raise UserError(f"{recipe.name}: run_stages: empty, but the method has weights to train; name a stage")
    else:
        loaded = load_for_evaluation(run, device)
    return evaluate_suite(
        loaded.model.eval(),
        loaded.processor,
        recipe.suite,
        data_root=recipe.data_root,
        output_dir=run / "eval",
        batch_size=batch_size,
        resume=True,
        recipe=asdict(recipe),
    )


@dataclass
class _Sweep:
    """A sweep under way."""

    output: Path
    recipes: list[Recipe]
    foundation: Recipe | None
    do: tuple[str, ...]
    batch_size: BatchSize
    device: str | None
    failed: dict[str, dict[str, str]] = field(default_factory=dict)  # recipe → what → message

    def open(self) -> None:
        """Make the recipes' folders, or check that they hold the same recipes.

        Raises UserError where one holds another recipe; then nothing is made.
        """
        folders = {self.output / recipe.name: recipe for recipe in map(self._without_shared, self.recipes)}
        for folder, recipe in folders.items():
            begun = any(folder.glob("[!.]*"))  # a killed sweep may leave it empty
            if begun and (change := recipe_change(recipe, folder)):
                raise UserError(f"{folder} holds the runs of another recipe: {change}; choose another --output")
        for folder, recipe in folders.items():
            save_recipe(recipe, folder / RECIPE)

    def run(self, seeds: Sequence[int]) -> SweepResult:
        """All steps; returns the result, which is written whenever one is done."""
        for number, recipe in enumerate(self.recipes if "profile" in self.do else (), start=1):
            self._attempt(recipe, "profile", f"[{number}/{len(self.recipes)}]", partial(self._profile, recipe))
        trains, evaluates, number = "train" in self.do, "eval" in self.do, 0
        for seed in seeds if trains or evaluates else ():
            if self.foundation is not None and trains:
                say(f"shared stages {', '.join(self.foundation.stages)}, seed {seed}")
                train(replace(self.foundation, seed=seed), resume=True, folder=self._shared_folder(seed))
            for recipe in self.recipes:
                number += 1
                place = f"[{number}/{len(seeds) * len(self.recipes)}]"
                self._attempt(recipe, f"seed {seed}", place, partial(self._run_once, recipe, seed))
        return self._write(final=True)

    def _attempt(self, recipe: Recipe, what: str, place: str, work: Callable[[], None]) -> None:
        """Do one piece of work and write the result; where it fails, say so and keep the message."""
        say(f"{place} {recipe.name}, {what}")
        try:
            work()
        except Exception as error:  # whatever it is, the other recipes' hours must not be lost
            if processes.world_size() > 1:  # the processes would no longer be at the same place
                raise
            message = str(error)
            if not isinstance(error, UserError):
                traceback.print_exc()
                message = f"{type(error).__name__}: {' '.join(message.split())[:200]}"
            self.failed.setdefault(recipe.name, {})[what] = message
            say(f"{recipe.name}, {what}: failed: {message}")
        gc.collect()
        self._write()

    def _profile(self, recipe: Recipe) -> None:
        target = self.output / recipe.name / "profile.json"
        if not target.is_file():
            write_json(target, profile_recipe(recipe, compare="full"))

    def _run_once(self, recipe: Recipe, seed: int) -> None:
        folder = seed_folder(self.output / recipe.name, seed)
        recipe = replace(self._without_shared(recipe), seed=seed)
        if self.foundation is not None:
            recipe.start_from = str(self._shared_folder(seed))
        if "train" in self.do and recipe.run_stages != []:
            train(recipe, resume=True, folder=folder)
        if "eval" in self.do:
            evaluate_run(recipe, folder, batch_size=self.batch_size, device=self.device)

    def _shared_folder(self, seed: int) -> Path:
        return seed_folder(self.output / SHARED, seed)

    def _without_shared(self, recipe: Recipe) -> Recipe:
        """The recipe without its shared stages, whatever the seed."""
        if self.foundation is None:
            return recipe
        return own_recipe(recipe, list(self.foundation.stages), self.output / SHARED)

    def _write(self, final: bool = False) -> SweepResult:
        results = collect(self.output, self.failed)
        if processes.is_main():
            write_results(self.output, results, tables=final)
        return results


def say(what: str) -> None:
    """One line of progress on stderr, also while a bar is shown."""
    if processes.is_main():
        tqdm.write(f"proxyv sweep: {what}", file=sys.stderr)
