"""lmms-eval itself, imported once for all tests here: its tasks, parsing and scores around our answers."""

import json
import multiprocessing
import os
import re
import socket
import sys
from functools import partial
from importlib.metadata import entry_points
from io import BytesIO

import datasets
import pytest
import torch
from loguru import logger
from PIL import Image

from proxyv.cli import main
from proxyv.errors import UserError
from proxyv.evaluation.answers import chat_prompt, generate_answers
from proxyv.evaluation.lmms_eval.generation import Generation, read_generation
from proxyv.evaluation.runner import evaluate
from proxyv.files import read_json, read_records
from proxyv.pages.benchmark_files import BENCHMARK_FILES
from proxyv.pages.page import PageSpec
from tests.tiny import METHODS, tiny_model

ROWS = 6
SUFFIX = "\nAnswer the question using a single word or phrase."
ONE_WORD = "\nAnswer the question with a single word."
OURS = """
name: local_docvqa
title: Documents
data: docvqa.parquet
split: local
columns: {id: questionId, image: image, question: question, answers: answers}
prompt: {suffix: "\\nAnswer the question using a single word or phrase."}
max_new_tokens: 32
metrics: [anls]
main: anls
"""
# A task as a user writes it to run lmms-eval's own command on local files.
THEIRS = """
include: {task}
task: docvqa_here
dataset_path: parquet
dataset_name: null
dataset_kwargs: {{data_files: {{validation: {file}}}}}
"""


@pytest.fixture(scope="module")
def loaded():
    return tiny_model(method=METHODS[1])


@pytest.fixture(scope="module")
def data(tmp_path_factory, loaded):
    """A folder with a saved model and with DocVQA's, ChartQA's and OCRBench's columns. Some of the answers are what the
    model says, some are nearly that."""
    folder = tmp_path_factory.mktemp("lmms")
    model, processor = loaded
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    for name, suffix, tokens in (("docvqa", SUFFIX, 32), ("chartqa", ONE_WORD, 16), ("ocrbench", "", 128)):
        rows = BENCHMARK_FILES[name].dataset(PageSpec(), seed=0, pages=ROWS).to_list()
        images = [[datasets.Image().decode_example(row["image"]).convert("RGB")] for row in rows]
        prompts = [chat_prompt(processor, row["question"].strip() + suffix) for row in rows]
        for place, (row, said) in enumerate(
            zip(rows, generate_answers(model, processor, prompts, images, tokens), strict=True)
        ):
            answer = (said.text, said.text[: -(place + 1)] + "q" * place, "other")[place % 3]
            row["answers" if name == "docvqa" else "answer"] = answer if name == "chartqa" else [answer]
        features = datasets.Features(BENCHMARK_FILES[name].columns)
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{name}.parquet")
    (folder / "local_docvqa.yaml").write_text(OURS)
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The engine, and the caches of `datasets` in a folder of the test's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        import lmms_eval.models  # noqa: F401  # sends its messages to this fixture's stdout, which ends with it

        from proxyv.evaluation.lmms_eval import engine

        logger.remove()
        yield engine


@pytest.fixture(scope="module")
def results(engine, loaded, data):
    """Three tasks, one after the other, in batches of two."""
    tasks = engine.load_tasks(
        ["docvqa_val=docvqa.parquet", "chartqa=chartqa.parquet", "ocrbench=ocrbench.parquet"], data
    )
    return engine.evaluate_tasks(*loaded, tasks, output_dir=data / "batches", batch_size=2, progress=False)


def test_scores_are_those_of_our_own_engine(results, loaded, data):
    ours = evaluate(*loaded, data / "local_docvqa.yaml", data_root=data, output_dir=data / "ours", progress=False)
    assert 0.1 < ours["scores"]["anls"] < 0.9
    assert results["docvqa_val"]["scores"]["anls"] == pytest.approx(ours["scores"]["anls"], abs=1e-12)
    lines = read_records(data / "batches" / "docvqa_val.jsonl")
    for line, other in zip(lines, read_records(data / "ours" / "local_docvqa.jsonl"), strict=True):
        for same in ("index", "prompt", "prediction", "references", "new_tokens", "finished"):
            assert line[same] == other[same]
        assert line["scores"]["anls"] == pytest.approx(other["scores"]["anls"])


def test_a_second_task_finds_the_model_and_the_results_say_what_was_measured(results, loaded, data):
    assert 0 < results["chartqa"]["scores"]["relaxed_overall"] < 1
    written = read_json(data / "batches" / "chartqa.json")
    assert written == results["chartqa"]
    assert written["files"] == [str(data / "chartqa.parquet")] and written["num_samples"] == ROWS
    assert written["lmms_eval"].startswith("0.7") and written["model"]["fingerprint"]
    assert written["task_definition"]["lmms_eval_specific_kwargs"]["default"]["post_prompt"] == ONE_WORD


