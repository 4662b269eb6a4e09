"""The model as its users meet it: saving, batches, mixed samples, generation, switching a method on."""

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    LlamaForCausalLM,
)
from transformers.cache_utils import DynamicCache

from proxyv.errors import UserError
from proxyv.model.build import build_model, build_processor
from proxyv.model.families import FAMILIES
from proxyv.model.modeling import ProxyVForConditionalGeneration
from tests.tiny import METHODS, random_image, tiny_model, tiny_recipe

IMAGE = "<image>\n"
# Text and images of one sample each: image first, in the middle, last; two images, adjacent images, none.
SAMPLES = [
    (IMAGE + "which word", [random_image(60, 40, 1)]),
    ("A <image> B <image> C", [random_image(40, 90, 2), random_image(200, 60, 3)]),
    ("value of C", []),
    ("AB<image><image>", [random_image(30, 30, 4), random_image(80, 80, 5)]),
]
variants = pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m['name']}-{m.get('start_layer')}")
families = pytest.mark.parametrize("family", FAMILIES)


def batch_of(processor, indices):
    texts, images = zip(*(SAMPLES[i] for i in indices), strict=True)
    return processor(text=list(texts), images=list(images))


@families
@variants
def test_batch_equals_samples_alone(family, method):
    model, processor = tiny_model(family, method)
    with torch.no_grad():
        together = model(**batch_of(processor, range(4)), logits_to_keep=1).logits
        for i in range(4):
            alone = model(**batch_of(processor, [i]), logits_to_keep=1).logits
            torch.testing.assert_close(together[i], alone[0], atol=1e-4, rtol=1e-4)


@families
@variants
def test_batched_generation_equals_one_by_one(family, method):
    model, processor = tiny_model(family, method)
    settings = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False)
    inputs = batch_of(processor, range(4))
    together = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
    for i in range(4):
        one = batch_of(processor, [i])
        assert together[i].tolist() == model.generate(**one, **settings)[0, one["input_ids"].shape[1] :].tolist()


@families
@variants
def test_cached_decoding_equals_full_prefill(family, method):
    model, processor = tiny_model(family, method)
    inputs = batch_of(processor, [1])
    new = torch.tensor([[7, 8, 9]])
    longer = {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], new], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(new)], 1),
    }
    with torch.no_grad():
        full = model(**longer, logits_to_keep=3).logits
        cache = model(**inputs, use_cache=True, past_key_values=DynamicCache()).past_key_values
        assert {layer.keys.shape[2] for layer in cache.layers} == {inputs["input_ids"].shape[1]}
        steps = model(input_ids=new, attention_mask=longer["attention_mask"], past_key_values=cache).logits
    torch.testing.assert_close(steps, full, atol=1e-4, rtol=1e-4)


@variants
def test_beams_and_several_sequences_keep_each_samples_images(method):
    model, processor = tiny_model("llama", method)
    settings = dict(max_new_tokens=5, min_new_tokens=5, num_beams=3, num_return_sequences=2, do_sample=False)
    inputs = batch_of(processor, [1, 0])
    together = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
    for place, i in enumerate([1, 0]):
        one = batch_of(processor, [i])
        alone = model.generate(**one, **settings)[:, one["input_ids"].shape[1] :]
        assert together[2 * place : 2 * place + 2].tolist() == alone.tolist()


@families
@variants
def test_eager_equals_sdpa(family, method):
    model, processor = tiny_model(family, method)
    inputs = batch_of(processor, range(4))
    with torch.no_grad():
        sdpa = model(**inputs, logits_to_keep=1).logits
        model.set_attn_implementation("eager")
        eager = model(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(eager, sdpa, atol=1e-4, rtol=1e-4)


def gradients_of(method, checkpointing=None):
    """Gradients of one step by parameter name; `checkpointing`: its options, None for none."""
    model, processor = tiny_model("llama", method)
    model.train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable(checkpointing)
        model.enable_input_require_grads()
    inputs = batch_of(processor, range(4))
    model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] < 7, -100)).loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@variants
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_keeps_gradients(method, reentrant):
    if reentrant and method["name"] == "proxyv_ns":
        with pytest.raises(UserError, match="use_reentrant=False"):
            gradients_of(method, {"use_reentrant": True})
        return
    gradients = [gradients_of(method, kind) for kind in (None, {"use_reentrant": reentrant})]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


