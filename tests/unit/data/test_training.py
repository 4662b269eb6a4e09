"""A stage's samples and batches: policies, lengths, padding, order."""

import numpy as np
import pytest
import torch

from proxyv.config import DataSpec
from proxyv.constants import IGNORE_INDEX
from proxyv.data.collate import Collator
from proxyv.data.order import TrainingOrder, grouped, steps_of
from proxyv.data.outcomes import COUNTS
from proxyv.data.training_data import TrainingData
from proxyv.errors import UserError
from proxyv.model.build import build_processor
from proxyv.pages.ensure import ensure_pages
from tests.small_runs import page_recipe, record, record_recipe, save_image, stage
from tests.tiny import random_image


def data_of(recipe):
    """The data of the recipe's only stage."""
    ensure_pages(recipe)
    (name,) = recipe.stages
    return TrainingData(recipe, name, build_processor(recipe))


def counts_of(item):
    return {name: count for name, count in zip(COUNTS, item[1].tolist(), strict=True) if count}


def with_bad_image(folder, policy):
    records = [
        record("good", "<image>\nA", "B", save_image(folder, "good.png")),
        record("bad", "<image>\nC", "D", "missing.png"),
        record("text", "E", "F"),
    ]
    return record_recipe(folder, records, DataSpec("llava", "records.json", "images", on_bad_image=policy))


def test_bad_image_fails_with_file_record_and_remedy(tmp_path):
    with pytest.raises(
        UserError, match=r"records.json: record 'bad' \(number 1\): image .*missing.png does not exist.*skip or sub"
    ):
        data_of(with_bad_image(tmp_path, "fail"))[1]


def test_bad_image_is_skipped_to_the_next_sample(tmp_path):
    data = data_of(with_bad_image(tmp_path, "skip"))
    for _ in range(2):  # from the file and from the cache
        assert np.array_equal(data[1][0].input_ids, data[2][0].input_ids)
        assert counts_of(data[1]) == {"bad_images_skipped": 1}
        assert counts_of(data[0]) == {}


def test_bad_image_is_substituted_by_a_blank_one(tmp_path):
    data = data_of(with_bad_image(tmp_path, "substitute"))
    assert counts_of(data[1]) == {"bad_images_substituted": 1}
    assert data[1][0].crops.shape == (1, 56, 56, 3) and data[1][0].crops.max() == 0


def test_vision_rows_count_towards_the_limit(tmp_path):
    image = save_image(tmp_path, "a.png")
    records = [record("long", "<image>\nA", "B", image), record("short", "A", "B")]
    data = data_of(record_recipe(tmp_path, records, max_length=20))
    assert counts_of(data[0]) == {"too_long_skipped": 1}
    assert not data[0][0].crops_per_image
    refusing = data_of(record_recipe(tmp_path, records, max_length=20, on_too_long="fail"))
    with pytest.raises(
        UserError, match=r"record 'long' \(number 0\) takes 23 tokens, more than stages.only.max_length 20"
    ):
        refusing[0]
    assert len(data_of(record_recipe(tmp_path, records, max_length=23))[0][0].input_ids) == 23


def test_nothing_usable_is_an_error(tmp_path):
    data = data_of(record_recipe(tmp_path, [record("a", "A" * 30), record("b", "B" * 30)], max_length=10))
    with pytest.raises(UserError, match="no usable sample.*too long skipped: 2"):
        data[0]


def test_too_many_samples_without_label_end_the_run(tmp_path):
    question_only = {"conversations": [{"from": "human", "value": "A"}]}
    data = data_of(record_recipe(tmp_path, [question_only] * 60 + [record("a", "A")] * 20))
    assert counts_of(data[58]) == {"unsupervised_skipped": 2}
    with pytest.raises(UserError, match="of the first 64 samples have no supervised token.*show-sample"):
        for index in range(80):
            data[index]


def test_several_images_are_padded_a_single_one_is_split(tmp_path):
    one, two = save_image(tmp_path, "1.png", 120, 50), save_image(tmp_path, "2.png", 30, 90)
    records = [record("one", "<image>\nA", image=[one]), record("two", "<image><image>A", image=[one, two])]
    data = data_of(record_recipe(tmp_path, records, image_mode=None))
    assert data[0][0].crops_per_image == (4,)
    assert data[1][0].crops_per_image == (1, 1)
    assert data_of(record_recipe(tmp_path, records, image_mode="pad"))[0][0].crops_per_image == (1,)