def test_ocrbench_is_divided_by_its_samples(results):
    result = results["ocrbench"]
    assert 0 < result["scores"]["ocrbench_accuracy"] < 1
    right = round(result["scores"]["ocrbench_accuracy"] * ROWS)
    assert result["scores"]["ocrbench_accuracy"] == right / ROWS
    assert result["notes"] == [
        f"lmms-eval says ocrbench_accuracy {right / 1000:.4f}: it divides by 1000, here by {ROWS}"
    ]


def test_answers_are_kept_where_lmms_eval_fails_over_them(engine, loaded, data, tmp_path, monkeypatch):
    (task,) = engine.load_tasks(["docvqa_val=docvqa.parquet"], data)
    monkeypatch.setitem(task.task._aggregation_list, "anls", lambda scores: scores[len(scores)])
    with pytest.raises(
        UserError, match=r"docvqa_val.unscored.jsonl: lmms-eval cannot score these 2 answers .IndexError"
    ):
        engine.evaluate_tasks(*loaded, [task], output_dir=tmp_path, batch_size=2, limit=2, progress=False)
    kept = read_records(tmp_path / "docvqa_val.unscored.jsonl")
    assert [line["prediction"] for line in kept] == [
        line["prediction"] for line in read_records(data / "batches" / "docvqa_val.jsonl")[:2]
    ]
    assert not (tmp_path / "docvqa_val.json").exists()


def member(rank, port, model, folder):
    """One of two processes, as torchrun starts them."""
    from accelerate.state import AcceleratorState, PartialState

    from proxyv.checkpoints.load import load_for_evaluation
    from proxyv.evaluation.lmms_eval import engine

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    for state in (AcceleratorState, PartialState):  # of the process that was copied
        state._reset_state()
    tasks, loaded = engine.load_tasks(["docvqa_val=docvqa.parquet"], folder), load_for_evaluation(model)
    engine.evaluate_tasks(loaded.model, loaded.processor, tasks, output_dir=folder, batch_size=2, progress=False)


