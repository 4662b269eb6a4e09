"""`proxyv quickstart`: the whole pipeline at tiny size, on pages that it renders itself.

Stand-ins for the pretrained tower and LLM are trained first, then the paper's two stages. `full` and ProxyV share
everything up to the captions and each run the instruction stage on the same data in the same order; both are
evaluated on held-out pages, counted and timed, and put into one table and one plot.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from proxyv.config import Recipe, load_recipe
from proxyv.environment import default_device
from proxyv.errors import UserError
from proxyv.experiments.shared_stages import own_recipe, shared_recipe
from proxyv.experiments.sweep import evaluate_run
from proxyv.files import CHECKOUT, write_json
from proxyv.model.registry import settle_recipe
from proxyv.profiling import bench_recipe, profile_recipe
from proxyv.report.make import make_report
from proxyv.train import train

RECIPES = CHECKOUT / "configs" / "recipes"
COMPARED = ("tiny-full", "tiny-proxyv-l2")
OWN_STAGE = "instruct"  # the stage that every method runs for itself
EVAL_BATCH = 32  # pages at once, in evaluation and in the timing
SMOKE_BATCH = 2

SMOKE = (
    "pages.train_pages=16",
    "pages.test_pages=2",
    *(f"stages.{stage}.steps=2" for stage in ("tower", "text", "caption", "instruct")),
    *(f"stages.{stage}.global_batch_size=4" for stage in ("tower", "text", "caption", "instruct")),
    *(f"stages.{stage}.micro_batch_size=4" for stage in ("tower", "text", "caption", "instruct")),
)


def quickstart(output: Path, *, smoke: bool = False, seed: int = 0, overrides: Sequence[str] = ()) -> Path:
    """Run everything below `output`; what is finished there is kept. Returns the report's folder.

    Args:
        smoke: two steps a stage and a few pages: shows in a minute that everything runs, and learns nothing.
        overrides: fields of the tiny recipes, as `load_recipe` takes them.

    Raises UserError where the recipes are missing (not a checkout).
    """
    if not RECIPES.is_dir():
        raise UserError(f"{RECIPES}: no recipes; run the quickstart from a checkout of the repository")
    start = time.perf_counter()
    settings = [
        f"data_root={output / 'data'}",
        f"output_dir={output}",
        f"seed={seed}",
        *(SMOKE if smoke else ()),
        *overrides,
    ]
    recipes = [settle_recipe(load_recipe(RECIPES / f"{name}.yaml", settings)) for name in COMPARED]
    shared = [stage for stage in recipes[0].stages if stage != OWN_STAGE]
    _say(start, f"training the shared stages: {', '.join(shared)}")
    foundation = train(shared_recipe(recipes, shared, "tiny-shared"), resume=True)
    runs = [_run(own_recipe(recipe, shared, foundation), start, smoke) for recipe in recipes]
    report = output / "report"
    make_report(runs, report)
    print((report / "report.md").read_text(encoding="utf-8"))
    _say(start, f"done; table and plot are in {report}")
    return report


def _run(recipe: Recipe, start: float, smoke: bool) -> Path:
    """Train, evaluate, count and time one recipe; returns its run folder."""
    _say(start, f"training {recipe.name}")
    run = train(recipe, resume=True)
    _say(start, f"evaluating {recipe.name}")
    evaluate_run(recipe, run, batch_size=EVAL_BATCH)
    _say(start, f"measuring {recipe.name}")
    write_json(run / "profile.json", profile_recipe(recipe, compare="full"))
    batch_size, repeats = (SMOKE_BATCH, 2) if smoke else (EVAL_BATCH, 20)
    bench = bench_recipe(recipe, device=default_device(), batch_size=batch_size, repeats=repeats)
    write_json(run / "bench.json", bench)
    return run


def _say(start: float, what: str) -> None:
    print(f"[{time.perf_counter() - start:5.0f} s] {what}", flush=True)
