"""Records that are malformed, and what becomes of them: one line that names them, or skipped and counted."""

import json
import logging
import re

import datasets
import pytest

from proxyv.config import DataSpec
from proxyv.data import check_data, show_sample
from proxyv.data.outcomes import COUNTS
from proxyv.data.readers import LlavaReader
from proxyv.data.records import BadRecordError
from proxyv.data.training_data import FAIR_SHARE, NAMED, TrainingData, spread
from proxyv.errors import UserError
from proxyv.model.build import build_processor
from tests.small_runs import page_recipe, record, record_recipe, save_image, stage

ASK, SAY = {"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}
SEE = {"from": "human", "value": "<image>\nA"}
SYSTEM = {"from": "system", "value": "S"}


def turns(*conversation, **fields):
    return {"id": "odd", "conversations": list(conversation), **fields}


# What is wrong with a record, and the words by which an error says so.
BAD = {
    "no conversations": ({"id": "odd"}, "no 'conversations'"),
    "null conversations": ({"id": "odd", "conversations": None}, "no 'conversations'"),
    "empty conversations": (turns(), "no 'conversations'"),
    "conversations of text": ({"id": "odd", "conversations": "hello"}, "no 'conversations'"),
    "conversations of an object": ({"id": "odd", "conversations": {"from": "human"}}, "no 'conversations'"),
    "turn of text": (turns("hello", SAY), "a turn is a text"),
    "turn of null": (turns(None, SAY), "a turn is null"),
    "unknown role": (turns({"from": "humna", "value": "A"}, SAY), "'from' is 'humna'; did you mean 'human'"),
    "role of null": (turns({"from": None, "value": "A"}, SAY), "'from' is None"),
    "role of a list": (turns({"from": ["human"], "value": "A"}, SAY), "'from' is"),
    "no role": (turns({"value": "A"}, SAY), "'from' is None"),
    "no value": (turns({"from": "human"}, SAY), "'value' is null"),
    "value of null": (turns({"from": "human", "value": None}, SAY), "'value' is null"),
    "value of a number": (turns({"from": "human", "value": 3}, SAY), "'value' is a number"),
    "value not a number": (turns({"from": "human", "value": float("nan")}, SAY), "'value' is a number"),
    "value of a list": (turns({"from": "human", "value": ["A"]}, SAY), "'value' is a list"),
    "half a character": (turns({"from": "human", "value": "A\ud800"}, SAY), "half a character"),
    "two questions": (turns(ASK, ASK, SAY), "take turns"),
    "two answers": (turns(ASK, SAY, SAY), "take turns"),
    "two answers in front": (turns(SAY, SAY, ASK, SAY), "take turns"),
    "system in the middle": (turns(ASK, SAY, SYSTEM, ASK, SAY), "take turns"),
    "system alone": (turns(SYSTEM), "no question"),
    "answer alone": (turns(SAY), "no question"),
    "image without mark": (turns(ASK, SAY, image="a.png"), "0 <image> mark(s) but 1 image(s)"),
    "mark in the answer only": (turns(ASK, {"from": "gpt", "value": "<image>"}, image="a.png"), "0 <image> mark(s)"),
    "two marks, one image": (turns(SEE, SAY, SEE, SAY, image="a.png"), "2 <image> mark(s) but 1 image(s)"),
    "one mark, two images": (turns(SEE, SAY, image=["a.png", "a.png"]), "1 <image> mark(s) but 2 image(s)"),
    "image of a number": (turns(SEE, SAY, image=7), "'image' is a number"),
    "image of true": (turns(SEE, SAY, image=True), "'image' is true or false"),
    "image of an object": (turns(SEE, SAY, image={"path": "a.png"}), "'image' is an object"),
    "images of null": (turns(SEE, SAY, image=[None]), "'image' is null"),
    "image outside": (turns(SEE, SAY, image="../a.png"), "lies outside"),
    "image elsewhere": (turns(SEE, SAY, image="/etc/passwd"), "lies outside"),
    "image of an URL": (turns(SEE, SAY, image="https://a.b/c.png"), "URLs are not fetched"),
    "image with NUL": (turns(SEE, SAY, image="a\0.png"), "no path"),
    "image of half a character": (turns(SEE, SAY, image="\ud800.png"), "half a character"),
    "list": ([1, 2], "is a list"),
    "text": ("record", "is a text"),
    "null": (None, "is null"),
    "number": (12, "is a number"),
}

# What looks odd and is none of it.
GOOD = {
    "no id": {"conversations": [ASK, SAY]},
    "id of null": turns(ASK, SAY, id=None),
    "id of an object": turns(ASK, SAY, id={"a": 1}),
    "id of half a character": turns(ASK, SAY, id="\ud800"),
    "huge id": turns(ASK, SAY, id=10**4000),
    "long id": turns(ASK, SAY, id="x\n" * 10**5),
    "answer in front": turns(SAY, ASK, SAY),
    "system": turns(SYSTEM, ASK, SAY),
    "open question": turns(ASK, SAY, ASK),
    "empty question": turns({"from": "human", "value": ""}, SAY),
    "empty answer": turns(ASK, {"from": "gpt", "value": ""}),
    "other fields": turns(ASK, SAY, model="x", weight=1.5, image=None),
    "empty image": turns(ASK, SAY, image=""),
    "no images": turns(ASK, SAY, image=[]),
    "mark without image": turns(SEE, SAY),
    "mark in an answer": turns(ASK, {"from": "gpt", "value": "<image>"}),
    "mark in both": turns(SEE, {"from": "gpt", "value": "<image> <image>"}, image="a.png"),
    "end token in a text": turns({"from": "human", "value": "</s><pad><answer>"}, {"from": "gpt", "value": "</s>B"}),
    "NUL in a text": turns({"from": "human", "value": "A\0B"}, SAY),
    "image in the folder": turns(SEE, SAY, image="x/../a.png"),
}


def spec(**fields):
    return DataSpec("llava", "records.json", "images", **{"max_bad_records": 1.0, **fields})


def data_of(folder, records, **fields):
    save_image(folder, "a.png")
    (folder / "images" / "x").mkdir(exist_ok=True)
    recipe = record_recipe(folder, records, spec(**fields))
    return TrainingData(recipe, "only", build_processor(recipe))


def counts_of(item):
    return {name: count for name, count in zip(COUNTS, item[1].tolist(), strict=True) if count}


def test_every_kind_of_bad_record_is_one_line_or_skipped(tmp_path):
    """Each stands between good ones; all kinds in one file, so that none hides the others."""
    records = [one for odd, _ in BAD.values() for one in (record("good", "A"), odd)]
    data = data_of(tmp_path, records)
    for place, (name, (odd, words)) in enumerate(BAD.items()):
        with pytest.raises(BadRecordError) as raised:
            data.readers[0][2 * place + 1]
        identity = "odd" if isinstance(odd, dict) else 2 * place + 1
        where = f"{tmp_path}/records.json: record '{identity}' (number {2 * place + 1}) "
        message = str(raised.value)
        assert message.startswith(where) and words in message and message.isprintable(), name
    faults = data.readers[0].faults()
    assert list(faults) == list(range(1, len(records), 2))
    assert [words in faults[2 * place + 1] for place, (_, words) in enumerate(BAD.values())] == [True] * len(BAD)
    tolerant = data_of(tmp_path, records, on_bad_record="skip")
    assert len(tolerant) == len(records) and len(tolerant.lengths()) == len(records)
    for index in range(len(records)):
        assert counts_of(tolerant[index]) == ({"bad_records_skipped": 1} if index % 2 else {})


def test_odd_but_good_records_are_used(tmp_path):
    data = data_of(tmp_path, list(GOOD.values()))
    assert data.readers[0].faults() == {}
    for index, name in enumerate(GOOD):
        encoded, counts = data[index]
        images = (encoded.input_ids == data.processor.image_token_id).sum()
        assert images == (17 if name in ("mark in both", "image in the folder") else 0), name
        assert counts_of((encoded, counts)) == ({"image_marks_as_text": 1} if name == "mark without image" else {})
        assert len(data.readers[0].where_is(index)) < 300 and data.readers[0].where_is(index).isprintable()


def test_marks_that_are_text_stay_where_they_are(tmp_path):
    text = {"from": "human", "value": "what is <image> here? "}
    answer = {"from": "gpt", "value": "say <image>"}
    found = data_of(tmp_path, [turns(text, answer), turns(SEE, answer, image="a.png")]).readers[0]
    assert [message["content"] for message in found[0].messages] == ["what is <image> here? ", "say <image>"]
    assert [message["content"] for message in found[1].messages] == ["<image>\nA", "say <image>"]


def test_images_outside_are_allowed_where_the_recipe_says_so(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    save_image(tmp_path, "../elsewhere/b.png")
    paths = ["../elsewhere/b.png", str(tmp_path / "elsewhere" / "b.png")]
    records = [turns(SEE, SAY, image=path) for path in paths]
    assert len(data_of(tmp_path, records).readers[0].faults()) == 2
    allowed = data_of(tmp_path, records, allow_outside=True)
    assert [allowed[index][0].crops_per_image for index in range(2)] == [(1,), (1,)]


def test_a_bad_record_fails_before_training_or_is_announced(tmp_path):
    records = [record("a", "A"), turns(), turns(ASK, ASK)]
    with pytest.raises(UserError) as raised:
        data_of(tmp_path, records).check_records()
    message = str(raised.value)
    assert "record 'odd' (number 1) has no 'conversations'" in message and "2 of 3 records are bad" in message
    assert "set data.records.on_bad_record to skip" in message and message.isprintable()
    (note,) = data_of(tmp_path, records, on_bad_record="skip").check_records()
    assert note.startswith("data.records: 2 of 3 records are bad and will be skipped; the first: ")
    assert data_of(tmp_path, records[:1]).check_records() == []


def test_more_bad_records_than_the_ceiling_end_the_run(tmp_path):
    records = [record("a", "A")] * 98 + [turns()] * 2
    data_of(tmp_path, records, on_bad_record="skip", max_bad_records=0.02).check_records()
    with pytest.raises(UserError, match="data.records: 2 of 100 records are bad, more than max_bad_records 0.019"):
        data_of(tmp_path, records, on_bad_record="skip", max_bad_records=0.019).check_records()


def test_bad_images_count_towards_the_ceiling_while_training(tmp_path):
    data = data_of(tmp_path, [record("a", "A")], max_bad_records=0.01)
    none = dict.fromkeys(COUNTS, 0)
    bad = {**none, "bad_images_substituted": 4, "bad_images_skipped": 3, "bad_records_skipped": 4}
    data.check_share({**none, "too_long_skipped": 10**6}, 10**4)
    data.check_share({**none, "bad_images_skipped": FAIR_SHARE - 2}, 1)  # too few to tell
    data.check_share(bad, 11 * 100 - 7)
    with pytest.raises(UserError, match="stages.only.data: 11 of 1,099 samples .*max_bad_records 0.01"):
        data.check_share(bad, 11 * 100 - 8)


def test_the_first_bad_ones_are_named_in_the_log(tmp_path, caplog):
    records = [record("good", "A"), *[record(f"gone {i}", "<image>\nA", image="gone.png") for i in range(NAMED + 3)]]
    data = data_of(tmp_path, records, on_bad_image="skip")
    with caplog.at_level(logging.WARNING):
        for index in range(len(data)):
            data[index]
    assert len(caplog.messages) == NAMED
    assert re.search(r"records.json: record 'gone \d+' \(number \d+\): image", caplog.messages[0])
    assert "gone.png does not exist; skipped" in caplog.messages[0]


def test_images_under_another_name_do_not_train_as_text(tmp_path):
    """A whole data set whose records call their images something else than 'image'."""
    records = [{**turns(SEE, SAY), "images": ["a.png"]} for _ in range(80)]
    data = data_of(tmp_path, records)
    with pytest.raises(UserError, match="of the first 64 samples have <image> marks and no image; name images in"):
        for index in range(80):
            data[index]


def test_order_and_resume_do_not_depend_on_what_is_bad(tmp_path):
    good = [record(str(i), "A" * (1 + i)) for i in range(6)]
    data = data_of(tmp_path, [*good[:2], turns(), *good[3:]], on_bad_record="skip")
    whole = data_of(tmp_path, good)
    assert len(data) == len(whole)
    same = [data[i][0].input_ids.tolist() == whole[i][0].input_ids.tolist() for i in range(6)]
    assert same == [True, True, False, True, True, True]
    stand_in = data[2][0].input_ids.tolist()
    assert stand_in in [whole[i][0].input_ids.tolist() for i in range(6)] and data[2][0].input_ids.tolist() == stand_in


def test_a_block_of_bad_records_is_spread_over_the_good_ones(tmp_path):
    """Not all onto the one behind the block, nor is any other of the block counted for many others."""
    good = [record(str(i), "A" * (1 + i)) for i in range(70)]
    data = data_of(tmp_path, [*good[:30], *[turns()] * 20, *good[30:]], on_bad_record="skip")
    found = [data[index] for index in range(30, 50)]
    assert len({len(encoded.input_ids) for encoded, _ in found}) >= 15
    assert sum(counts_of(item)["bad_records_skipped"] for item in found) < 40
    for size in (1, 2, 3, 24, 1000):
        assert sorted(k * spread(size) % size for k in range(size)) == list(range(size))


def test_a_template_that_refuses_a_conversation_makes_a_bad_record(tmp_path):
    records = [record("good", "A"), turns(SYSTEM, ASK, SAY)]
    for policy in ("fail", "skip"):
        data = data_of(tmp_path, records, on_bad_record=policy)
        refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no\nsystem') }}{% endif %}"
        data.processor.chat_template = refuse + data.processor.chat_template
        assert counts_of(data[0]) == {}
        if policy == "skip":
            assert counts_of(data[1]) == {"bad_records_skipped": 1}
        else:
            with pytest.raises(UserError, match="record 'odd' .number 1. cannot be rendered: chat template: no system"):
                data[1]


def test_check_data_and_show_sample_live_with_bad_records(tmp_path):
    recipe = record_recipe(tmp_path, [turns(), record("a", "A"), turns(ASK, ASK), turns(SEE, SAY)], spec())
    report = check_data(recipe)
    assert len(report.problems) == 2 and report.sources[0].usable == 2
    assert "(number 3) has <image> marks and no image; they are text" in report.notes[0]
    assert f"note: {report.notes[0]}" in show_sample(recipe, "records", 3)
    assert "'a'" in show_sample(recipe, "records", 1)
    with pytest.raises(UserError, match="record 'odd' .number 2. has turns of user, user"):
        show_sample(recipe, "records", 2)


FILES = {
    "object": ('{"a": 1}', "must hold a JSON list of records; it is an object"),
    "text": ('"records"', "must hold a JSON list of records; it is a text"),
    "null": ("null", "it is null"),
    "empty list": ("[]", "holds no record"),
    "empty": ("", "is not valid JSON"),
    "truncated": ('[{"id": "a", "conversations": [', "is not valid JSON .*line 1"),
    "lines": ('{"id": 1}\n{"id": 2}', "is not valid JSON .*name it .jsonl"),
    "deep": ("[" * 10**5, "is not valid JSON"),
    "huge number": ("[" + "9" * 5000 + "]", "is not valid JSON|is a number"),
    "latin": (b'["\xe9"]', "is not valid JSON"),
    "utf-16": ('[{"id": 1}]'.encode("utf-16"), "is not valid JSON"),
}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_list_of_records_is_one_line(tmp_path, name):
    content, message = FILES[name]
    write(tmp_path / "records.json", content)
    with pytest.raises(UserError, match=message) as raised:
        LlavaReader("records", spec(), tmp_path)[0]
    assert str(tmp_path / "records.json") in str(raised.value) and str(raised.value).isprintable()


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r\n\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_lines(tmp_path, ending, mark):
    lines = [json.dumps(record("a", "A")), '{"id": "b", "conv', json.dumps(record("c", "A\u2028\u0085C")), "[1]"]
    write(tmp_path / "lines.jsonl", mark + ending.join(lines) + ending)
    found = LlavaReader("lines", DataSpec("llava", "lines.jsonl"), tmp_path)
    assert len(found) == 4 and found[0].id == "a" and found[2].messages[0]["content"] == "A\u2028\u0085C"
    line = 2 if ending != "\r\n\r\n" else 3
    with pytest.raises(BadRecordError, match=rf"lines.jsonl: record '1' .number 1. is no JSON in line {line} "):
        found[1]
    with pytest.raises(BadRecordError, match="number 3. is a list"):
        found[3]


def test_a_json_list_may_have_a_byte_order_mark_and_windows_lines(tmp_path):
    write(tmp_path / "records.json", "\ufeff[\r\n" + json.dumps(record("a", "A")) + "\r\n]\r\n")
    assert LlavaReader("records", spec(), tmp_path)[0].id == "a"


def parquet_of(folder, **columns):
    good = [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}]
    table = {"id": ["a", "b"], "conversations": [good, good], **columns}
    table = {name: column for name, column in table.items() if column is not None}
    datasets.Dataset.from_dict(table).to_parquet(folder / "train.parquet")
    return LlavaReader("next", DataSpec("llava", "train.parquet"), folder)


def test_parquet_with_bad_records(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    see = [{"from": "human", "value": "<image>\nA"}, {"from": "gpt", "value": None}]
    found = parquet_of(tmp_path, conversations=[see, [ASK, SAY]], image=[None, {"bytes": None, "path": "../x.png"}])
    faults = found.faults()
    assert "'value' is null" in faults[0] and "0 <image> mark(s)" in faults[1]
    assert found.lengths() == [-2, 2]
    found = parquet_of(tmp_path, id=[None, "b"], image=[None, {"bytes": None, "path": "../x.png"}],
                       conversations=[[ASK, SAY], [SEE, SAY]])  # fmt: skip
    assert found[0].id == "0" and found.faults() == {}
    with pytest.raises(BadRecordError, match="record 'b' .number 1. has a wrong path: image ../x.png lies outside"):
        found[1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": None}, "has no column id"),
        ({"conversations": None}, "has no column conversations"),
        ({"conversations": ["a", "b"]}, "no 'conversations'"),
        ({"conversations": [[1], [2]]}, "a turn is a number"),
        ({"image": [1, 2]}, "cannot be read"),
    ],
)
def test_parquet_of_wrong_columns_is_one_line(tmp_path, monkeypatch, columns, message):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(UserError, match=message) as raised:
        parquet_of(tmp_path, **columns)[0]
    assert str(raised.value).isprintable() and "train.parquet" in str(raised.value)


def test_truncated_parquet_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    parquet_of(tmp_path)
    path = tmp_path / "train.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="data.next.path: .*train.parquet: cannot be read") as raised:
        LlavaReader("next", DataSpec("llava", "train.parquet"), tmp_path)
    assert str(raised.value).isprintable()


def test_glyph_records(tmp_path):
    rows = ["ab ", " c ", "   "]
    odd = [{"id": "a"}, {"id": "a", "image": 7, "grid": rows}, {"id": "a", "image": "a.png", "grid": []}]
    odd += [{"id": "a", "image": "../a.png", "grid": rows}, {"id": "a", "image": "a.png", "grid": [3]}, None]
    recipe = page_recipe(tmp_path, tower=stage(["glyphs"], train=["tower"], objective="patch_classification"))
    (tmp_path / "pages").mkdir()
    save_image(tmp_path / "pages", "a.png", 56, 56)
    good = {"id": "g", "image": "a.png", "grid": ["A   "] * 4}
    unknown = {"id": "u", "image": "a.png", "grid": ["é   "] * 4}
    (tmp_path / "pages" / "glyphs.json").write_text(json.dumps([good, *odd, unknown]))
    recipe.data["glyphs"] = DataSpec("glyphs", "glyphs.json", "images", on_bad_record="skip", max_bad_records=1.0)
    data = TrainingData(recipe, "tower", build_processor(recipe))
    assert list(data.readers[0].faults()) == list(range(1, len(odd) + 1))
    assert counts_of(data[0]) == {}
    assert all(counts_of(data[index])["bad_records_skipped"] for index in range(1, len(data)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(on_bad_record="skp"), "data.records.on_bad_record: 'skp'.*did you mean 'skip'"),
        (dict(max_bad_records=-0.1), "data.records.max_bad_records"),
        (dict(max_bad_records=float("nan")), "data.records.max_bad_records"),
    ],
)
def test_wrong_policies_are_named(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        data_of(tmp_path, [record("a", "A")], **fields)
