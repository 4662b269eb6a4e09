"""Benchmarks and suites: what their YAML files hold, and how they are found and read.

A benchmark is `eval/benchmarks/<name>.yaml`, a suite `eval/suites/<name>.yaml`; a name or a path is accepted.
Unknown keys, metrics and scores are errors that name the file and the nearest known word.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from proxyv.domains import CheckedBy, Count, Declared, Name, Place, Positive, Text
from proxyv.errors import UserError, suggest
from proxyv.evaluation.metrics import METRICS, Metric, get_metric
from proxyv.evaluation.prompts import PromptTemplate
from proxyv.files import CHECKOUT
from proxyv.schema import load_dataclass

NamedFile = TypeVar("NamedFile", "Benchmark", "Suite")
Column = Annotated[Text, CheckedBy("evaluation/samples.py")]
Score = Annotated[Text, CheckedBy("evaluation/benchmarks.py")]
FileName = Annotated[Name, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


@dataclass
class Columns(Declared):
    """Which column of the data holds what. A name may lead into lists and mappings: `messages.0.content`."""

    question: Column  # a list of texts makes one sample of each
    answers: Column  # one text or a list of accepted ones
    image: Column | None = None  # embedded bytes, a path relative to the data file, or a list of either: all are sent
    marked_images: dict[Text, Column] = field(default_factory=dict)  # in its place, mark in the text → column
    id: Column | None = None  # null: the row's number
    context: Column | None = None  # what the prompt says before the question; null, "" and "nan": nothing
    options: list[Column] = field(default_factory=list)  # one that holds a list, or spells one; or one an option
    answers_are: Literal["texts", "option_numbers"] = "texts"  # numbers from 0, which become the options' letters
    keep: list[Column] = field(default_factory=list)  # kept with every answer: metrics and groups read them


@dataclass
class ImageTable(Declared):
    """Images in files of their own; the column `image` of the questions holds the `id` of one."""

    data: Place
    id: Column = "id"
    image: Column = "image"


@dataclass
class Benchmark(Declared):
    """One task: its data, its prompt and how answers are scored."""

    name: FileName  # equal to the file's name
    title: Text  # for tables
    data: Place  # parquet or JSON: a file, a folder of shards or a pattern with *, below the data root or absolute
    split: Text  # in words, recorded with the result
    columns: Columns
    metrics: list[Annotated[Name, CheckedBy("evaluation/benchmarks.py")]]  # names of proxyv/evaluation/metrics/
    main: Score  # the score that tables show
    max_new_tokens: Count
    lmms_eval: Text | None = None  # the harness's task with the same prompts and scores
    version: Text = "1"  # raised whenever a change here changes scores
    prompt: PromptTemplate = field(default_factory=PromptTemplate)
    images: ImageTable | None = None  # where they lie apart from the questions
    only: dict[Column, list[Text]] = field(
        default_factory=dict
    )  # rows whose column fits a pattern (*), and none with !
    scale: Positive = 100.0  # tables show main · scale
    group_by: Column | None = None  # a kept column; scores are also given for each of its values
    allow_outside: bool = False  # image paths may lead out of the data file's folder

    @property
    def used_metrics(self) -> list[Metric]:
        """The metrics in the file's order."""
        return [get_metric(name) for name in self.metrics]

    @property
    def score_names(self) -> list[str]:
        """The names of all scores the metrics give."""
        return [score for metric in self.used_metrics for score in metric.scores]

    def definition(self) -> dict[str, Any]:
        """All fields that say what is measured, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "allow_outside"}


@dataclass
class Term(Declared):
    """One summand of a suite's score: the mean `score` of a benchmark times `scale`."""

    benchmark: Annotated[Text, CheckedBy("evaluation/benchmarks.py")]
    score: Score
    scale: Positive = 100.0


@dataclass
class Suite(Declared):
    """A list of benchmarks and how one score is made of them: the mean of `terms`."""

    name: FileName
    title: Text
    benchmarks: list[Place]
    score_name: Text  # for tables and axes
    terms: list[Term]


def load_benchmark(name_or_path: str | Path, benchmarks_dir: str | Path | None = None) -> Benchmark:
    """A benchmark by name or path. Raises UserError for an unknown name or a faulty file."""
    path = _find("benchmarks", name_or_path, benchmarks_dir)
    benchmark = _load(Benchmark, path)
    _check_benchmark(benchmark, path)
    return benchmark


