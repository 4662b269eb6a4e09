"""Result files: one of an evaluation's, a sweep's, a run's files changed, then reported and scored again."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from proxyv.checkpoints.run_folder import RECIPE
from proxyv.config import save_recipe
from proxyv.errors import UserError
from proxyv.evaluation import evaluate_suite
from proxyv.experiments.sweep_results import collect, write_results
from tests.fake_vlm import FakeModel, FakeProcessor
from tests.fuzz.nasty import Change, Damage, changes, damages, to_json
from tests.fuzz.outcomes import Category, command
from tests.fuzz.tables import SUITE, write_benchmark
from tests.tiny import tiny_recipe

FILES = (
    *("run/eval/toy.json", "run/eval/toy.jsonl", "run/eval/suite-toys.json", "run/profile.json", "run/recipe.yaml"),
    *("sweep/sweep.json", "sweep/tiny/seed-0/eval/suite-toys.json", "sweep/tiny/seed-0/only/finished.json"),
    *("sweep/tiny/profile.json", "sweep/tiny/recipe.yaml"),
)
FIGURES = {"decoder_flops": 1e12, "total_flops": 2e12, "decoder_flops_reduction": 0.4, "crops": 5, "vision_tokens": 80}


@dataclass(frozen=True)
class Broken:
    """One result file, and what was done to it; None: it is gone."""

    file: str
    change: Change | Damage | None


@cache
def results() -> Path:
    """A folder with a run that was evaluated and a sweep of one recipe and seed, kept until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="proxyv-fuzz-"))
    write_benchmark(folder / "bench")
    recipe = tiny_recipe()
    recipe.stages = {}
    for run in (folder / "run", folder / "sweep" / "tiny" / "seed-0"):
        with contextlib.redirect_stderr(io.StringIO()):
            evaluate_suite(
                *(FakeModel(str.upper), FakeProcessor(), folder / "bench" / "suites" / SUITE),
                data_root=folder / "bench",
                output_dir=run / "eval",
                batch_size=2,
                benchmarks_dir=folder / "bench",
                progress=False,
            )
        save_recipe(recipe, run / RECIPE)
    (folder / "run" / "profile.json").write_text(json.dumps(FIGURES))
    sweep = folder / "sweep" / "tiny"
    stage = {"steps": 4, "loss": 0.5, "seconds": 2.5, "samples": {}, "parameters": [], "environment": {}}
    (sweep / "seed-0" / "only").mkdir()
    (sweep / "seed-0" / "only" / "finished.json").write_text(json.dumps(stage))
    text = "name: tiny\nstages: {only: {data: [a], train: [llm]}}\ndata: {a: {path: a.json}}\n"
    for file in (sweep / RECIPE, sweep / "seed-0" / RECIPE):
        file.write_text(text)
    (sweep / "profile.json").write_text(json.dumps(FIGURES))
    write_results(folder / "sweep", collect(folder / "sweep", {}), tables=False)
    return folder


def broken_files() -> st.SearchStrategy[Broken]:
    """Every file damaged, those of JSON changed as well, and the first line of answers."""
    folder = results()
    strategies = [st.builds(Broken, st.sampled_from(FILES), damages | st.none())]
    for name in FILES:
        if name.endswith(".yaml"):
            continue
        text = (folder / name).read_text()
        tree = json.loads(text.splitlines()[0] if name.endswith("l") else text)
        strategies.append(changes(tree).map(lambda change, name=name: Broken(name, change)))
    return st.one_of(strategies)


def make(broken: Broken, folder: Path) -> Path:
    """The results with the broken file."""
    target = folder / "results"
    shutil.copytree(results(), target)
    file = target / broken.file
    if broken.change is None:
        file.unlink()
    elif isinstance(broken.change, Damage):
        file.write_bytes(broken.change.of(file.read_bytes()))
    elif file.suffix == ".jsonl":
        first, *rest = file.read_text().splitlines(keepends=True)
        line = to_json(broken.change.of(json.loads(first)))
        file.write_text("".join([line + "\n", *rest]), "utf-8", "surrogatepass")
    else:
        file.write_text(to_json(broken.change.of(json.loads(file.read_text()))), "utf-8", "surrogatepass")
    return target


def attempt(broken: Broken, folder: Path) -> None:
    """Report on all of it, compare the run with an unbroken one, score it again, collect the sweep anew; figures in the
    report must be numbers."""
    target = make(broken, folder)
    inside = broken.file.split("/")[0]
    if inside == "run":
        with contextlib.suppress(UserError):  # what it refuses, others may take
            command("compare", target / "run", results() / "run", "--page", folder / "page.html", names=target)
        command("rescore", target / "run" / "eval", "--benchmarks_dir", target / "bench", "--write", names=target)
    elif broken.file != "sweep/sweep.json":
        write_results(target / "sweep", collect(target / "sweep", {}), tables=True)
    command("report", target / inside, "--output", folder / "report", names=target)
    rows = (folder / "report" / "report.csv").read_text().splitlines()[1:]
    assert rows, "a report without a row"
    numbers = [cell for row in rows for cell in row.split(",")[1:] if cell.replace(".", "").isdigit()]
    assert all(math.isfinite(float(number)) for number in numbers)


RESULTS = Category("result files", st.deferred(broken_files), attempt)