def test_two_processes_leave_the_files_of_one(results, data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A file of its own, whose cache and lock no process has seen: locks do not outlive a copy of their process.
    (tmp_path / "docvqa.parquet").write_bytes((data / "docvqa.parquet").read_bytes())
    # Copies of this process have everything imported, but would wait for ever for threads that were not copied.
    context = multiprocessing.get_context("fork" if torch.get_num_threads() == 1 else "spawn")
    processes = [context.Process(target=member, args=(rank, port, data / "model", tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(150)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    for same in ("scores", "num_samples"):
        assert read_json(tmp_path / "docvqa_val.json")[same] == results["docvqa_val"][same]
    assert (tmp_path / "docvqa_val.jsonl").read_bytes() == (data / "batches" / "docvqa_val.jsonl").read_bytes()


def test_lmms_evals_own_command_and_ours_print_the_same_score(results, engine, data, tmp_path, monkeypatch, capsys):
    import lmms_eval.__main__ as command
    from lmms_eval.tasks import docvqa

    (tmp_path / "tasks").mkdir()
    own = f"{docvqa.__path__[0]}/docvqa_val.yaml"
    (tmp_path / "tasks" / "docvqa_here.yaml").write_text(THEIRS.format(task=own, file=data / "docvqa.parquet"))
    # Its scan of all its tasks takes 20 seconds and finds nothing that is needed here.
    monkeypatch.setattr(command, "TaskManager", partial(command.TaskManager, include_defaults=False))
    words = ["--model", "proxyv", "--model_args", f"pretrained={data / 'model'}", "--batch_size", "3"]
    words += ["--include_path", str(tmp_path / "tasks"), "--tasks", "docvqa_here"]
    words += ["--verbosity", "DEBUG"]  # above DEBUG it hides errors
    monkeypatch.setattr(sys, "argv", ["lmms_eval", *words])
    command.cli_evaluate()
    logger.remove()  # of this test's stdout
    theirs = re.search(r"\|docvqa_here.*\|anls\s*\|[^|]*\|\s*([\d.]+)\|", capsys.readouterr().out)
    words = ["eval", data / "model", "--engine", "lmms-eval", "--tasks", "docvqa_val=docvqa.parquet"]
    main([*map(str, words), "--data_root", str(data), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert printed == f"docvqa_val: anls {results['docvqa_val']['scores']['anls']:.4f} ({ROWS} samples)\n"
    assert theirs is not None and theirs[1] in printed


def test_a_live_model_is_handed_to_lmms_eval_with_tasks_overridden_in_python(results, engine, loaded, data):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager, chartqa, docvqa

    from proxyv.evaluation.lmms_eval.model import LmmsEvalModel

    manager = TaskManager(include_defaults=False, include_path=[docvqa.__path__[0], chartqa.__path__[0]])
    local = {"dataset_path": "parquet", "dataset_name": None}
    tasks = [
        {"task": "docvqa_val", **local, "dataset_kwargs": {"data_files": {"validation": str(data / "docvqa.parquet")}}},
        {"task": "chartqa", **local, "dataset_kwargs": {"data_files": {"test": str(data / "chartqa.parquet")}}},
    ]
    model = LmmsEvalModel(*loaded, batch_size=ROWS, progress=False)
    found = simple_evaluate(model=model, tasks=tasks, task_manager=manager, log_samples=False)["results"]
    assert found["docvqa_val"]["anls,none"] == results["docvqa_val"]["scores"]["anls"]
    assert found["chartqa"]["relaxed_overall,none"] == results["chartqa"]["scores"]["relaxed_overall"]


def test_the_entry_point_is_registered():
    (found,) = entry_points(group="lmms_eval.models", name="proxyv")
    (manifest,) = [found.load()()]
    from lmms_eval.api.model import lmms
    from lmms_eval.models import get_model

    assert manifest.model_id == "proxyv" and issubclass(get_model("proxyv"), lmms)


def requests(images, texts, asked=None):
    """lmms-eval's requests for these texts, with these images each."""
    from lmms_eval.api.instance import Instance

    for place, text in enumerate(texts):
        settings = {"max_new_tokens": 6, **((asked or {}).get(place, {}))}
        arguments = (
            text,
            settings,
            lambda row: [one if isinstance(one, str) else one.convert("RGB") for one in row["images"]],
            place,
            "toy",
            "test",
        )
        yield Instance("generate_until", arguments, 0, {"task": "toy", "doc_id": place, "repeats": 1})


def test_several_images_one_or_none_in_batches_as_alone_and_marks_in_a_text_stay_text(engine, loaded):
    from proxyv.evaluation.lmms_eval.model import LmmsEvalModel

    model, processor = loaded
    pictures = [Image.new("RGB", size, color) for size, color in (((56, 56), "red"), ((200, 60), "white"))]
    rows = [{"images": pictures}, {"images": []}, {"images": pictures[:1]}, {"images": pictures[1:]}]
    texts = ["which word", "value of C", "what is <image> ?", "a longer question about the page"]
    answers = []
    model.train()
    for size in (1, 3, "auto"):
        adapter = LmmsEvalModel(model, processor, size, progress=False)
        adapter.task_dict = {"toy": {"test": rows}}
        answers.append(
            [one.text for one in adapter.generate_until(list(requests(rows, texts, {1: {"max_new_tokens": 3}})))]
        )
        adapter.clean()
        assert adapter.model is model and model.training
    model.eval()
    assert answers[0] == answers[1] == answers[2]
    assert [adapter.sent["toy", place].prompt.count("<image>") for place in range(4)] == [2, 0, 1, 1]
    assert adapter.sent["toy", 1].answer.new_tokens <= 3 < adapter.sent["toy", 0].answer.new_tokens
    stop = answers[0][0][2]
    (cut,) = list(adapter.generate_until(list(requests(rows[:1], texts[:1], {0: {"until": [stop]}}))))
    assert cut.text == answers[0][0][: answers[0][0].find(stop)].strip()
    broken = BytesIO()
    Image.effect_noise((64, 64), 90).save(broken, "PNG")
    rows[1] = {"images": [Image.open(BytesIO(broken.getvalue()[:900]))]}
    with pytest.raises(UserError, match="task toy: sample 1.*truncated"):
        adapter.generate_until(list(requests(rows, texts)))
    rows[1] = {"images": ["film.mp4"]}
    with pytest.raises(UserError, match="task toy: sample 1: has a str; only images are supported"):
        adapter.generate_until(list(requests(rows, texts)))
    for unsupported in (adapter.loglikelihood, adapter.generate_until_multi_round):
        with pytest.raises(UserError, match="choose a task"):
            unsupported(list(requests(rows, texts)))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"do_sample": True, "temperature": 0.7}, "asks for sampling"),
        ({"temperature": 0.2}, "asks for sampling"),
        ({"num_beams": 4}, "num_beams 4 is not supported"),
        ({"repetition_penalty": 1.2}, "repetition_penalty 1.2 is not supported"),
        ({"visual_cot": True}, "'visual_cot' is not supported"),
        ({"max_new_tokens": 0}, "must be a whole number from 1"),
        ({"until": [3]}, "must be a text or a list"),
    ],
)
def test_what_would_not_be_honoured_is_refused(asked, said):
    with pytest.raises(UserError, match=f"task toy: generation_kwargs: .*{said}"):
        read_generation("toy", asked)


def test_what_tasks_ask_for_is_taken():
    asked = {
        "max_new_tokens": 16,
        "temperature": 0,
        "do_sample": False,
        "top_p": 1.0,
        "num_beams": 1,
        "until": ["\n\n"],
    }
    assert read_generation("toy", asked) == Generation(16)
    assert read_generation("toy", {"do_sample": True, "temperature": 0, "until": ["b", "c"]}).cut(" a cb ") == "a"
    assert read_generation("toy", {"until": ["", "Q:", "\n\n"]}).cut("a\nb\n\nc") == "a\nb"
    assert read_generation("toy", {"do_sample": False, "temperature": 0.2}) == Generation(1024)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("docvqa_vall", "unknown task 'docvqa_vall' of lmms-eval; did you mean 'docvqa_val'."),
        ("docvqa", "'docvqa' is a group"),
        ("mmbench_en_dev", "task mmbench_en_dev: scores by a judge .*use mmbench_en_dev_static"),
        ("llava_in_the_wild", "scores by a judge .*choose another task"),
        ("seedbench_ppl", "its kind 'multiple_choice' is not supported"),
        ("docvqa_val", r"no parquet or JSON file at .*DocVQA/DocVQA/validation-\*.parquet"),
        ("docvqa_val=none.parquet", "no parquet or JSON file at .*none.parquet"),
        ("docvqa_val=chartqa.parquet", "chartqa.parquet has no column 'answers'; did you mean 'answer'."),
        (
            "textvqa_val=docvqa.parquet",
            "task textvqa_val: cannot be built .KeyError 'question_id'. from .*docvqa.parquet",
        ),
        ("docvqa_val=docvqa.parquet,docvqa_val", "'docvqa_val' is there twice"),
    ],
)
def test_tasks_that_cannot_be_run_are_refused_before_the_model(engine, data, tasks, said, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit) as stop:
        words = ["--engine", "lmms-eval", "--tasks", tasks, "--data_root", str(data)]
        main(["eval", str(data / "model"), *words])
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and re.search(said, shown), shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "lmms-eval"], "--tasks: name tasks of lmms-eval"),
        (["--engine", "lmms-eval", "--suite", "synthetic"], "--suite: is not for --engine lmms-eval"),
        (["--tasks", "docvqa_val"], "--tasks: is not for --engine proxyv"),
    ],
)
def test_options_of_the_other_engine_are_refused(data, words, said, capsys):
    with pytest.raises(SystemExit):
        main(["eval", str(data / "model"), *words])
    assert said in capsys.readouterr().err


