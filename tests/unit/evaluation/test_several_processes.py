"""One benchmark answered by several processes, here threads: their answers are those of one, killed or not."""

import json
import threading

import pytest
import torch
from PIL import Image
from torch.distributed import HashStore

from proxyv.errors import ElsewhereError, UserError
from proxyv.evaluation import answer_files, check_suite, evaluate, evaluate_suite, rescore_results
from proxyv.evaluation.team import Team
from proxyv.files import read_records
from tests.fake_vlm import FakeModel, FakeProcessor

QUESTIONS = [f"{'long ' * (number * 7 % 5)}question {number}" for number in range(11)]
BENCHMARK = """
name: toy
title: Toy
data: toy.json
split: toy
columns: {image: image, question: question, answers: answer}
max_new_tokens: 40
metrics: [anls]
main: anls
"""
SUITE = "{name: toys, title: Toys, benchmarks: [toy], score_name: mean, terms: [{benchmark: toy, score: anls}]}"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Image.new("L", (8, 8)).save(tmp_path / "page.png")
    rows = [{"image": "page.png", "question": question, "answer": question.upper()} for question in QUESTIONS]
    (tmp_path / "toy.json").write_text(json.dumps(rows))
    (tmp_path / "toy.yaml").write_text(BENCHMARK)
    (tmp_path / "toys.yaml").write_text(SUITE)
    return tmp_path


class Recording(FakeModel):
    """Writes down which questions it is asked together, is full above so many, and dies where told."""

    def __init__(self, most=64, **options):
        super().__init__(lambda question: question.upper()[1:], **options)
        self.most, self.asked = most, []

    def generate(self, input_ids, **options):
        if len(input_ids) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        answered = super().generate(input_ids, **options)
        numbers = [int("".join(map(chr, row)).removesuffix(" ASSISTANT:").split()[-1]) for row in input_ids.tolist()]
        self.asked.append(tuple(numbers))
        return answered


def run(toy, *models, output="out", **options):
    """What `evaluate` returns or raises in each process, of which each has a model."""
    store, outcomes = HashStore(), [None] * len(models)
    options = {"batch_size": 2, "progress": False, "data_root": toy, "output_dir": toy / output} | options

    def member(rank):
        try:
            with Team(rank, len(models), store if len(models) > 1 else None):
                outcomes[rank] = evaluate(models[rank], FakeProcessor(), toy / "toy.yaml", **options)
        except BaseException as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=member, args=(rank,), daemon=True) for rank in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "hangs"
    return outcomes


def contents(toy, output="out"):
    """The files that a run has left: names, answers, and the result without what may differ."""
    result = json.loads((toy / output / "toy.json").read_text())
    for name in ("wall_seconds", "created", "resumed_after", "environment", "processes"):
        del result[name]
    names = sorted(path.name for path in (toy / output).iterdir())
    return names, (toy / output / "toy.jsonl").read_text(), result


def asked(*models):
    return sorted(batch for model in models for batch in model.asked)


@pytest.fixture
def whole(toy):
    """An unbroken run of one process: what it leaves, and its batches."""
    model = Recording()
    (result,) = run(toy, model, output="whole")
    assert (toy / "whole" / "toy.json").read_text() == json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    return contents(toy, "whole"), model.asked


