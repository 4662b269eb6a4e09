"""Evaluate a model by lmms-eval: tasks on local files in, result files out, one task after the other."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

from PIL import ImageFile

from proxyv.environment import describe_model, environment, package_version
from proxyv.errors import UserError, one_line, reason
from proxyv.evaluation.batches import BatchSize, check_numbers
from proxyv.evaluation.lmms_eval.tasks import LocalTask, load_task
from proxyv.evaluation.team import together
from proxyv.files import write_json, write_records
from proxyv.locks import LOCK, only_process
from proxyv.model import ProxyVProcessor
from proxyv.processes import connect, connected, gather, is_main
from proxyv.results.lmms_eval import LmmsEvalResult
from proxyv.results.scores import AnswerRecord

SEEDS = (0, 1234, 1234, 1234)  # lmms-eval's own, where none is given
OCRBENCH = "ocrbench_accuracy"  # the one metric that lmms-eval divides by the full set's size, whatever the limit
# What `python -m lmms_eval` takes for reasoning, and leaves out of answers, unless it is told otherwise.
REASONING = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'


def load_tasks(
    names: Sequence[str],
    data_root: str | Path,
    batch_size: BatchSize = 1,
    limit: int | None = None,
    seed: int | None = None,
) -> list[LocalTask]:
    """Tasks, each as `NAME` or `NAME=FILES` (see `load_task`), all of them checked before there is a model.

    The numbers are those of `evaluate_tasks`. Under torchrun the main process reads the data first.

    Raises UserError as `load_task` does, for a task that is named twice, and for numbers outside their domain.
    """
    check_numbers(batch_size, limit, seed or 0)
    pairs = [name.partition("=") for name in names]
    for name in {name for name, _, _ in pairs}:
        if [one for one, _, _ in pairs].count(name) > 1:
            raise UserError(f"--tasks: '{name}' is there twice; name it once")
    with _at_home(), together() as team:
        return team.main_first(lambda: [load_task(name, place or None, data_root) for name, _, place in pairs])


def evaluate_tasks(
    model: Any,
    processor: ProxyVProcessor,
    tasks: Sequence[LocalTask],
    *,
    output_dir: str | Path,
    batch_size: BatchSize = 1,
    limit: int | None = None,
    seed: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, LmmsEvalResult]:
    """Evaluate on tasks of lmms-eval; returns what is written to `<output_dir>/<task>.json`, task by task.

    Under torchrun or accelerate every process calls this; the main one writes, the others return nothing.

    Args:
        tasks: from `load_tasks`.
        batch_size: samples generated at once; "auto": as many as fit.
        limit: only the first samples of each.
        seed: set before each batch, and for all of lmms-eval's generators; None: 0, and its own defaults.
        recipe: recorded as it is.

    Raises UserError for a sample that cannot be asked, and where another process is at work in the folder.
    """
    from proxyv.evaluation.lmms_eval.model import LmmsEvalModel

    folder, seeds = Path(output_dir), list(SEEDS if seed is None else [seed] * len(SEEDS))
    results = {}
    connect()  # lmms-eval's processes meet in a process group
    with together(), only_process(folder / f".lmms-eval{LOCK}") if is_main() else nullcontext():
        for local in tasks:
            start = time.perf_counter()
            adapter = LmmsEvalModel(model, processor, batch_size, seed or 0, progress)
            with _at_home(), _keeping_answers(adapter, folder / f"{local.name}.unscored.jsonl"):
                found = _run(adapter, local, folder, limit, seeds)
            sent = {key: one for part in gather(adapter.sent) for key, one in part.items()}
            if found is None:  # not the main process
                continue
            samples = sorted(found["samples"][local.name], key=lambda sample: sample["doc_id"])
            records = [_record(sample, local, sent) for sample in samples]
            result = _plain(
                {
                    **_outcome(found, local, samples),
                    "limit": limit,
                    "batch_size": adapter.taken_size,
                    "seeds": seeds,
                    "wall_seconds": round(time.perf_counter() - start, 3),
                    "model": describe_model(model),
                    "recipe": dict(recipe or {}),
                    "environment": environment(),
                    "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                }
            )
            path = folder / f"{local.name}.json"
            path.unlink(missing_ok=True)  # it must never lie beside the answers of another run
            write_records(path.with_suffix(".jsonl"), records)
            write_json(path, result)
            results[local.name] = cast(LmmsEvalResult, result)
    return results


def _run(adapter: Any, local: LocalTask, folder: Path, limit: int | None, seeds: list[int]) -> dict[str, Any] | None:
    """What lmms-eval says of one task; None in all processes but the main one."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    found = simple_evaluate(
        model=adapter,
        tasks=[local.task],
        # The tasks are built already: it need not look for any, which takes it 20 seconds.
        task_manager=TaskManager(include_defaults=False, model_name=local.task.model_name),
        batch_size=adapter.batch_size,
        limit=limit,
        log_samples=True,
        random_seed=seeds[0],
        numpy_random_seed=seeds[1],
        torch_random_seed=seeds[2],
        fewshot_random_seed=seeds[3],
        # As from its command line: some tasks write files of their own, which go below our folder.
        cli_args=Namespace(output_path=str(folder), process_with_media=False, reasoning_tags=REASONING),
        distributed_executor_backend="torchrun" if connected() else "accelerate",
    )
    return cast("dict[str, Any] | None", found)


