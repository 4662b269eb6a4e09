"""Batches by length: which samples go together, what a prompt's length is, and what is done when a device is full."""

import io

import pytest
import torch
from PIL import Image

from proxyv.data.images import BadImageError, image_size, open_image
from proxyv.errors import UserError
from proxyv.evaluation.answers import chat_prompt
from proxyv.evaluation.batches import (
    answer_in_parts,
    answer_whole,
    find_batch_size,
    first_guess,
    plan_batches,
    prompt_length,
)
from tests.fake_vlm import FakeModel, FakeProcessor
from tests.tiny import random_image, tiny_model


def test_the_longest_come_first_and_the_order_is_that_of_the_samples_alone():
    lengths = {7: 3, 2: 9, 5: 3, 0: 4, 1: 9}
    assert plan_batches(lengths, 2) == [[1, 2], [0, 5], [7]]
    assert plan_batches(dict(reversed(lengths.items())), 2) == [[1, 2], [0, 5], [7]]
    assert plan_batches(lengths, 64) == [[1, 2, 0, 5, 7]] and plan_batches({}, 3) == []


@pytest.mark.parametrize("mode", ["anyres", "pad"])
def test_a_length_is_that_of_the_model_inputs(mode):
    _, processor = tiny_model()
    processor.image_processor.image_mode = mode
    found = set()
    for size in ((60, 60), (200, 60), (60, 200), (150, 140)):
        text = chat_prompt(processor, "What? " * (size[0] % 7))
        inputs = processor(text=[text], images=[[random_image(*size)]])
        found.add(prompt_length(processor, text, [size]))
        assert prompt_length(processor, text, [size]) == inputs["input_ids"].shape[1]
    assert len(found) > 1
    assert prompt_length(processor, "no image", []) == processor(text=["no image"])["input_ids"].shape[1]


def test_a_foreign_processor_counts_characters_and_pixels():
    lengths = [
        prompt_length(FakeProcessor(), text, [size]) for text in ("a" * 8, "a" * 80) for size in ((9, 9), (90, 90))
    ]
    assert len(set(lengths)) == 4 and lengths == sorted(lengths)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_size_of_an_image_comes_from_its_header(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image"
    random_image(30, 20).save(path, kind, exif=exif)
    size = (20, 30) if orientation > 4 else (30, 20)
    assert image_size(path) == image_size(path.read_bytes()) == open_image(path).size == size
    if kind != "WEBP":  # whose header is only read with the rest
        cut = path.read_bytes()[:-200]
        assert image_size(cut) == size
        with pytest.raises(BadImageError):
            open_image(cut)


def test_headers_that_are_none_are_refused_as_images_are(tmp_path):
    (tmp_path / "text").write_text("no image")
    large = io.BytesIO()
    Image.new("1", (20_001, 200)).save(large, "PNG")
    for source in (b"", b"no image", tmp_path / "text", tmp_path / "gone", tmp_path, large.getvalue()):
        said = []
        for use in (image_size, open_image):
            with pytest.raises(BadImageError) as error:
                use(source)
            said.append(str(error.value))
        assert said[0] == said[1]


def full_above(most, asked):
    """Answers to at most so many samples at once."""

    def ask(batch):
        asked.append(list(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return [-index for index in batch]

    return ask


def test_the_size_that_fits_is_found_by_halves():
    lengths, asked = dict.fromkeys(range(40), 1), []
    assert find_batch_size(full_above(5, asked), lengths, 32) == (4, [0, -1, -2, -3])
    assert [len(batch) for batch in asked] == [32, 16, 8, 4]
    with pytest.raises(UserError, match="one sample alone does not fit"):
        find_batch_size(full_above(0, []), lengths, 32)


def test_a_batch_that_does_not_fit_is_halved_or_refused():
    asked = []
    assert answer_in_parts(full_above(2, asked), range(7)) == ([0, -1, -2, -3, -4, -5, -6], {3, 4, 1, 2})
    assert answer_in_parts(full_above(2, asked), range(2)) == ([0, -1], set())
    with pytest.raises(
        UserError, match="batch_size: 7 samples do not fit into the device's memory; take fewer, or auto"
    ):
        answer_whole(full_above(2, asked), range(7))
    with pytest.raises(UserError, match="one sample alone does not fit"):
        answer_in_parts(full_above(0, asked), range(7))


def test_auto_begins_with_a_power_of_two_that_leaves_no_process_idle():
    model = FakeModel(str)
    assert [first_guess(model, samples, 1) for samples in (1, 2, 3, 7, 8, 1000)] == [1, 2, 2, 4, 8, 8]
    model.device = torch.device("cuda")
    assert [first_guess(model, samples, 4) for samples in (3, 100, 1000)] == [1, 16, 64]