@variants
def test_text_only_micro_batch_reaches_every_trained_module(method):
    """A rank without images must still give (zero) gradients, or the other ranks wait for it forever."""
    model, processor = tiny_model("llama", method)
    model.train()
    inputs = batch_of(processor, [2])
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    expected = [n for n, _ in model.named_parameters() if model.module_group(n) in ("projector", "newline", "method")]
    gradients = {n: p.grad for n, p in model.named_parameters()}
    assert all(gradients[n] is not None and not gradients[n].any() for n in expected)


@families
@variants
def test_round_trip(family, method, tmp_path):
    model, processor = tiny_model(family, method)
    folder = tmp_path / "foo"  # nothing may depend on the folder's name
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    again, processor_again = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(again) is ProxyVForConditionalGeneration and again.method == model.method
    assert processor_again.chat_template == processor.chat_template
    texts, images = zip(*SAMPLES, strict=True)
    inputs = processor_again(text=list(texts), images=list(images))
    assert torch.equal(inputs["pixel_values"], batch_of(processor, range(4))["pixel_values"])
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**inputs).logits, model(**inputs).logits)


def test_loading_weights_that_do_not_fit_is_an_error(tmp_path):
    model, _ = tiny_model("llama", METHODS[0])
    model.save_pretrained(tmp_path)
    model.config.method = METHODS[1]
    model.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="missing keys: .*guided_update"):
        ProxyVForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda m: f"{m['name']}-{m['start_layer']}")
def test_switching_a_method_on(method, tmp_path):
    """For a model trained as `full`: its own weights stay, the new modules start at their published scale."""
    model, processor = tiny_model("llama", METHODS[0])
    before = {n: p.clone() for n, p in model.named_parameters()}
    model.switch_method(method)
    fresh = dict(model.named_parameters())
    assert all(torch.equal(fresh[n], p) for n, p in before.items())
    added = fresh.keys() - before.keys()
    assert added and all(model.module_group(n) == "method" for n in added)
    model.save_pretrained(tmp_path)
    again = ProxyVForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs = batch_of(processor, range(4))
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)
    with pytest.raises(UserError, match="already has"):
        model.switch_method({**method, "start_layer": 2})


def test_fresh_modules_have_torchs_own_scale():
    model, _ = tiny_model("llama", METHODS[1])
    weight = model.language_model.model.layers[1].guided_update.input_proj.weight
    assert weight.abs().max() <= weight.shape[1] ** -0.5
    assert weight.std().item() == pytest.approx((3 * weight.shape[1]) ** -0.5, rel=0.1)
    assert model.image_newline.std().item() == pytest.approx(32**-0.5, rel=0.4)


def test_the_last_layer_has_no_guided_update():
    model, _ = tiny_model("llama", METHODS[1])
    updated = [i for i, layer in enumerate(model.language_model.model.layers) if hasattr(layer, "guided_update")]
    assert updated == [1]