def _outcome(found: Mapping[str, Any], local: LocalTask, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of LmmsEvalResult that come from lmms-eval and its task."""
    scores, notes = _scores(found["results"][local.name], samples)
    return {
        "kind": "lmms-eval",
        "task": local.name,
        "scores": scores,
        "num_samples": len(samples),
        "notes": notes,
        "lmms_eval": package_version("lmms-eval"),
        "task_version": found["versions"][local.name],
        "task_definition": found["configs"][local.name],
        "files": [str(file) for file in local.files],
        "available_samples": local.rows,
    }


def _scores(given: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], list[str]]:
    """A task's scores by metric ("metric,filter" where it has filters), and what was put right in them."""
    numbers = {
        name.removesuffix(",none"): float(value)
        for name, value in given.items()
        if "," in name and "_stderr" not in name and isinstance(value, (int, float))
    }
    scores = {name: value for name, value in numbers.items() if math.isfinite(value)}
    notes = [f"lmms-eval says {name} {numbers[name]}, which is no score" for name in numbers if name not in scores]
    if OCRBENCH in scores:
        right = sum(sample[OCRBENCH]["score"] for sample in samples) / len(samples)
        if scores[OCRBENCH] != right:
            notes.append(
                f"lmms-eval says {OCRBENCH} {scores[OCRBENCH]:.4f}: it divides by 1000, here by {len(samples)}"
            )
        scores[OCRBENCH] = right
    return scores, notes


def _record(sample: Mapping[str, Any], local: LocalTask, sent: Mapping[tuple[str, int], Any]) -> AnswerRecord:
    """A sample as lmms-eval logs it, as a line of answers."""
    asked, target = sent[local.name, sample["doc_id"]], sample["target"]
    if target == local.task.config.doc_to_target and target not in sample["doc"]:
        target = []  # TextVQA's names a column that is nowhere, and lmms-eval logs the name
    scores = {
        metric: value["score"] if isinstance(value, Mapping) and "score" in value else value
        for metric, value in sample.items()
        if metric in local.task.aggregation()
    }
    record: AnswerRecord = _plain(
        {
            "index": sample["doc_id"],
            "id": str(sample["doc_id"]),
            "prompt": asked.prompt,
            "prediction": str(sample["filtered_resps"][0]),
            "references": [str(one) for one in (target if isinstance(target, list) else [target])],
            "scores": {name: float(value) for name, value in scores.items() if isinstance(value, (bool, int, float))},
            "new_tokens": asked.answer.new_tokens,
            "finished": asked.answer.finished,
            "row": sample["doc"],
        }
    )
    return record


def _plain(value: Any) -> Any:
    """The same in JSON's own types; what JSON has none for becomes text, functions without where they lie in memory."""
    return json.loads(json.dumps(value, default=lambda other: re.sub(" at 0x[0-9a-f]+", "", str(other))))


@contextmanager
def _keeping_answers(adapter: Any, path: Path) -> Iterator[None]:
    """Where lmms-eval fails over answers that are all there, this process's are written, and the error becomes a
    UserError: tasks' scoring has no error classes of its own (MME's, of an odd limit, is an assertion)."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (UserError, MemoryError)) or not adapter.answered:
            raise
        given = [
            {"index": sample, "prompt": one.prompt, "prediction": one.answer.text}
            for (_, sample), one in sorted(adapter.sent.items())
        ]
        write_records(path, given)
        said = one_line(reason(error.__cause__ or error))
        remedy = "the answers are in that file; try another --limit, or none"
        raise UserError(f"{path}: lmms-eval cannot score these {len(given)} answers ({said}); {remedy}") from error


@contextmanager
def _at_home() -> Iterator[None]:
    """Keep lmms-eval from what is ours: what it and its tasks print goes to stderr, as stdout is for results, and
    Pillow goes on to refuse truncated images, which lmms-eval, once imported, has it fill up with grey."""
    truncated = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
