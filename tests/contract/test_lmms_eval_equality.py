"""Prompts, parsed answers and scores are those of lmms-eval, task by task, on local files of the real columns.

Both sides read the same generated rows. lmms-eval's own task is built from its own YAML file (`load_task`), with
nothing changed but where the data lie; its prompts, filters, scores and totals are asked of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import ImageFile

from proxyv.evaluation.benchmarks import Benchmark, list_names, load_benchmark
from proxyv.evaluation.lmms_eval.tasks import load_task
from proxyv.evaluation.metrics import METRICS
from proxyv.evaluation.metrics.boxes import parse_box
from proxyv.evaluation.metrics.letters import inferred_letter, stated_letter
from proxyv.evaluation.metrics.vqa import normalize_vqa_answer
from proxyv.evaluation.samples import BenchmarkSample, BenchmarkSamples
from proxyv.pages.benchmark_rows import write_generated
from tests.harness_answers import make_answer, right_answers

ANSWERS = 500  # at least, of each task
ROWS = {"mmbench_en_dev": 20, "mme": 56}
NAMES = [name for name in list_names("benchmarks") if load_benchmark(name).lmms_eval]
# Names of totals there and here, where they are not the only ones.
TOTALS = {
    "chartqa": {"relaxed_overall": "relaxed_accuracy"},
    "mme": {"mme_perception_score": "perception", "mme_cognition_score": "cognition"},
    "pope": {
        **{f"pope_{name}": name for name in ("accuracy", "precision", "recall")},
        **{"pope_f1_score": "f1", "pope_yes_ratio": "yes_references"},
    },
    "mmstar": {"average": "mmstar"},
    "mmbench_en_dev": {"gpt_eval_score": "circular"},
    "seedbench_image": {"seed_image": "letter_first"},
    "refcoco": {
        "refcoco_IoU": "iou",
        "refcoco_Center_ACC": "center_acc",
        **{f"refcoco_ACC@{t}": f"acc@{t}" for t in (0.1, 0.3, 0.5, 0.7, 0.9)},
    },
}
# What a total there must be divided by to lie between 0 and 1.
SCALES = {"mme_perception_score": 2000, "mme_cognition_score": 800, "gpt_eval_score": 100}


@dataclass(frozen=True)
class Harness:
    """A benchmark on both sides, on the same rows."""

    benchmark: Benchmark
    samples: list[BenchmarkSample]
    sizes: list[list[tuple[int, int]]]  # of each sample's images
    task: Any
    docs: list[dict[str, Any]]

    def theirs(self, doc: dict[str, Any], answer: str) -> dict[str, Any]:
        """What their task makes of an answer, by metric."""
        instance = SimpleNamespace(resps=[answer], filtered_resps={})
        (filters,) = self.task._filters
        filters.apply([instance], [doc])
        copied = {key: list(value) if isinstance(value, list) else value for key, value in doc.items()}
        return self.task.process_results(copied, [instance.filtered_resps[filters.name]])

    def ours(self, sample: BenchmarkSample, size: tuple[int, int], answer: str) -> dict[str, Any]:
        """Our record of an answer."""
        row = sample.kept | {"image_size": list(size)}
        scores: dict[str, float] = {}
        for metric in self.benchmark.used_metrics:
            scores |= metric.function(answer, sample.references, row)
        return {"prediction": answer, "references": sample.references, "row": row, "scores": scores}


@pytest.fixture(scope="module", params=NAMES)
def harness(request, tmp_path_factory):
    benchmark, folder = load_benchmark(request.param), tmp_path_factory.mktemp(request.param)
    write_generated(benchmark.name, folder, ROWS.get(benchmark.name, 32), seed=5)
    found = BenchmarkSamples(benchmark, folder)
    samples = list(found)
    task = load_task(benchmark.lmms_eval, None, folder).task
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # lmms-eval sets it when it is imported
    docs = [doc for doc in task.test_docs() if doc.get("data_type") != "video"]
    return Harness(benchmark, samples, [[i.size for i in found.images(one)] for one in samples], task, docs)


def test_samples_prompts_and_images_are_the_same(harness):
    assert len(harness.docs) == len(harness.samples) >= 20
    for doc, sample, sizes in zip(harness.docs, harness.samples, harness.sizes, strict=True):
        assert harness.task.doc_to_text(doc) == sample.text
        assert [image.size for image in harness.task.doc_to_visual(doc)] == sizes


def test_answers_are_read_and_scored_alike(harness, tmp_path, monkeypatch):
    name = harness.benchmark.name
    guess_nothing(monkeypatch)
    rng, asked = random.Random(name), 0
    while asked < ANSWERS:
        records, items = [], {}
        for doc, sample, sizes in zip(harness.docs, harness.samples, harness.sizes, strict=True):
            answer = make_answer(rng, right_answers(sample, sizes[0], rng))
            record, theirs = harness.ours(sample, sizes[0], answer), harness.theirs(doc, answer)
            check_reading(name, record, theirs)
            records.append(record)
            for metric, value in theirs.items():
                items.setdefault(metric, []).append(value)
        check_totals(harness, records, items, tmp_path)
        asked += len(records)
    assert {0.0, 1.0} <= {score for record in records for score in record["scores"].values()}, "one kind of answer"


LETTER_WORDS = r"""
A B C D (A) (B) A. B. C: D) B, :C: (D). Alice Bob Cat a b is it the dog cat answer, 'A' "B" B" AB ÄB -C C! nan E ; ...
the|answer|is my|answer|is the best|option|is correct|choice|is Answer|is i|select I|pick My|choice|is the|choice|is
the|correct|option|is option|is 答案是 选 정답은 best|choice|is
"""
OPTIONS = {"A": "dog", "B": "Cat", "C": "nan", "D": ""}


def test_letters_are_found_alike():
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    rng, evaluator, words = random.Random("letters"), MMBench_Evaluator(), LETTER_WORDS.split()
    texts = [rng.choice(" \n").join(rng.choices(words, k=rng.randint(0, 6))).replace("|", " ") for _ in range(3000)]
    for text in ("so answer is A B, yet the answer is B A there", *map(str.strip, texts)):
        letters = rng.choice(("ABCD", "ABC", "AB", ""))
        assert stated_letter(text, letters) == extract_mcq_answer(text, choices=list(letters)), (text, letters)
        options = {letter: OPTIONS[letter] for letter in letters}
        item = {"prediction": text, **dict.fromkeys("ABCD"), **options}
        theirs = evaluator.prefetch_answer(item) or extract_mcq_answer(text, choices=sorted(options))
        assert inferred_letter(text, options) == theirs, (text, options)


def test_numbers_are_compared_alike():
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    rng = random.Random("numbers")
    forms = ("{:g}", "{!r}", "{:.1f}%", " {} ", "{:,}", "{}%%", "nan", "inf")
    for _ in range(3000):
        gold = rng.choice((1, 20, 100, -40, 0.5, 0, 1e300, 12.5))
        answer = gold * rng.choice((1, 1.05, 0.95, 1.051, 0.949, 2, -1)) + rng.choice((0, 0, 1e-12, gold / 20))
        texts = [rng.choice(forms).format(number) for number in (answer, gold)]
        ours = METRICS["relaxed_accuracy"].function(texts[0], texts[1:], {})["relaxed_accuracy"]
        assert ours == relaxed_correctness(*texts), texts


def test_open_answers_are_read_alike():
    from lmms_eval.tasks.mmmu.utils import eval_open, parse_open_response

    rng = random.Random("open")
    words = (
        "is",
        "so",
        "thus",
        "answer",
        "could be",
        "final",
        "result",
        "=",
        ":",
        "x",
        "Blue",
        "1,234",
        "1.239",
        "-2e3",
    )
    row = {"question_type": "open", "options": {}}
    for _ in range(2000):
        answer = rng.choice((" ", "\n", ". ")).join(rng.choices(words, k=rng.randint(0, 6))).strip()
        gold = rng.choice(("x", "Blue", "1234", "1.24", "-2000", "0.5", "a", "is"))
        right = eval_open(gold, parse_open_response(answer))
        assert METRICS["mmmu"].function(answer, [gold], row)["mmmu"] == right, (answer, gold)


def test_words_have_the_same_normal_form():
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    theirs, rng = EvalAIAnswerProcessor(), random.Random("words")
    words = [*theirs.CONTRACTIONS, *theirs.CONTRACTIONS.values(), *theirs.NUMBER_MAP, *theirs.ARTICLES, "cat", "1.5"]
    words += [word.replace("'", "") for word in words] + ["it's", "its", "well", "were", "ill", "shell", "wed", "id"]
    marked = [f"{mark}{word}{mark}" for mark in "".join(theirs.PUNCTUATIONS) + ".,'%" for word in ("a", "1", "cat")]
    for word in words:
        assert normalize_vqa_answer(word) == theirs(word), word
    for _ in range(3000):
        text = rng.choice(" \n\t/-").join(rng.choices(words + marked, k=rng.randint(1, 4)))
        assert normalize_vqa_answer(text) == theirs(text), text


def guess_nothing(monkeypatch):
    """The one difference: where an answer names no option, MMMU's code guesses one at random; here it is wrong."""
    from lmms_eval.tasks._task_utils import mmmu_mcq_utils

    monkeypatch.setattr(mmmu_mcq_utils, "random", SimpleNamespace(choice=lambda options: "none of them"))


