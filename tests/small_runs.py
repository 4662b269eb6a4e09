"""Recipes of runs that take a second or two: tiny random models on a handful of synthetic pages or records."""

import json
from pathlib import Path

from proxyv.config import DataSpec, PagesSpec, StageSpec
from tests.tiny import METHODS, random_image, tiny_recipe

ALL_GROUPS = ["tower", "projector", "newline", "method", "llm"]
PROXYV = METHODS[1]
# Two benchmarks of rendered pages and their mean.
SUITE = """
name: two
title: Two
benchmarks: [synthetic_docvqa, synthetic_chartqa]
score_name: mean ANLS
terms: [{benchmark: synthetic_docvqa, score: anls, scale: 100}, {benchmark: synthetic_chartqa, score: anls, scale: 100}]
"""


def stage(data, **fields):
    """A stage of four logged steps with batches of four."""
    defaults = dict(
        train=ALL_GROUPS,
        global_batch_size=4,
        micro_batch_size=4,
        steps=4,
        logging_steps=1,
        image_mode="pad",
        warmup_ratio=0.0,
        schedule="constant",
    )
    return StageSpec(data=data, **{**defaults, **fields})


def page_recipe(folder, method=PROXYV, **stages):
    """A recipe on synthetic pages in `folder`, runs below it; `stages` by name, or one that mixes all data."""
    recipe = tiny_recipe(method=method, output_dir=str(folder / "runs"), data_root=str(folder / "pages"))
    recipe.pages = PagesSpec(kinds=["documents", "charts"], train_pages=6)
    recipe.data = {
        "glyphs": DataSpec("glyphs", "glyphs.json", "images"),
        "text": DataSpec("llava", "text.json"),
        "captions": DataSpec("llava", "captions.json", "images"),
        "instruct": DataSpec("llava", "instruct.json", "images"),
    }
    recipe.stages = stages or {"mixed": stage(["captions", "text"])}
    return recipe


def record_recipe(folder, records, spec=None, **stage_fields):
    """A recipe with one data set "records" of LLaVA records, whose images lie in `folder`/images."""
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "records.json").write_text(json.dumps(records))
    recipe = tiny_recipe(output_dir=str(folder / "runs"), data_root=str(folder))
    recipe.data = {"records": spec or DataSpec("llava", "records.json", "images")}
    recipe.stages = {"only": stage(["records"], **stage_fields)}
    return recipe


def record(identity, question, answer="A", image=None):
    """One LLaVA record with one turn."""
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": identity, **({} if image is None else {"image": image}), "conversations": turns}


def save_image(folder, name, width=60, height=40, seed=0, **options):
    """A random image in `folder`/images; returns its name."""
    path = Path(folder) / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    random_image(width, height, seed).save(path, **options)
    return name


def read_log(run, stage_name):
    """The entries of a stage's log."""
    return [json.loads(line) for line in (Path(run) / stage_name / "log.jsonl").read_text().splitlines()]


# What differs from run to run: time and memory.
VARYING = ("tokens_per_second", "supervised_tokens_per_second", "data_wait_seconds", "elapsed_seconds")
VARYING = (*VARYING, "peak_memory_gib")


def figures(run, stage_name):
    """What must repeat exactly, line by line: step, loss, gradient norm, rates, epoch, what was skipped."""
    return [{key: of for key, of in entry.items() if key not in VARYING} for entry in read_log(run, stage_name)]


class PowerCut(Exception):
    """Ends a run where no code of ours expects it."""


def interrupt(monkeypatch, step, happens=None):
    """Let the next run meet a power cut, or whatever `happens` does, when it has done so many steps; returns a function
    that lets later ones run on."""
    from proxyv.train.trainer import StageTrainer  # here: most tests of small runs do without Trainer's imports

    original = StageTrainer.training_step

    def stopping(self, *args, **kwargs):
        if self.state.global_step == step:
            if happens is None:
                raise PowerCut
            happens()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", stopping)
    return lambda: monkeypatch.setattr(StageTrainer, "training_step", original)
