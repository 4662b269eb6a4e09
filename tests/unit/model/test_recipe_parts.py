"""What a recipe says of its LLM, tower and tokenizer: refused where it does not fit, read from `pretrained` where it
says nothing."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaConfig, SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from proxyv.config import load_recipe
from proxyv.errors import UserError
from proxyv.files import CHECKOUT
from proxyv.model.build import build_config, build_model, build_processor, image_processor
from proxyv.model.character_tokenizer import make_character_tokenizer
from proxyv.model.chat_tokens import check_control_tokens, fitting_template
from proxyv.model.image_processing import CLIP_MEAN, CLIP_STD
from proxyv.model.registry import settle_recipe
from proxyv.model.templates import chat_template
from tests.tiny import TOWER, random_image, tiny_recipe

CLIP = CHECKOUT / "tests" / "parity" / "golden" / "clip112"


def refused(change):
    """The line with which a tiny recipe is refused once `change` has been made to it."""
    recipe = tiny_recipe()
    change(recipe)
    with pytest.raises(UserError) as error:
        build_config(recipe)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("hidden_size", "32", "llm.config.hidden_size: must be a whole number, at least 1, found '32'"),
        ("hidden_size", -1, "llm.config.hidden_size: must be a whole number, at least 1, found -1"),
        ("hidden_size", True, "llm.config.hidden_size: must be a whole number"),
        ("hidden_size", 33, "llm.config.num_attention_heads: 4 does not divide hidden_size 33"),
        ("num_hidden_layers", 0, "llm.config.num_hidden_layers"),
        ("num_key_value_heads", 3, "llm.config.num_key_value_heads: 3 does not divide num_attention_heads 4"),
        ("hiden_size", 4, "unknown key 'llm.config.hiden_size'; did you mean 'hidden_size'?"),
        ("_attn_implementation", "x", "unknown key 'llm.config._attn_implementation'"),
        ("vocab_size", 2.5, "llm.config.vocab_size"),
        ("rms_norm_eps", "1e-5", "llm.config.rms_norm_eps: must be a number, found '1e-5'"),
        ("initializer_range", float("nan"), "llm.config.initializer_range: must be a number, found nan"),
        ("tie_word_embeddings", "yes", "llm.config.tie_word_embeddings: must be true or false, found 'yes'"),
        ("hidden_act", "sliu", "llm.config.hidden_act: 'sliu' is unknown; did you mean 'silu'?"),
        ("rope_parameters", 3, "llm.config.rope_parameters: must be a mapping, found 3"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": "x"}, "llm.config.rope_parameters.rope_theta"),
        ("pad_token_id", 10**6, "llm.config.pad_token_id: must be below vocab_size"),
        ("model_type", 3, "llm.config.model_type: must name a model type"),
        ("model_type", "lama", "llm.config.model_type: 'lama' is unknown"),
    ],
)
def test_an_llm_that_cannot_be_is_named_by_its_field(field, value, said):
    assert said in refused(lambda recipe: recipe.llm.config.update({field: value}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_size": 7}, "vision.config.image_size: must be one number, patch_size or more, found 7"),
        ({"image_size": [56, 56]}, "vision.config.image_size: must be a whole number"),
        ({"patch_size": None}, "vision.config.patch_size: must be a whole number, at least 1, found None"),
        ({"patch_size": 0}, "vision.config.patch_size: must be a whole number, at least 1, found 0"),
        ({"num_channels": 1}, "vision.config.num_channels: images have 3, found 1"),
        ({"hidden_size": 33}, "vision.config.num_attention_heads: 2 does not divide hidden_size 33"),
        ({"image_sise": 56}, "unknown key 'vision.config.image_sise'; did you mean 'image_size'?"),
    ],
)
def test_a_tower_that_cannot_be_is_named_by_its_field(fields, said):
    assert said in refused(lambda recipe: recipe.vision.config.update(fields))


@pytest.mark.parametrize("layer", [99, 4, -5])
def test_a_feature_layer_that_the_tower_does_not_have_does_not_wrap_round(layer):
    line = refused(lambda recipe: setattr(recipe.vision, "feature_layer", layer))
    assert line == f"vision.feature_layer: must be one of the tower's 4 hidden states, -4 to 3, found {layer}"


def chat_of(**fields):
    """The processor of a tiny recipe with other fields of `llm`."""
    recipe = tiny_recipe()
    for name, value in fields.items():
        setattr(recipe.llm, name, value)
    return build_processor(recipe)


def test_an_unknown_padding_token_is_refused():
    assert chat_of(pad_token="<unk>").tokenizer.pad_token == "<unk>"
    with pytest.raises(UserError, match="llm.pad_token: '<pd>' is no token of the tokenizer; did you mean '<pad>'"):
        chat_of(pad_token="<pd>")


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("llama3", r"<\|begin_of_text\|>"),
        ("qwen", r"<\|im_start\|>"),
        ("gemma", "<bos>"),
        ("olmo2", r"<\|endoftext\|>"),
    ],
)
def test_a_template_whose_control_tokens_the_tokenizer_splits_is_refused(name, token):
    with pytest.raises(UserError, match=f"llm.chat_template: the tokenizer has no token {token}"):
        chat_of(chat_template=name)


@pytest.mark.parametrize(
    ("tokens", "name"),
    [
        (["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "llama3"),
        (["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], "phi3"),
        (["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"], "granite"),
        (["<bos>", "<start_of_turn>", "<end_of_turn>"], "gemma"),
        ([], "characters"),
    ],
)
def test_without_a_template_the_one_that_the_tokenizer_has_the_tokens_of_is_taken(tokens, name):
    tokenizer = make_character_tokenizer("A", ["word"])
    assert fitting_template(tokenizer) == "characters"
    if tokens:  # the built-in tokenizer's own mark goes
        tokenizer = tokenizer.__class__(
            tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
        )
        tokenizer.add_tokens(tokens, special_tokens=True)
    assert fitting_template(tokenizer) == name
    processor = chat_of()
    processor.tokenizer, processor.chat_template = tokenizer, chat_template(name)
    check_control_tokens(processor)


def test_roles_that_are_words_need_no_tokens_and_are_never_guessed():
    processor = chat_of()
    processor.tokenizer.add_tokens(["<|endoftext|>"], special_tokens=True)
    assert fitting_template(processor.tokenizer) == "characters"
    processor.chat_template = chat_template("olmo2")
    check_control_tokens(processor)


def test_what_a_clip_folder_says_is_read_from_it():
    recipe = tiny_recipe()
    recipe.vision.pretrained, recipe.vision.config = str(CLIP), {}
    config = build_config(recipe).vision_config
    stated = json.loads((CLIP / "config.json").read_text())
    stated = stated.get("vision_config", stated)
    assert (config.hidden_size, config.image_size) == (stated["hidden_size"], stated["image_size"])
    images = image_processor(recipe)
    assert (images.image_mean, images.image_std) == (list(CLIP_MEAN), list(CLIP_STD))
    recipe.vision.config = {"num_hidden_layers": 1}  # the rest is the folder's
    recipe.vision.feature_layer = -1
    config = build_config(recipe).vision_config
    assert (config.num_hidden_layers, config.hidden_size) == (1, stated["hidden_size"])


def test_the_shapes_of_an_llm_are_read_from_its_folder(tmp_path):
    recipe = tiny_recipe()
    LlamaConfig(**{key: value for key, value in recipe.llm.config.items() if key != "model_type"}).save_pretrained(
        tmp_path
    )
    given = build_config(recipe).text_config
    recipe.llm.pretrained, recipe.llm.config = str(tmp_path), {"num_hidden_layers": 2}
    read = build_config(recipe).text_config
    assert (read.hidden_size, read.num_hidden_layers) == (given.hidden_size, 2)
    recipe.llm.pretrained = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="llm.pretrained"):
        build_config(recipe)


@pytest.mark.parametrize("kind", ["clip_vision_model", "siglip_vision_model"])
def test_the_standard_normalisation_is_the_towers(kind):
    recipe = tiny_recipe()
    recipe.vision.config["model_type"] = kind
    images = image_processor(recipe)
    expected = ([0.5] * 3, [0.5] * 3) if kind.startswith("siglip") else (list(CLIP_MEAN), list(CLIP_STD))
    assert (images.image_mean, images.image_std) == expected
    settled = settle_recipe(recipe).vision
    assert (settled.image_mean, settled.image_std) == expected  # what a run folder records
    recipe.vision.image_mean = [0.1, 0.2, 0.3]
    assert image_processor(recipe).image_mean == [0.1, 0.2, 0.3]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A tiny whole SigLIP in a folder with a normalisation of its own."""
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
    SiglipModel(SiglipConfig(text_config=text, vision_config=TOWER)).save_pretrained(folder)
    stated = {
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.5, 0.5, 0.25],
        "image_processor_type": "SiglipImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return folder