def test_local_files_in_every_form(engine, data, tmp_path):
    """A folder of shards, JSON lines with paths of images, and GQA with its images in a table of their own."""
    rows = datasets.Dataset.from_parquet(str(data / "docvqa.parquet"), cache_dir=str(tmp_path / "cache"))
    shards = tmp_path / "DocVQA" / "DocVQA"
    shards.mkdir(parents=True)
    for part in range(2):
        rows.shard(2, part, contiguous=True).to_parquet(shards / f"validation-0000{part}-of-00002.parquet")
    (shards / "test-00000-of-00001.parquet").write_bytes(b"not looked at")
    (tmp_path / "OCRBench").mkdir()
    (tmp_path / "OCRBench" / "all.parquet").write_bytes((data / "ocrbench.parquet").read_bytes())
    rows[0]["image"].save(tmp_path / "page.png")
    line = {"questionId": "7", "question": "which word", "image": "page.png", "answers": ["A"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(line) + "\n")
    for half, table in {
        "instructions": [{"imageId": "b", "question": "is it red ?", "answer": "yes"}],
        "images": [
            {"id": "a", "image": Image.new("RGB", (8, 8), "blue")},
            {"id": "b", "image": Image.new("RGB", (9, 8))},
        ],
    }.items():
        (tmp_path / "GQA" / f"testdev_balanced_{half}").mkdir(parents=True)
        path = tmp_path / "GQA" / f"testdev_balanced_{half}" / "testdev-00000-of-00001.parquet"
        features = {"image": datasets.Image(), "id": datasets.Value("string")} if half == "images" else None
        datasets.Dataset.from_list(table, features=features and datasets.Features(features)).to_parquet(path)

    names = ["docvqa_val", "docvqa_val=rows.jsonl", "gqa", "ocrbench"]
    sharded, lines, gqa, alone = (engine.load_tasks([name], tmp_path)[0] for name in names)
    assert alone.rows == ROWS and [file.name for file in alone.files] == ["all.parquet"]
    assert sharded.rows == ROWS and len(sharded.files) == 2
    (page,) = lines.task.doc_to_visual(lines.task.eval_docs[0])
    assert page.tobytes() == rows[0]["image"].convert("RGB").tobytes()
    (image,) = gqa.task.doc_to_visual(gqa.task.eval_docs[0])
    assert image.size == (9, 8)
    assert gqa.task.process_results(gqa.task.eval_docs[0], ["Yes"]) == {"exact_match": 1.0}