def load_suite(name_or_path: str | Path, benchmarks_dir: str | Path | None = None) -> Suite:
    """A suite by name or path, its benchmarks checked as well; a benchmark's name stands for a suite of it alone.

    Raises UserError as `load_benchmark` does.
    """
    name = str(name_or_path)
    if name in list_names("benchmarks", benchmarks_dir) and name not in list_names("suites", benchmarks_dir):
        alone = load_benchmark(name, benchmarks_dir)
        return Suite(name, alone.title, [name], alone.main, [Term(name, alone.main, alone.scale)])
    path = _find("suites", name_or_path, benchmarks_dir)
    suite = _load(Suite, path)
    for name, listed in (("benchmarks", suite.benchmarks), ("terms", suite.terms)):
        if not listed:
            raise UserError(f"{path}: field '{name}' is empty; name one at least")
    benchmarks = {name: load_benchmark(name, benchmarks_dir or path.parent) for name in suite.benchmarks}
    for name, benchmark in benchmarks.items():
        if benchmark.name != name:
            raise UserError(f"{path}: field 'benchmarks': name '{benchmark.name}' instead of the path '{name}'")
    for term in suite.terms:
        if term.benchmark not in benchmarks:
            hint = suggest(term.benchmark, suite.benchmarks)
            raise UserError(f"{path}: terms: '{term.benchmark}' is not among the suite's benchmarks{hint}")
        names = benchmarks[term.benchmark].score_names
        if term.score not in names:
            raise UserError(f"{path}: terms: {term.benchmark} has no score '{term.score}'{suggest(term.score, names)}")
    return suite


def list_names(kind: str, benchmarks_dir: str | Path | None = None) -> list[str]:
    """The names of all "benchmarks" or "suites" that can be found."""
    return sorted({path.stem for folder in _folders(kind, benchmarks_dir) for path in folder.glob("*.yaml")})


def _folders(kind: str, benchmarks_dir: str | Path | None) -> list[Path]:
    """Where files of this kind may lie: the given folder (an eval/ or a folder in it), then the shipped eval/."""
    shipped = [CHECKOUT / "eval" / kind, Path.cwd() / "eval" / kind]
    if benchmarks_dir is None:
        return shipped
    given = Path(benchmarks_dir)
    if not given.is_dir():
        raise UserError(f"{given}: no such folder; --benchmarks_dir takes one that holds benchmark YAML files")
    return [given / kind, given.parent / kind, given, *shipped]


def _find(kind: str, name_or_path: str | Path, benchmarks_dir: str | Path | None) -> Path:
    if str(name_or_path).endswith((".yaml", ".yml")):
        return Path(name_or_path)
    for folder in _folders(kind, benchmarks_dir):
        path = folder / f"{name_or_path}.yaml"
        if os.path.isfile(path):
            return path
    known = list_names(kind, benchmarks_dir)
    if not known:
        where = _folders(kind, benchmarks_dir)[0]
        raise UserError(f"{where}: no {kind} found here; give their folder with --benchmarks_dir")
    raise UserError(f"unknown {kind.removesuffix('s')} '{name_or_path}'{suggest(str(name_or_path), known)}")


def _load(schema: type[NamedFile], path: Path) -> NamedFile:
    """Read a YAML file strictly; its `name` must be that of the file."""
    loaded = load_dataclass(schema, path)
    if loaded.name != path.stem:
        raise UserError(f"{path}: field 'name' is '{loaded.name}'; it must equal the file's name")
    return loaded


def _check_benchmark(benchmark: Benchmark, path: Path) -> None:
    """Raise UserError where fields contradict each other."""
    _check_columns(benchmark, path)
    for name in benchmark.metrics:
        if name not in METRICS:
            raise UserError(f"{path}: field 'metrics': unknown metric '{name}'{suggest(name, METRICS)}")
    _require_known(path, "main", benchmark.main, benchmark.score_names)
    kept = benchmark.columns.keep
    if benchmark.group_by is not None:
        _require_known(path, "group_by", benchmark.group_by, kept)
    given = {*kept, "image_size", *(["options"] if benchmark.columns.options else [])}
    for metric in benchmark.used_metrics:
        for need in metric.needs:
            if need not in given:
                raise UserError(f"{path}: metric '{metric.name}' needs '{need}'; add it to columns.keep")


def _check_columns(benchmark: Benchmark, path: Path) -> None:
    columns, prompt = benchmark.columns, benchmark.prompt
    if (columns.image is None) == (not columns.marked_images):
        found = "both" if columns.image else "neither"
        raise UserError(f"{path}: columns: give one of 'image' and 'marked_images', found {found}")
    if benchmark.images is not None and columns.image is None:
        raise UserError(f"{path}: columns: field 'image' is missing; with 'images' it holds their ids")
    for column, text in (("context", prompt.context), ("options", prompt.options)):
        if bool(getattr(columns, column)) != bool(text):
            raise UserError(f"{path}: columns.{column} and prompt.{column} belong together; give both or neither")
    if columns.answers_are == "option_numbers" and not columns.options:
        raise UserError(f"{path}: columns.answers_are: 'option_numbers' needs columns.options; add them")


def _require_known(path: Path, key: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise UserError(f"{path}: field '{key}': unknown '{word}'{suggest(word, known)}")
