"""Evaluate a model on a benchmark or a suite, in one process or in several that torchrun has started.

Batches are made by length (batches.py), and each process takes the next one until there are none (team.py), so that
the longest come first and all end together. Every answer is on disk before the next batch starts (answer_files.py), and
the main process finds earlier answers and writes the scores (bookkeeping.py).

A run that is killed anywhere and resumed, by any number of processes, makes the same batches as one that is not: on a
CPU with one thread its answers are the same bit for bit. With another batch size logits may differ by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from proxyv.environment import describe_model
from proxyv.errors import UserError
from proxyv.evaluation.answer_files import AnswerFiles, add_answers, answers_lock
from proxyv.evaluation.answerer import Answerer
from proxyv.evaluation.answers import eval_mode
from proxyv.evaluation.batches import AUTO, BatchSize, answer_in_parts, answer_whole, check_numbers
from proxyv.evaluation.benchmarks import Benchmark, Suite, load_benchmark, load_suite
from proxyv.evaluation.bookkeeping import Bookkeeping, Work
from proxyv.evaluation.dry_run import generated_samples
from proxyv.evaluation.samples import BenchmarkSamples
from proxyv.evaluation.scoring import summarize_suite
from proxyv.evaluation.team import Team, together
from proxyv.files import write_json
from proxyv.locks import only_process
from proxyv.results.scores import BenchmarkResult, SuiteResult
from proxyv.schema import describe_change


def evaluate(
    model: Any,
    processor: Any,
    benchmark: Benchmark | str | Path,
    *,
    data_root: str | Path,
    output_dir: str | Path,
    batch_size: BatchSize = 1,
    limit: int | None = None,
    resume: bool = False,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    benchmarks_dir: str | Path | None = None,
    progress: bool = True,
) -> BenchmarkResult:
    """Score a model on a benchmark; returns what is written to `<output_dir>/<benchmark>.json`.

    Under torchrun every process must call it, each with the model on its own device; all machines must share
    `output_dir` and have the data.

    Args:
        model, processor: any pair with Hugging Face's interface (`generate`; `apply_chat_template`, call,
            `batch_decode`).
        benchmark: a benchmark, its name, or the path of its YAML file.
        data_root: the folder that the benchmark's `data` is relative to.
        batch_size: samples generated at once; recorded, since rounding may differ between sizes. "auto": 8 on a CPU;
            elsewhere 64 or as many as fit, by halves, whenever a batch does not. At most each process's share.
        limit: only the first samples.
        resume: continue after the answers found in `output_dir`; without it they are overwritten.
        seed: set before each batch and recorded.
        recipe: recorded as it is.
        benchmarks_dir: where benchmarks are looked up by name.

    Raises UserError for wrong input, for answers found by `resume` that are not of this run, and where another process
    is at work on the same answers; ElsewhereError where another process of this run has failed.
    """
    check_numbers(batch_size, limit, seed)
    if not isinstance(benchmark, Benchmark):
        benchmark = load_benchmark(benchmark, benchmarks_dir)
    settings = _Settings(Path(output_dir), batch_size, limit, resume, recipe, progress)
    with together() as team:
        samples = team.main_first(lambda: BenchmarkSamples(benchmark, data_root))
        return _evaluate(team, Answerer(model, processor, samples, seed), settings)


@dataclass(frozen=True)
class CheckedSuite:
    """A suite whose benchmarks' data files have been read."""

    suite: Suite
    samples: list[BenchmarkSamples]


