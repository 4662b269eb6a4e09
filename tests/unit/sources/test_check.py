"""What `proxyv data check` finds in what lies on disk: nothing in whole data, and every kind of damage."""

import io
import json

import pytest
from datasets import Dataset
from PIL import Image

from proxyv.cli import main
from proxyv.sources.check import check_source
from proxyv.sources.fetched import sha256, write_fetched
from proxyv.sources.source import ByHand, Source, SourceFiles, load_source


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def record(source, root, commit="c" * 40, complete=True):
    folder = root / source.folder
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256(path)}
        for pattern in source.patterns
        for path in folder.glob(pattern)
    }
    given = {"source": source.name, "hub": source.hub, "commit": commit, "created": "now", "complete": complete}
    write_fetched(source, root, {**given, "files": files, "unpacked": []})


@pytest.fixture
def toy(tmp_path):
    """A source of two tables with three rows each, as fetched."""
    (tmp_path / "Toy").mkdir()
    for part in (0, 1):
        Dataset.from_dict({"q": ["a", "b", "c"], "a": [1, 2, 3]}).to_parquet(tmp_path / f"Toy/{part}.parquet")
    files = [SourceFiles("*.parquet", rows=6)]
    columns = {"q": "text", "a": "integer"}
    source = Source("toy", "Toy", "some/toy", "Toy", files, columns=columns, read_in={"rows": "its card"})
    record(source, tmp_path)
    return source


def problems(source, root):
    return check_source(source, root).problems


def test_whole_data_has_no_problems(toy, tmp_path):
    report = check_source(toy, tmp_path)
    assert (report.problems, report.files) == ([], 2)
    assert report.notes == [f"2 checksums as recorded, some/toy at {'c' * 40}"]


def test_a_changed_byte_and_a_missing_file_are_found(toy, tmp_path):
    damaged = bytearray((tmp_path / "Toy/0.parquet").read_bytes())
    damaged[8] ^= 1
    (tmp_path / "Toy/0.parquet").write_bytes(damaged)
    assert [one for one in problems(toy, tmp_path) if "0.parquet is not as it was (SHA-256)" in one]
    (tmp_path / "Toy/1.parquet").unlink()
    assert [one for one in problems(toy, tmp_path) if "1.parquet is recorded and not there" in one]


def test_other_rows_or_columns_than_published_are_told(toy, tmp_path):
    toy.files[0].rows = 7
    assert [one for one in problems(toy, tmp_path) if "*.parquet: 6 rows, 7 published; fetch it again" in one]
    toy.read_in = {}
    report = check_source(toy, tmp_path)
    assert not report.problems and "6 rows, 7 published (a figure that is not verified)" in report.notes[1]
    toy.columns["picture"] = "image"
    assert "*.parquet: without the published columns picture" in check_source(toy, tmp_path).notes


def test_pinned_checksums_and_revisions_hold_against_the_record(toy, tmp_path):
    toy.checksums = {"0.parquet": "0" * 64}
    assert [one for one in problems(toy, tmp_path) if "0.parquet is not as it was" in one]
    toy.checksums, toy.revision = None, "d" * 40
    assert problems(toy, tmp_path) == [f"fetched at {'c' * 40}, and {'d' * 40} is pinned; fetch it again"]


def test_half_a_fetch_and_data_without_a_record(toy, tmp_path):
    record(toy, tmp_path, complete=False)
    assert problems(toy, tmp_path) == ["the fetch stopped half-way; run `proxyv data fetch toy` again"]
    (tmp_path / "fetched/toy.json").unlink()
    report = check_source(toy, tmp_path)
    assert not report.problems and "no checksums to compare with" in report.notes[0]


def test_a_table_that_cannot_be_read_is_a_problem(toy, tmp_path):
    (tmp_path / "Toy/0.parquet").write_bytes(b"PAR1")
    record(toy, tmp_path)
    assert [one for one in problems(toy, tmp_path) if "0.parquet: cannot be read" in one]


def test_what_is_put_there_by_hand_is_looked_for(toy, tmp_path):
    toy.by_hand = [ByHand("COCO", "cocodataset.org", "coco")]
    (problem,) = problems(toy, tmp_path)
    assert problem == f"{tmp_path}/Toy/coco is empty or not there: COCO, from cocodataset.org"
    (tmp_path / "Toy/coco").mkdir()
    (tmp_path / "Toy/coco/1.jpg").write_bytes(b"x")
    assert problems(toy, tmp_path) == []


def test_an_archive_must_have_left_something(toy, tmp_path):
    toy.unpack = {"0.parquet": "."}
    assert problems(toy, tmp_path) == [
        f"{tmp_path}/Toy has nothing out of 0.parquet; run `proxyv data fetch toy`, or unpack it there"
    ]
    (tmp_path / "Toy/pictures").mkdir()
    assert problems(toy, tmp_path) == []


def turns(question="<image>\nwhat"):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "that"}]


def test_a_training_set_is_read_by_its_reader_without_a_tokenizer(tmp_path, capsys):
    source, folder = load_source("sharegpt4v"), tmp_path / "ShareGPT4V"
    (folder / "data").mkdir(parents=True)
    for place in (one.folder for one in source.by_hand):
        (folder / place).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / place / "there.png")
    (path,) = source.patterns
    names = ["coco/train2017/there.png", "sam/images/gone.png", "sam/images/there.png"]
    records = [{"id": str(i), "image": name, "conversations": turns()} for i, name in enumerate(names)]
    (folder / path).write_text(json.dumps([*records, {"id": "3", "conversations": [{"from": "human"}]}]))
    (problem,) = problems(source, tmp_path)
    assert problem.startswith(
        "data set sharegpt4v: 4 records, 2 malformed or with images that are not there, the first"
    )
    assert "record '1' (number 1) image " in problem and "gone.png does not exist" in problem
    (folder / path).write_text(json.dumps([records[0], records[2]]))
    main(["data", "check", "sharegpt4v", "--data_root", str(tmp_path)])
    assert "2 records, 0 malformed or with images that are not there" in capsys.readouterr().out


def test_a_training_set_of_parquet_files_is_read_without_its_images(tmp_path):
    source, folder = load_source("llava_next"), tmp_path / "LLaVA-NeXT-Data" / "data"
    folder.mkdir(parents=True)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    rows = {
        "id": ["a", "b"],
        "conversations": [turns(), turns("what")],
        "data_source": ["x", "x"],
        "image": [{"bytes": buffer.getvalue(), "path": None}, None],
    }
    Dataset.from_dict(rows).to_parquet(folder / "train-00000-of-00001.parquet")
    report = check_source(source, tmp_path)
    assert report.problems == [
        "data/train-*.parquet: 2 rows, 779,289 published; fetch it again, or correct configs/sources/llava_next.yaml"
    ]
    assert "data set llava_next: 2 records, 0 malformed or with images that are not there" in report.notes
