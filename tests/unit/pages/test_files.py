"""The files that `write_pages` writes: read back the way their readers read them."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from proxyv.errors import UserError
from proxyv.pages import ALPHABET, BENCHMARK_FILES, DIFFICULTIES, KINDS, QUESTION_WORDS, write_pages

ARGUMENTS = dict(train_pages=5, test_pages=6, difficulty="medium", seed=2, turns_per_page=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "pages"
    write_pages(root, **ARGUMENTS)
    return root


def read(root: Path, name: str) -> list[dict]:
    return json.loads((root / name).read_text())


def benchmark(root: Path, name: str) -> datasets.Dataset:
    return datasets.Dataset.from_parquet(
        str(root / "benchmarks" / f"{name}.parquet"), cache_dir=str(root.parent / "cache")
    )


def test_folder_holds_the_documented_files(root: Path) -> None:
    assert sorted(path.name for path in root.iterdir()) == [
        "benchmarks", "captions.json", "glyphs.json", "images", "instruct.json", "meta.json", "text.json",
    ]  # fmt: skip
    assert len(list((root / "images" / "train").glob("*.png"))) == 5 * len(KINDS)
    assert {path.stem for path in (root / "benchmarks").iterdir()} == set(BENCHMARK_FILES)
    assert [path.name for path in root.parent.iterdir() if "partial" in path.name] == []


def test_meta_tells_how_the_pages_were_made(root: Path) -> None:
    meta = json.loads((root / "meta.json").read_text())
    assert meta["arguments"]["seed"] == 2
    assert meta["arguments"]["difficulty"]["noise"] == DIFFICULTIES["medium"].noise
    assert meta["arguments"]["generator_version"] >= 1
    assert meta["alphabet"] == ALPHABET
    assert meta["question_words"] == list(QUESTION_WORDS)
    assert meta["counts"]["captions"] == 25
    assert {meta["counts"][name] for name in BENCHMARK_FILES} == {6}


@pytest.mark.parametrize("name", ["captions", "instruct", "text"])
def test_llava_records(root: Path, name: str) -> None:
    grids = {record["id"]: record["grid"] for record in read(root, "glyphs.json")}
    records = read(root, f"{name}.json")
    assert [record["id"] for record in records] == list(grids)
    assert [record["data_source"] for record in records[: len(KINDS)]] == list(KINDS)
    for record in records:
        messages = record["conversations"]
        assert [message["from"] for message in messages] == ["human", "gpt"] * (len(messages) // 2)
        assert 2 <= len(messages) <= 2 * 3
        first = messages[0]["value"]
        if name == "text":
            assert "image" not in record
            grid, gaps = grids[record["id"]], int(record["id"].rsplit("_", 1)[1]) % 2 == 1
            lines = grid if gaps else [" ".join(line.split()) for line in grid if line.strip()]
            assert first.split("\n")[:-1] == lines
        else:
            assert first.startswith("<image>\n")
            assert (root / "images" / record["image"]).is_file()
        assert not any("<image>" in message["value"] for message in messages[1:])
        if name == "captions":
            assert first == "<image>\ntranscribe"


def test_some_text_records_transcribe(root: Path) -> None:
    sources = {
        record["data_source"]
        for record in read(root, "text.json")
        for message in record["conversations"]
        if message["value"].split("\n")[-1] == "transcribe"
    }
    assert len(sources) > 1


def test_glyph_labels_fit_the_images(root: Path) -> None:
    for record in read(root, "glyphs.json"):
        image = Image.open(root / "images" / record["image"])
        assert image.size == (8 * 14, 8 * 14)
        assert len(record["grid"]) == 8


@pytest.mark.parametrize("name", BENCHMARK_FILES)
def test_benchmarks_reload_with_their_columns(root: Path, name: str) -> None:
    dataset = benchmark(root, name)
    assert list(dataset.features) == list(BENCHMARK_FILES[name].columns)
    assert dataset.features == datasets.Features(BENCHMARK_FILES[name].columns)
    assert len(dataset) == 6
    assert isinstance(dataset.features["image"], datasets.Image)
    for row in dataset:
        assert row["image"].size == (8 * 14, 8 * 14)
        assert row["question"]
    # The bytes are inside the file: it can be moved away from the folder.
    raw = dataset.cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert raw["bytes"].startswith(b"\x89PNG")


def test_benchmark_columns_mean_what_the_real_ones_mean(root: Path) -> None:
    charts = benchmark(root, "chartqa")
    assert charts["type"][:] == ["augmented", "human"] * 3
    for row in benchmark(root, "textvqa"):
        assert len(row["answers"]) == 10
        assert set(row["answers"]) < set(row["ocr_tokens"])
        assert row["answers"][0].isalpha()
        assert row["question"].islower()
    for row in benchmark(root, "ocrbench"):
        assert ("Digit" in row["question_type"]) == (row["question"] == "which number")
    for row in benchmark(root, "refcoco"):
        x, y, width, height = row["bbox"]
        assert row["question"] == f"locate {row['answer'][0]}"
        assert (x % 14, y % 14, width, height) == (0, 0, 14 * len(row["answer"][0]), 14)


def test_scene_benchmarks_share_no_page(root: Path) -> None:
    images = [{np.asarray(row["image"]).tobytes() for row in benchmark(root, name)} for name in ("textvqa", "ocrbench")]
    assert not images[0] & images[1]


def test_more_pages_begin_with_the_same_pages(root: Path, tmp_path: Path) -> None:
    write_pages(tmp_path / "more", kinds=["scene"], **(ARGUMENTS | {"train_pages": 7, "test_pages": 8}))
    for name in ("captions.json", "instruct.json", "text.json", "glyphs.json"):
        scenes = [record for record in read(root, name) if record["id"].startswith("scene")]
        assert read(tmp_path / "more", name)[:5] == scenes
    image = "images/train/scene_000003.png"
    assert (tmp_path / "more" / image).read_bytes() == (root / image).read_bytes()
    fewer, more = benchmark(root, "ocrbench"), benchmark(tmp_path / "more", "ocrbench")
    assert fewer["question"][:] == more["question"][:6]


def test_same_arguments_reuse_the_folder(root: Path) -> None:
    before = (root / "meta.json").stat().st_mtime_ns
    meta = write_pages(root, **ARGUMENTS)
    assert meta == json.loads((root / "meta.json").read_text())
    assert (root / "meta.json").stat().st_mtime_ns == before


def test_other_arguments_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"pages with seed 2, not 3; delete the folder or name another one"):
        write_pages(root, **(ARGUMENTS | {"seed": 3}))
    with pytest.raises(UserError, match="with difficulty"):
        write_pages(root, **(ARGUMENTS | {"difficulty": "easy"}))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"meta.json is missing"):
        write_pages(tmp_path, **ARGUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_filled_and_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "pages"
    root.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_pages(root, kinds=["dense"], train_pages=1, test_pages=0)
    assert list(tmp_path.iterdir()) == [root]
    meta = write_pages(root, kinds=["dense"], train_pages=1, test_pages=0)
    assert meta["counts"] == {"captions": 1, "instruct": 1, "text": 1, "glyphs": 1}
    assert not (root / "benchmarks").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kinds": ["maps"]}, "kinds: unknown page kind 'maps'"),
        ({"kinds": []}, "kinds: no page kind"),
        ({"kinds": ["scene", "scene"]}, "names a kind twice"),
        ({"train_pages": -1}, "train_pages: -1 is too small"),
        ({"turns_per_page": 0}, "turns_per_page: 0 is too small"),
        ({"cell": 2}, "cell: 2 is too small"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, changed: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_pages(tmp_path / "pages", **(ARGUMENTS | changed))
    assert not list(tmp_path.iterdir())