def test_batch_equals_the_processor(tmp_path):
    images = [random_image(60, 40, 1), random_image(50, 90, 2)]
    names = [save_image(tmp_path, f"{i}.png", image.width, image.height, i + 1) for i, image in enumerate(images)]
    records = [
        record("a", "<image>\nvalue of C", "12", names[0]),
        record("b", "A", "B"),
        record("c", "<image>\nD", "", names[1]),
    ]
    data = data_of(record_recipe(tmp_path, records, image_mode=None))
    batch = Collator(data.processor, data.objective)([data[i] for i in range(3)])
    texts = ["<s><image>\nvalue of C<answer>12</s>", "<s>A<answer>B</s>", "<s><image>\nD<answer></s>"]
    expected = data.processor(text=texts, images=[[images[0]], [], [images[1]]])
    for key in ("input_ids", "attention_mask", "pixel_values", "crops_per_image"):
        assert torch.equal(batch[key], torch.as_tensor(expected[key])), key
    supervised = [row[row != IGNORE_INDEX].tolist() for row in batch["labels"]]
    ids = data.processor.tokenizer.convert_tokens_to_ids
    assert supervised == [ids(["1", "2", "</s>"]), ids(["B", "</s>"]), ids(["</s>"])]


def test_text_only_batch_has_no_vision_keys(tmp_path):
    data = data_of(record_recipe(tmp_path, [record("a", "A"), record("b", "long question")]))
    batch = Collator(data.processor, data.objective)([data[0], data[1]])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "counts"}
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist())


def test_glyph_batch(tmp_path):
    recipe = page_recipe(tmp_path, tower=stage(["glyphs"], train=["tower"], objective="patch_classification"))
    with pytest.raises(UserError, match="8 × 8 cells but a crop has 4 × 4 patches"):
        data_of(recipe)[0]
    recipe.vision.config["image_size"] = 112
    data = data_of(recipe)
    batch = Collator(data.processor, data.objective)([data[0], data[1]])
    assert batch["pixel_values"].shape == (2, 3, 112, 112) and batch["labels"].shape == (2, 64)
    assert set(batch) == {"pixel_values", "labels", "counts"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(data=[]), "stages.only.data: names no data set"),
        (dict(on_too_long="cut"), "stages.only.on_too_long: 'cut' is unknown"),
        (dict(objective="patch_classification"), "'records' has reader 'llava'.*needs 'glyphs'"),
    ],
)
def test_wrong_stages_are_named(tmp_path, fields, message):
    recipe = record_recipe(tmp_path, [record("a", "A")])
    recipe.stages["only"] = stage(**{"data": ["records"], **fields})
    with pytest.raises(UserError, match=message):
        data_of(recipe)


def test_wrong_policy_is_named(tmp_path):
    with pytest.raises(UserError, match="data.records.on_bad_image: 'skp'.*did you mean 'skip'"):
        data_of(with_bad_image(tmp_path, "skp"))


def test_order_covers_every_epoch_and_repeats_by_seed():
    order = list(TrainingOrder(size=10, batch=4, steps=5, seed=3))
    assert len(order) == 20
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10)) and order[:10] != order[10:]
    assert order == list(TrainingOrder(10, 4, 5, 3)) != list(TrainingOrder(10, 4, 5, 4))
    assert list(TrainingOrder(size=3, batch=8, steps=1, seed=0))[:3] != []


def test_grouped_batches_share_modality_and_length():
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.integers(1, 100, 21), -rng.integers(1, 100, 15)])
    order = grouped(lengths, 4, np.random.default_rng(1))
    assert len(order) == 36 and len(set(order.tolist())) == 36
    batches = lengths[order].reshape(-1, 4)
    kinds = [set((batch > 0).tolist()) for batch in batches]
    assert all(len(kind) == 1 for kind in kinds[:-1]) and len(kinds[-1]) == 2
    assert {True} in kinds[:-2] and {False} in kinds[:-2]
    assert all((np.diff(np.abs(batch)) <= 0).all() for batch in batches)
    assert order.tolist() == grouped(lengths, 4, np.random.default_rng(1)).tolist()


def test_grouped_order_needs_a_whole_batch():
    with pytest.raises(UserError, match="3 samples do not fill one global batch of 4"):
        TrainingOrder(3, 4, 1, 0, lengths=[1, 2, 3])


@pytest.mark.parametrize(
    ("size", "batch", "epochs", "grouped", "steps"),
    [(10, 4, 1, False, 2), (10, 4, 2, False, 5), (10, 4, 2, True, 4), (3, 8, 3, False, 1), (10, 5, 0.5, False, 1)],
)
def test_steps_of_epochs(size, batch, epochs, grouped, steps):
    assert steps_of(size, batch, epochs, grouped) == steps


@pytest.mark.parametrize(
    ("size", "batch", "epochs", "grouped"), [(3, 8, 1, False), (10, 4, 1e-9, False), (3, 4, 9, True)]
)
def test_epochs_that_make_no_step_are_refused(size, batch, epochs, grouped):
    with pytest.raises(UserError, match=f"^epochs: {epochs} of {size} samples fill no global batch of {batch}"):
        steps_of(size, batch, epochs, grouped)
