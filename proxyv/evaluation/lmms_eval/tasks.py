"""Tasks of lmms-eval on local files: found by name, checked, and built without the hub and without a judge."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from proxyv.errors import UserError, one_line, reason, suggest
from proxyv.evaluation.lmms_eval.files import find_files, with_images
from proxyv.evaluation.lmms_eval.generation import read_generation

INSTALL = "run: pip install 'proxyv[eval]' && pip install --no-deps lmms-eval==0.7.3"
MODEL_NAME = "proxyv"  # as `python -m lmms_eval --model` has it: tasks may keep a prompt for a model's name
_NAME = re.compile(r"""^(task|group):[ \t]*["']?([^\s"'\[#]+)""", re.MULTILINE)
# Modules and calls by which a task's scoring asks another model.
_JUDGES = ("lmms_eval.llm_judge", "lmms_eval.verifiers.openai", "requests", "openai")
KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class LocalTask:
    """A task of lmms-eval, built on local files: its own prompts, parsing and scores."""

    name: str
    files: list[Path]
    task: Any  # lmms_eval.api.task.ConfigurableTask

    @property
    def rows(self) -> int:
        """Rows of its split."""
        return len(self.task.eval_docs)


def load_task(name: str, place: str | None, data_root: str | Path) -> LocalTask:
    """A task by its name in lmms-eval.

    Args:
        place: a file, a folder or a glob of parquet or JSON files, absolute or below `data_root`; None: where a copy of
            the task's repository on the hub lies in it (see `find_files`).

    Raises UserError for an unknown task, for one that cannot be run here, and for files that are missing or do not fit.
    """
    path = _find(name)
    from lmms_eval.api.task import ConfigurableTask
    from lmms_eval.utils import load_yaml_config

    import_module("lmms_eval.api.metrics")  # puts the metrics that tasks name into their registry
    config = _reading(name, path, lambda: load_yaml_config(yaml_path=str(path), mode="full"))
    _check(name, config)
    split = config.get("test_split") or config.get("validation_split")
    files = find_files(name, config, split, place, Path(data_root))
    config |= {
        "dataset_path": "parquet" if files[0].suffix == ".parquet" else "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: [str(file) for file in files]}},
        # Only the split that is scored is here: nothing to take examples from.
        **{"training_split": None, "fewshot_split": None, "fewshot_config": None},
        **with_images(name, config, files),
    }
    task = _reading(name, files[0], lambda: ConfigurableTask(config=config, model_name=MODEL_NAME))
    _check_columns(name, config, files[0], task.eval_docs.column_names)
    # Scored once before hours of answers; without lmms-eval's wrapper, which tries again for ten seconds.
    _reading(name, files[0], lambda: inspect.unwrap(type(task).process_results)(task, task.eval_docs[0], [""]))
    return LocalTask(name, files, task)


def _find(name: str) -> Path:
    known = _known()
    if name not in known:
        raise UserError(f"unknown task '{name}' of lmms-eval{suggest(name, _near(name, known))}")
    kind, path = known[name]
    if kind == "group":
        raise UserError(f"'{name}' is a group of lmms-eval's; name its tasks one by one, they stand in {path}")
    return path


def _near(name: str, known: Mapping[str, Any]) -> list[str]:
    """Names that begin like this one: all of them would be two thousand."""
    return [one for one in known if one[:3] == name[:3]] or ["docvqa_val", "chartqa", "ocrbench"]


@lru_cache(maxsize=1)
def _known() -> dict[str, tuple[str, Path]]:
    """Name → ("task" or "group", file). Read as text, in a second: lmms-eval's own scan of its tasks takes twenty."""
    spec = find_spec("lmms_eval")
    if spec is None or spec.origin is None:
        raise UserError(f"lmms-eval is not installed; {INSTALL}")
    found: dict[str, tuple[str, Path]] = {}
    for path in sorted((Path(spec.origin).parent / "tasks").rglob("*.yaml")):
        names = dict(_NAME.findall(path.read_text(encoding="utf-8", errors="replace")))
        kind = "group" if "task" not in names else "task"
        if kind in names:
            found.setdefault(names[kind], (kind, path))
    return found


def _check(name: str, config: Mapping[str, Any]) -> None:
    """Raise UserError for a task that cannot be run here as it is meant."""
    kind = config.get("output_type", "generate_until")
    if kind != "generate_until" or "class" in config:
        raise UserError(f"task {name}: its kind '{kind}' is not supported; choose a task that generates one answer")
    if config.get("num_fewshot"):
        raise UserError(f"task {name}: shows examples, which are not supported; choose a task without")
    if not (config.get("test_split") or config.get("validation_split")):
        raise UserError(f"task {name}: names no split to score; choose another")
    read_generation(name, config.get("generation_kwargs"))
    scoring = [config.get("process_results"), *(one.get("aggregation") for one in config.get("metric_list") or [])]
    if KEY not in os.environ and any(_asks_a_judge(one) for one in scoring):
        other = f"{name}_static"
        remedy = f"use {other}" if other in _known() else f"choose another task, or set {KEY}"
        raise UserError(f"task {name}: scores by a judge on the network, which costs money and may change; {remedy}")


def _check_columns(name: str, config: Mapping[str, Any], file: Path, columns: Sequence[str]) -> None:
    """Raise UserError for a column that a task names and the file lacks: lmms-eval takes its name for the answer.
    (A task that scores for itself may name one that is nowhere, as TextVQA's does.)"""
    fields = ["doc_to_text", "doc_to_visual", *([] if config.get("process_results") else ["doc_to_target"])]
    for field in fields:
        column = config.get(field)
        if isinstance(column, str) and column.isidentifier() and column not in columns:
            raise UserError(f"task {name}: {file} has no column '{column}'{suggest(column, columns)}")


def _asks_a_judge(function: Any, seen: set[int] | None = None) -> bool:
    """Whether a function of a task reaches another model, itself or through functions that it names.

    Without an answer lmms-eval's tasks give 0 points, or wait, and do not fail.
    """
    seen = set() if seen is None else seen
    code = getattr(function, "__code__", None)
    if code is None or id(code) in seen:
        return False
    seen.add(id(code))
    parts = [code, *(one for one in code.co_consts if hasattr(one, "co_names"))]
    if any("openai" in part.co_consts for part in parts):
        return True
    reached = [function.__globals__[one] for part in parts for one in part.co_names if one in function.__globals__]
    return any(_is_judge(one) or _asks_a_judge(one, seen) for one in reached)


def _is_judge(value: Any) -> bool:
    home = getattr(value, "__module__", None) or getattr(value, "__name__", None) or ""
    return str(home).startswith(_JUDGES)


def _reading(name: str, path: Path, work: Any) -> Any:
    """What `work` returns. Whatever a task's own code raises over its files becomes one UserError: it has no error
    classes of its own, and lmms-eval packs some of its errors into those of a library that tries again."""
    try:
        return work()
    except (UserError, MemoryError):
        raise
    except Exception as error:
        cause = error.__cause__ or error
        missing = "needs the package" if isinstance(cause, ModuleNotFoundError) else "cannot be built"
        what = cause.name if isinstance(cause, ModuleNotFoundError) else one_line(reason(cause))
        remedy = "install it" if isinstance(cause, ModuleNotFoundError) else "see which columns the task reads"
        raise UserError(f"task {name}: {missing} ({what}) from {path}; {remedy}") from error
