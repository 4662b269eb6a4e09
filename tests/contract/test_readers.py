"""What every reader in READERS must keep, on a few records of its own format.

`readers/<name>.yaml` holds
    path       the file that they are written to
    records    records as the format has them, written as a JSON list; or `text`, the file as it is
    images     how many images each has; their files are one.png and two.png in the image folder
    bad        one more record (or lines of text) that is wrong, and `bad_name`, by which an error must name it
"""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from proxyv.config import DataSpec, load_recipe
from proxyv.constants import IMAGE_TOKEN
from proxyv.data.images import open_image
from proxyv.data.readers import CONVERSATIONS, GRIDS, READERS, open_reader
from proxyv.errors import UserError
from proxyv.files import CHECKOUT
from tests.small_runs import save_image
from tests.tiny import tiny_recipe

FOLDER = Path(__file__).parent / "readers"
PARTS = sorted((CHECKOUT / "configs" / "data").glob("*.yaml"))
every_reader = pytest.mark.parametrize("name", READERS)


def example_of(name):
    path = FOLDER / f"{name}.yaml"
    assert path.is_file(), f"write a few records of '{name}' into {path}; see {Path(__file__).name}"
    return OmegaConf.to_container(OmegaConf.load(path))


def write(folder, example, bad=False):
    """The example's file, with the wrong record behind the others or without, and its images."""
    path = folder / example["path"]
    if "text" in example:
        path.write_text(example["text"] + (example["bad"] if bad else ""), encoding="utf-8")
    else:
        records = example["records"] + ([example["bad"]] if bad else [])
        path.write_text(json.dumps(records), encoding="utf-8")
    for image in ("one.png", "two.png"):
        save_image(folder, image)
    return path


def open_example(folder, name, example, **fields):
    recipe = tiny_recipe(data_root=str(folder))
    recipe.data = {"example": DataSpec(name, example["path"], "images", **fields)}
    return open_reader(recipe, "example")


@every_reader
def test_records_become_samples(tmp_path, name):
    """As many as records; each has its marks, or a grid of characters, and images that open."""
    example = example_of(name)
    write(tmp_path, example)
    reader = open_example(tmp_path, name, example)
    samples = [reader[index] for index in range(len(reader))]
    assert [len(sample.images) for sample in samples] == example["images"]
    assert len({sample.id for sample in samples}) == len(samples) and {s.source for s in samples} == {"example"}
    for sample in samples:
        assert all(open_image(image).size == (60, 40) for image in sample.images)
        assert bool(sample.grid) == (reader.gives == GRIDS)
        if reader.gives == CONVERSATIONS:
            assert sum(message["content"].count(IMAGE_TOKEN) for message in sample.messages) == len(sample.images)
            assert {message["role"] for message in sample.messages} <= {"system", "user", "assistant"}
            assert sample.messages[-1]["role"] == "assistant"


@every_reader
def test_lengths_are_negative_without_image(tmp_path, name):
    example = example_of(name)
    write(tmp_path, example)
    lengths = open_example(tmp_path, name, example).lengths()
    assert [length > 0 for length in lengths] == [images > 0 for images in example["images"]]
    assert all(lengths)


@every_reader
def test_limit_cuts(tmp_path, name):
    example = example_of(name)
    write(tmp_path, example)
    assert len(open_example(tmp_path, name, example, limit=1)) == 1


@every_reader
def test_a_bad_record_is_one_error_that_names_file_and_record(tmp_path, name):
    example = example_of(name)
    path = write(tmp_path, example, bad=True)
    with pytest.raises(UserError) as raised:
        reader = open_example(tmp_path, name, example)
        [reader[index] for index in range(len(reader))]
    message = str(raised.value)
    assert str(path) in message and example["bad_name"] in message and "\n" not in message


@every_reader
def test_a_missing_and_an_empty_file_are_errors(tmp_path, name):
    example = example_of(name)
    with pytest.raises(UserError, match="data.example.path: .* does not exist"):
        open_example(tmp_path, name, example)
    (tmp_path / example["path"]).write_text("")
    with pytest.raises(UserError, match=r"data\.example\.path"):
        open_example(tmp_path, name, example)


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_shipped_data_sets_name_a_reader_and_a_file(path):
    data = load_recipe(path).data
    assert data and all(spec.reader in READERS and spec.path for spec in data.values())