def check_reading(name, record, theirs):
    """What is read in one answer, as far as they tell it, and its score where that is a number."""
    answer, said = record["prediction"], next(iter(theirs.values()))
    if name.startswith("refcoco"):
        assert list(parse_box(answer)) == pytest.approx(said["pred"]), answer
    elif name in ("textvqa_val", "vizwiz_vqa_val"):
        assert normalize_vqa_answer(answer) == theirs["submission"]["answer"], answer
    score = said.get("score") if isinstance(said, dict) else said
    if isinstance(score, (int, float)):
        assert next(iter(record["scores"].values())) == pytest.approx(float(score), abs=1e-12), (answer, record, said)


def check_totals(harness, records, items, folder):
    """The benchmark's scores."""
    ours = {score: value for m in harness.benchmark.used_metrics for score, value in m.totals(records).items()}
    benchmark = harness.benchmark.name
    names = TOTALS.get("refcoco" if benchmark.startswith("refcoco") else benchmark)
    if names is None:  # theirs is the first of its metrics
        names = {next(iter(harness.task.aggregation())): harness.benchmark.main}
    for theirs, name in names.items():
        total = aggregated(harness, theirs, items.get(theirs, []), folder) / SCALES.get(theirs, 1)
        assert ours[name] == pytest.approx(total, abs=1e-5), (theirs, [record["prediction"] for record in records])


def aggregated(harness, metric, items, folder):
    function = harness.task.aggregation()[metric]
    if harness.benchmark.name == "ocrbench":
        points = function.__globals__["OCRBench_score"]
        points.update(dict.fromkeys(points, 0))  # it would add up over calls
        return function(items, SimpleNamespace(output_path=str(folder))) * 1000 / len(items)
    takes_arguments = "args" in function.__code__.co_varnames[: function.__code__.co_argcount]
    return function(items, SimpleNamespace(output_path=str(folder))) if takes_arguments else function(items)
