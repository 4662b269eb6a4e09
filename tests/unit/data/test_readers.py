"""Readers: from files to samples, and one clear line for what is wrong with a file."""

import io
import json

import datasets
import pytest

from proxyv.config import DataSpec
from proxyv.data import readers
from proxyv.data.images import open_image
from proxyv.data.readers import LlavaReader, Reader, open_reader
from proxyv.data.records import Sample, mark_in_front
from proxyv.errors import UserError
from tests.small_runs import page_recipe, record, record_recipe
from tests.tiny import random_image

TURNS = [{"from": "human", "value": "<image>\nA"}, {"from": "gpt", "value": "B"}]


def reader(folder, records, **fields):
    (folder / "records.json").write_text(json.dumps(records))
    return LlavaReader("records", DataSpec("llava", "records.json", "images", **fields), folder)


def test_llava_record_becomes_a_sample(tmp_path):
    found = reader(tmp_path, [{"id": 7, "image": "a/b.png", "source": "x", "conversations": TURNS}])[0]
    assert (found.id, found.source, found.images) == ("7", "records", (tmp_path / "images" / "a" / "b.png",))
    assert found.messages == ({"role": "user", "content": "<image>\nA"}, {"role": "assistant", "content": "B"})


def test_records_of_unlike_shapes_share_a_table(tmp_path):
    two = [{"from": "human", "value": "<image> and <image>"}, {"from": "gpt", "value": "B"}]
    records = [
        {"id": 1, "image": "a.png", "conversations": TURNS},
        {"id": "x", "image": ["a.png", "b.png"], "conversations": two},
        {"image": None, "conversations": [{"from": "human", "value": "  A"}, {"from": "gpt", "value": "B"}]},
    ]
    samples = list(reader(tmp_path, records))
    assert [len(sample.images) for sample in samples] == [1, 2, 0]
    assert [sample.id for sample in samples] == ["1", "x", "2"]
    assert samples[1].messages[0]["content"] == "<image> and <image>"
    assert samples[2].messages[0]["content"] == "  A"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("what? <image>", "<image>\nwhat?"),
        ("a <image> b\n", "<image>\na  b"),
        ("<image>\n  keep ", "<image>\n  keep "),
        ("<image>", "<image>"),
        ("  blanks ", "  blanks "),
        ("<image> or <image> ", "<image> or <image> "),
    ],
)
def test_a_single_mark_goes_to_the_front(text, expected):
    assert mark_in_front(text) == expected


def test_a_format_is_added_by_subclassing(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "READERS", dict(readers.READERS))

    class LineReader(Reader):
        """Text files: one question a line, its answer behind a tab."""

        format = "lines"

        def read(self):
            turns = [line.split("\t") for line in self.file.read_text().splitlines()]
            return datasets.Dataset.from_dict({"turns": turns[: self.spec.limit]})

        def sample(self, row):
            question, answer = row["turns"]
            messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
            return Sample(question, self.name, messages=messages)

        def lengths(self):
            return [-len(" ".join(turns).split()) for turns in self.table["turns"]]

    recipe = record_recipe(tmp_path, [], DataSpec("lines", "records.json"))
    (tmp_path / "records.json").write_text("A\tB\nC\tD\n")
    found = open_reader(recipe, "records")
    assert isinstance(found, LineReader) and [sample.messages[1]["content"] for sample in found] == ["B", "D"]
    assert found.lengths() == [-2, -2]


def test_answer_before_any_question_is_dropped(tmp_path):
    turns = [{"from": "gpt", "value": "hello"}, *TURNS]
    assert reader(tmp_path, [{"image": "a.png", "conversations": turns}])[0].messages[0]["role"] == "user"


def test_limit_and_lengths(tmp_path):
    records = [record("a", "<image>\none two", "three", "a.png"), record("b", "one", "two"), record("c", "x", "y")]
    found = reader(tmp_path, records, limit=2)
    assert len(found) == 2
    assert found.lengths() == [4, -2]


def test_parquet_with_images_inside(tmp_path):
    buffer = io.BytesIO()
    random_image(30, 20).save(buffer, format="PNG")
    rows = {
        "id": ["a", "b", "c"],
        "conversations": [TURNS, [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}], TURNS],
        "data_source": ["x", "y", "x"],
        "image": [{"bytes": buffer.getvalue(), "path": None}, None, {"bytes": buffer.getvalue(), "path": "p.png"}],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image(decode=False))
    table.select(range(2)).to_parquet(tmp_path / "train-0.parquet")
    table.select(range(2, 3)).to_parquet(tmp_path / "train-1.parquet")
    found = LlavaReader("next", DataSpec("llava", "train-*.parquet"), tmp_path)
    assert [sample.id for sample in found] == ["a", "b", "c"]
    assert found.lengths() == [3, -2, 3]
    assert open_image(found[0].images[0]).size == (30, 20)
    assert found[1].images == ()


def test_glyphs(tmp_path):
    from proxyv.pages.ensure import ensure_pages

    recipe = page_recipe(tmp_path)
    ensure_pages(recipe)
    found = open_reader(recipe, "glyphs")
    assert len(found[0].grid) == 8 and all(len(row) == 8 for row in found[0].grid)
    assert open_image(found[0].images[0]).size == (112, 112)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (DataSpec("llava", "none.json"), "data.records.path: .*none.json does not exist"),
        (DataSpec("llava", ""), "data.records.path: names no file"),
        (DataSpec("lava", "records.json"), "data.records.reader: 'lava'.*did you mean 'llava'"),
    ],
)
def test_wrong_data_sets_are_named(tmp_path, spec, message):
    recipe = record_recipe(tmp_path, [record("a", "b")], spec)
    with pytest.raises(UserError, match=message):
        open_reader(recipe, "records")


def test_unknown_data_set_suggests_the_nearest(tmp_path):
    with pytest.raises(UserError, match="'record'; did you mean 'records'"):
        open_reader(record_recipe(tmp_path, [record("a", "b")]), "record")