def evaluate_suite(
    model: Any,
    processor: Any,
    suite: CheckedSuite | Suite | str | Path,
    *,
    data_root: str | Path,
    output_dir: str | Path,
    batch_size: BatchSize = 1,
    limit: int | None = None,
    resume: bool = False,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    benchmarks_dir: str | Path | None = None,
    progress: bool = True,
) -> SuiteResult:
    """Evaluate on every benchmark of a suite; returns what is written to `<output_dir>/suite-<name>.json`.

    Arguments and errors (UserError) are those of `evaluate`. All data files are opened before the first answer is made,
    or have been, by `check_suite`.
    """
    check_numbers(batch_size, limit, seed)
    settings = _Settings(Path(output_dir), batch_size, limit, resume, recipe, progress)
    with together() as team, ExitStack() as held:
        if not isinstance(suite, CheckedSuite):
            suite = check_suite(suite, data_root, batch_size, limit, seed, benchmarks_dir)
        summary_path = settings.output_dir / f"suite-{suite.suite.name}.json"
        if team.is_main:
            held.enter_context(only_process(answers_lock(output_dir, summary_path.stem)))
            summary_path.unlink(missing_ok=True)  # it would no longer belong to the answers beside it
        results = {
            samples.benchmark.name: _evaluate(team, Answerer(model, processor, samples, seed), settings)
            for samples in suite.samples
        }
        summary = summarize_suite(suite.suite, results)
        if team.is_main:
            write_json(summary_path, summary)
        return summary


def check_suite(
    suite: Suite | str | Path,
    data_root: str | Path,
    batch_size: BatchSize = 1,
    limit: int | None = None,
    seed: int = 0,
    benchmarks_dir: str | Path | None = None,
    dry_run: bool = False,
) -> CheckedSuite:
    """All that `evaluate_suite` can refuse without a model: the suite and its benchmarks, whose data files are read.

    dry_run: make rows below `data_root` first; see dry_run.py.

    Raises UserError as it does.
    """
    check_numbers(batch_size, limit, seed)
    if not isinstance(suite, Suite):
        if benchmarks_dir is None and str(suite).endswith(".yaml"):
            benchmarks_dir = Path(suite).parent
        suite = load_suite(suite, benchmarks_dir)
    benchmarks = [load_benchmark(name, benchmarks_dir) for name in suite.benchmarks]
    with together() as team:
        opened = generated_samples if dry_run else BenchmarkSamples
        samples = team.main_first(lambda: [opened(benchmark, data_root) for benchmark in benchmarks])
    return CheckedSuite(suite, samples)


@dataclass(frozen=True)
class _Settings:
    """How an evaluation runs; see `evaluate`."""

    output_dir: Path
    batch_size: BatchSize
    limit: int | None
    resume: bool
    recipe: Mapping[str, Any] | None
    progress: bool


def _evaluate(team: Team, answerer: Answerer, settings: _Settings) -> BenchmarkResult:
    """One benchmark, as one of the team."""
    files = AnswerFiles(settings.output_dir, answerer.samples.benchmark.name)
    with ExitStack() as held:
        held.enter_context(eval_mode(answerer.model))
        if team.is_main:
            held.enter_context(only_process(files.lock))
            book = Bookkeeping(files, answerer, settings.limit, settings.recipe, settings.progress)
        work = team.from_main(lambda: book.begin(settings.batch_size, settings.resume, team.size))
        _check_same_model(team, answerer.model, work)
        halved = _answer_batches(team, answerer, files, work, settings)
        everywhere = team.gather(sorted(halved))
        return team.from_main(lambda: book.finish(size for sizes in everywhere for size in sizes))


def _check_same_model(team: Team, model: Any, work: Work) -> None:
    if difference := describe_change(work["model"], describe_model(model), "model"):
        raise UserError(f"process {team.rank}: {difference}; give all processes the same model and kind of device")


def _answer_batches(team: Team, answerer: Answerer, files: AnswerFiles, work: Work, settings: _Settings) -> set[int]:
    """Take the next batch and write its answers until there are none; returns the sizes of batches that were halved."""
    batches, halved = work["batches"], set[int]()
    taken, answered = team.counter(), team.counter()
    total = work["found"] + sum(map(len, batches))
    bar = tqdm(total=total, initial=work["found"], desc=files.name, disable=not (settings.progress and team.is_main))
    with bar, files.adding(team.rank) as file:
        while (number := taken(1) - 1) < len(batches):
            team.look()
            batch = batches[number]
            if settings.batch_size == AUTO:
                records, sizes = answer_in_parts(answerer.ask, batch)
                halved |= sizes
            else:
                records = answer_whole(answerer.ask, batch)
            add_answers(file, records)
            bar.update(work["found"] + answered(len(batch)) - bar.n)
    return halved