def test_forward_is_reentrant():
    """Nothing stays on the model between calls: another image in between changes nothing."""
    model, processor = tiny_model("llama", METHODS[3])
    with torch.no_grad():
        first = model(**batch_of(processor, [1])).logits
        model(**batch_of(processor, [0])), model(**batch_of(processor, [2]))
        assert torch.equal(model(**batch_of(processor, [1])).logits, first)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"start_layer": 3}, "method.start_layer: 3 is not a layer of the LLM; use 0 to 2"),
        ({"downsample": 3}, "method.downsample: 3 does not divide the 4 × 4 vision tokens"),
        ({"hidden_ratio": 5}, "method.hidden_ratio: 5 does not divide"),
        ({"start_layr": 1}, "unknown key 'method.start_layr'; did you mean 'start_layer'?"),
        ({"name": "proxiv"}, "unknown method.name 'proxiv'; did you mean 'proxyv'?"),
    ],
)
def test_wrong_method_fields(fields, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        build_model(tiny_recipe("llama", {**METHODS[1], **fields}), device="meta")


def test_placeholders_and_images_must_match():
    model, processor = tiny_model()
    with pytest.raises(UserError, match=r"text 0 has 2 <image> mark\(s\) but 1 image"):
        processor(text=["<image> <image>"], images=[[random_image()]])
    inputs = batch_of(processor, [1])
    with pytest.raises(UserError, match="image placeholder rows"):
        model(**{**inputs, "crops_per_image": torch.tensor([3])})
    with pytest.raises(UserError, match=r"1 image\(s\) without a placeholder"):
        model(**{**inputs, "crops_per_image": torch.tensor([*inputs["crops_per_image"], 1])})
    with pytest.raises(UserError, match="crops"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"][:-1]})


def test_new_images_cannot_join_a_running_cache():
    model, processor = tiny_model()
    inputs = batch_of(processor, [0])
    cache = model(**inputs, use_cache=True).past_key_values
    with pytest.raises(UserError, match="running cache"):
        model(**inputs, past_key_values=cache)


def test_a_siglip_tower():
    """No CLS token there; every patch becomes a vision token."""
    recipe = tiny_recipe("llama", METHODS[1])
    recipe.vision.config["model_type"] = "siglip_vision_model"
    processor = build_processor(recipe)
    model = build_model(recipe, image_token_id=processor.image_token_id).eval()
    inputs = batch_of(processor, [1])
    assert model.projector(model.view(inputs["pixel_values"]).patches()).shape == (len(inputs["pixel_values"]), 16, 32)
    assert torch.isfinite(model(**inputs).logits).all()


def test_newline_positions_change_the_numbers():
    """With several crops; a single crop's newline stands at the same place either way."""
    recipe = tiny_recipe("llama", METHODS[1])
    processor = build_processor(recipe)
    logits = {}
    for positions in ("natural", "authors"):
        recipe.vision.newline_positions = positions
        torch.manual_seed(0)
        model = build_model(recipe, image_token_id=processor.image_token_id).eval()
        for mode in ("anyres", "pad"):
            inputs = processor(text=["A <image> B"], images=[[random_image(60, 90)]], image_mode=mode)
            with torch.no_grad():
                logits[positions, mode] = model(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(logits["natural", "pad"], logits["authors", "pad"], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits["natural", "anyres"], logits["authors", "anyres"], atol=1e-3)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m['name']}-{m.get('start_layer')}")
def test_pretrained_parts_are_loaded_whole(method, tmp_path):
    """A whole CLIP model gives its tower; an LLM that lacks a layer, or has another shape, is refused."""
    recipe = tiny_recipe("llama", method)
    other = build_model(recipe)
    tower, text = other.config.vision_config.to_dict(), CLIPTextConfig(hidden_size=32, num_hidden_layers=1)
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=tower)).save_pretrained(tmp_path / "clip")
    clip = CLIPModel.from_pretrained(tmp_path / "clip").vision_model
    llm = LlamaForCausalLM(other.config.text_config)
    llm.save_pretrained(tmp_path / "llm")
    recipe.vision.pretrained, recipe.llm.pretrained = str(tmp_path / "clip"), str(tmp_path / "llm")
    model = build_model(recipe)
    patch = "embeddings.patch_embedding.weight"
    found = next(value for name, value in model.vision_tower.state_dict().items() if name.endswith(patch))
    assert torch.equal(found, next(v for n, v in clip.state_dict().items() if n.endswith(patch)))
    own = model.language_model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in llm.state_dict().items())
    llm.config.num_hidden_layers = 2
    LlamaForCausalLM(llm.config).save_pretrained(tmp_path / "llm")
    with pytest.raises(UserError, match="llm.pretrained: .* missing .*layers.2"):
        build_model(recipe)
    llm.config.intermediate_size = 48
    LlamaForCausalLM(llm.config).save_pretrained(tmp_path / "llm")
    with pytest.raises(UserError, match="llm.pretrained: .* does not fit the configuration: .*size mismatch"):
        build_model(recipe)