def test_batches_are_made_by_length_and_answers_stand_in_sample_order(toy, whole):
    (names, lines, result), batches = whole
    # The n-th question begins with "long " as often as 7 n modulo 5 says.
    assert batches == [(2, 7), (4, 9), (1, 6), (3, 8), (10, 0), (5,)]
    lengths = [len(QUESTIONS[number]) // 4 for batch in batches for number in batch]
    assert [len(batch) for batch in batches] == [2, 2, 2, 2, 2, 1] and lengths == sorted(lengths, reverse=True)
    records = [json.loads(line) for line in lines.splitlines()]
    assert [record["index"] for record in records] == list(range(11))
    assert [record["prediction"] for record in records] == [question.upper()[1:] for question in QUESTIONS]
    assert names == ["toy.json", "toy.jsonl"] and result["complete"] and result["batch_sizes"] == [2]


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_several_processes_leave_what_one_leaves(toy, whole, processes):
    models = [Recording() for _ in range(processes)]
    results = run(toy, *models)
    assert results[0]["main_score"] > 0 and results[0]["processes"] == processes
    assert all(result == results[0] for result in results)
    assert contents(toy) == whole[0] and asked(*models) == sorted(whole[1])


@pytest.mark.parametrize("then", [1, 2, 3])
@pytest.mark.parametrize(("dying", "at"), [(0, 1), (0, 3), (1, 1), (1, 2)])
def test_what_is_killed_and_resumed_is_as_if_it_had_not_been(toy, whole, dying, at, then):
    first = [Recording(die_at_call=at if rank == dying else None) for rank in range(2)]
    ended = run(toy, *first)
    if all(isinstance(error, KeyboardInterrupt) for error in ended):
        assert not json.loads((toy / "out" / "toy.json").read_text())["complete"]
    second = [Recording() for _ in range(then)]
    run(toy, *second, resume=True)
    assert contents(toy) == whole[0]
    assert asked(*first, *second) == sorted(whole[1])  # each batch once, none of other samples


def test_a_batch_that_was_cut_off_is_made_again_by_the_same_samples(toy, whole):
    first = Recording(die_at_call=4)
    run(toy, first)
    part = toy / "out" / "toy.parts" / "0.jsonl"
    assert part.read_bytes().count(b"\n") == 6
    part.write_bytes(part.read_bytes()[:-5])
    second = Recording()
    (result,) = run(toy, second, resume=True)
    assert contents(toy) == whole[0] and result["resumed_after"] == 4
    assert asked(first, second) == sorted([*whole[1], first.asked[2]])


def test_a_model_that_draws_draws_the_same_in_every_batch(toy):
    def drawing(**options):
        return FakeModel(lambda question: str(torch.randint(10**9, ()).item()), **options)

    run(toy, drawing(), output="whole", seed=1)
    run(toy, drawing(die_at_call=3), seed=1)
    run(toy, drawing(), seed=1, resume=True)
    assert contents(toy)[1] == contents(toy, "whole")[1]
    run(toy, drawing(), output="other", seed=2)
    assert contents(toy)[1] != contents(toy, "other")[1]


def test_nothing_is_answered_twice_after_a_change_of_batch_size_or_limit(toy, whole):
    first = Recording(die_at_call=3)
    run(toy, first, Recording(die_at_call=1), limit=6)
    second = Recording(die_at_call=2)
    run(toy, second, resume=True, batch_size=3)
    third = Recording()
    (result,) = run(toy, third, resume=True, batch_size=3)
    numbers = [number for batch in (*first.asked, *second.asked, *third.asked) for number in batch]
    assert sorted(numbers) == list(range(11)) and result["batch_sizes"] == [2, 3]
    names, lines, _ = contents(toy)
    assert (names, lines) == whole[0][:2]


def test_without_resume_the_parts_of_another_run_are_gone(toy):
    run(toy, Recording(die_at_call=3))
    (result,) = run(toy, FakeModel(lambda question: "no"), limit=3)
    assert result["num_samples"] == 3 and result["main_score"] == 0
    assert [record["prediction"] for record in read_records(toy / "out" / "toy.jsonl")] == ["no"] * 3


def test_an_error_in_one_process_is_told_once(toy):
    def broken(question):
        raise UserError("wrong; mend it")

    ended = run(toy, Recording(), FakeModel(broken), Recording())
    kinds = [type(error).__name__ for error in ended]
    assert kinds.count("UserError") == 1 and kinds.count("ElsewhereError") == 2
    (toy / "toy.json").write_text("[]")
    assert [type(error) for error in run(toy, Recording(), Recording())] == [UserError, ElsewhereError]


def test_processes_with_different_models_are_refused(toy):
    ended = run(toy, Recording(), Recording(path="other"))
    assert "process 1: model.path was 'fake/model' and is 'other'; give all processes the same" in str(ended[1])


def test_a_folder_that_a_machine_does_not_share_is_refused(toy, monkeypatch):
    monkeypatch.setattr(answer_files, "SHARED_DISK", 0.0)
    begin = answer_files.AnswerFiles.begin_parts
    monkeypatch.setattr(answer_files.AnswerFiles, "begin_parts", lambda self, kept, processes: begin(self, kept, 1))
    ended = run(toy, Recording(), Recording())
    assert "1.jsonl: process 0 has made it, but process 1 does not see it; give an output folder" in str(ended[1])
    assert type(ended[0]) is ElsewhereError


def test_auto_finds_what_fits_and_keeps_to_it(toy, whole):
    model = Recording(most=5, die_at_call=2)
    run(toy, model, batch_size="auto")
    assert json.loads((toy / "out" / "toy.json").read_text())["batch_size"] == 4 and len(model.asked) == 1
    other = Recording(most=2)
    (result,) = run(toy, other, batch_size="auto", resume=True)
    assert (result["batch_size"], result["batch_sizes"], result["resumed_after"]) == (4, [1, 2, 4], 4)
    assert contents(toy)[1] == whole[0][1] and [len(batch) for batch in other.asked] == [2, 2, 1, 2]


def test_a_batch_size_that_does_not_fit_ends_in_one_line(toy):
    (error,) = run(toy, Recording(most=3), batch_size=4)
    assert str(error).startswith("batch_size: 4 samples do not fit into the device's memory")


def test_a_checked_suite_is_not_read_again(toy):
    checked = check_suite(toy / "toys.yaml", toy, benchmarks_dir=toy)
    (toy / "toy.json").unlink()
    options = {"data_root": toy, "output_dir": toy / "out", "progress": False}
    assert evaluate_suite(Recording(), FakeProcessor(), checked, **options)["score"] > 0


def test_a_run_under_way_is_not_scored_again(toy):
    run(toy, Recording(die_at_call=3))
    with pytest.raises(UserError, match="toy.jsonl: holds no answers yet; finish the evaluation, by --resume"):
        rescore_results(toy / "out", benchmarks_dir=toy)