def test_a_siglip_folder_gives_tower_shapes_and_normalisation(siglip):
    """The whole of it from `pretrained` alone; features are the hidden state that `feature_layer` says, every patch of
    it, since there is no CLS token."""
    recipe = tiny_recipe(method={"name": "proxyv", "start_layer": 1, "downsample": 2})
    recipe.vision.pretrained, recipe.vision.config = str(siglip), {}
    processor = build_processor(recipe)
    model = build_model(recipe, image_token_id=processor.image_token_id).eval()
    assert type(model.vision_tower).__name__ == "SiglipVisionModel" and model.config.tokens_per_crop == 16
    assert processor.image_processor.image_mean == [0.4, 0.5, 0.6]
    inputs = processor(text=["A <image> B"], images=[random_image(60, 90)])
    theirs = SiglipVisionModel.from_pretrained(siglip).eval()
    with torch.no_grad():
        expected = theirs(inputs["pixel_values"], output_hidden_states=True).hidden_states
        seen = model.view(inputs["pixel_values"])
        torch.testing.assert_close(seen.patches(), expected[-2])
        torch.testing.assert_close(seen.patches(0), expected[0])
        assert torch.isfinite(model(**inputs).logits).all()
    black = processor.image_processor.normalise(torch.zeros(1, 56, 56, 3, dtype=torch.uint8).numpy())
    assert [round(float(value), 4) for value in black[0, :, 0, 0]] == [-0.8, -1.0, -2.4]


@pytest.mark.parametrize(("name", "side"), [("siglip2-qwen2-7b-proxyv-l16", 24), ("siglip-qwen2-7b-proxyv-l16", 27)])
def test_the_shipped_siglip_towers_have_their_known_size(name, side):
    recipe = load_recipe(CHECKOUT / "configs" / "recipes" / f"{name}.yaml")
    assert set(recipe.vision.config) <= {"model_type", *SiglipVisionConfig().to_dict()}  # nothing of CLIP's is left
    recipe.llm.config["num_hidden_layers"] = 17
    model = build_model(recipe, device="meta")
    assert model.config.tokens_per_crop == side**2
    assert model.view(torch.zeros(1, 3, 384, 384, device="meta")).patches().shape == (1, side**2, 1152)
    count = sum(parameter.numel() for parameter in model.vision_tower.parameters())
    assert round(count / 1e6) == 428
    assert image_processor(recipe).image_mean == [0.5, 0.5, 0.5]


def test_an_image_mode_of_one_call_is_checked_too():
    with pytest.raises(UserError, match="vision.image_mode: 'nope' is unknown; known are anyres, pad"):
        image_processor(tiny_recipe())([random_image()], image_mode="nope")
