"""What every method in proxyv/methods must keep, found by looking in the folder."""

import inspect
import sys
from pathlib import Path

import pytest
import torch
from transformers.cache_utils import DynamicCache

from proxyv.config import load_recipe
from proxyv.errors import UserError
from proxyv.methods import describe_method, make_method, method_classes
from proxyv.model.method import NEEDS
from proxyv.model.registry import settle_fields
from proxyv.profiling.flops import prefill_figures
from proxyv.profiling.prefill import shapes
from tests.contract.method_settings import SHIPPED, every_field, method_fields, settings
from tests.tiny import random_image, tiny_model, tiny_recipe

METHODS = sorted(method_classes())
PROMPTS = {
    "one image": (["A <image> B"], [[random_image(60, 40, 1)]]),
    "several images": (["<image>A<image>B C"], [[random_image(60, 40, 1), random_image(30, 90, 2)]]),
    "none": (["value of C"], None),
    "batch": (
        ["A <image> B", "<image>C", "value of C", "<image>A <image>"],
        [[random_image(60, 40, 1)], [random_image(30, 90, 2)], [], [random_image(40, 40, 3), random_image(90, 30, 4)]],
    ),
}
every_method = pytest.mark.parametrize("name", METHODS)
every_family = pytest.mark.parametrize("family", ["llama", "qwen2"])
every_prompt = pytest.mark.parametrize("prompt", PROMPTS)


def inputs_of(processor, prompt):
    texts, images = PROMPTS[prompt]
    return processor(text=texts, images=images)


def alone(processor, prompt):
    """The samples of a prompt, one by one."""
    texts, images = PROMPTS[prompt]
    return [processor(text=[text], images=[images[i]] if images else None) for i, text in enumerate(texts)]


def text_labels(processor, inputs):
    """Every text token supervised but a sample's first, which has no row before it."""
    ids, seen = inputs["input_ids"], inputs["attention_mask"].cumsum(1)
    return ids.masked_fill((seen <= 1) | (ids == processor.image_token_id), -100)


@every_method
def test_header_names_paper_and_deviations(name):
    header = inspect.getdoc(sys.modules[method_classes()[name].__module__]) or ""
    assert "arXiv" in header and "Deviations" in header
    assert ("pproximate" in header) == make_method({"name": name}).approximate


@every_method
def test_described_and_made_again(name):
    method = make_method(method_fields(name))
    assert make_method(describe_method(method)) == method
    assert make_method({"name": name}) == method_classes()[name]()  # builds from defaults
    assert set(method.needs) <= set(NEEDS)


@every_method
@every_family
@every_prompt
def test_every_trainable_parameter_moves_in_one_step(name, family, prompt):
    """Forward and backward are finite, also where a batch has no image."""
    model, processor = tiny_model(family, method_fields(name))
    model.train()
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(model.module_group(parameter_name) != "tower")
    before = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    inputs = inputs_of(processor, prompt)
    loss = model(**inputs, labels=text_labels(processor, inputs)).loss
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    # None would leave other ranks waiting in a sharded run.
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    assert torch.isfinite(loss)
    if prompt == "batch":
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        still = [n for n, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
        assert not still


@pytest.mark.parametrize("name, field, changed", every_field(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_field_changes_shapes_or_numbers(name, field, changed):
    model, processor = tiny_model("llama", method_fields(name))
    other, its_processor = tiny_model("llama", method_fields(name, **changed))
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (model, other)]
    if shapes[0] != shapes[1]:
        return
    other.load_state_dict(model.state_dict())
    # A method may limit what the processor makes of an image.
    cases = [(m, inputs_of(p, "batch")) for m, p in ((model, processor), (other, its_processor))]
    numbers, losses = [], []
    with torch.no_grad():
        for m, inputs in cases:
            numbers.append(m(**inputs, logits_to_keep=1).logits)
            torch.manual_seed(5)  # what a method draws in training is the same for both, so only the field differs
            losses.append(m.train()(**inputs, labels=text_labels(processor, inputs)).loss)
    assert not torch.allclose(*numbers) or not torch.allclose(*losses)


@every_method
@every_family
def test_text_only_is_the_plain_model(name, family):
    """Without images a method changes nothing: the LLM's own logits."""
    model, processor = tiny_model(family, method_fields(name))
    inputs = inputs_of(processor, "none")
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, model.language_model(**inputs).logits)


@every_method
@every_family
@every_prompt
def test_a_padded_batch_equals_the_samples_alone(name, family, prompt):
    """Greedy tokens, and the summed loss of all text: no sample sees another, none loses a row of text."""
    model, processor = tiny_model(family, method_fields(name))
    inputs, singles = inputs_of(processor, prompt), alone(processor, prompt)
    with torch.no_grad():
        together = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)[:, -4:]
        one_by_one = [model.generate(**s, max_new_tokens=4, min_new_tokens=4, do_sample=False)[0, -4:] for s in singles]
        loss = model(**inputs, labels=text_labels(processor, inputs), num_items_in_batch=1).loss
        losses = [model(**s, labels=text_labels(processor, s), num_items_in_batch=1).loss for s in singles]
    assert torch.equal(together, torch.stack(one_by_one))
    torch.testing.assert_close(loss, torch.stack(losses).sum(), atol=1e-3, rtol=1e-4)


@every_method
@every_prompt
def test_padding_of_all_samples_changes_nothing(name, prompt):
    """A batch padded to a fixed length, or sliced out of a larger one: no row attends to padding as if it were text."""
    model, processor = tiny_model("llama", method_fields(name))
    inputs = inputs_of(processor, prompt)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    columns = torch.zeros(len(ids), 3, dtype=ids.dtype)
    wider = dict(inputs, input_ids=torch.cat([columns, ids], 1), attention_mask=torch.cat([columns, mask], 1))
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with torch.no_grad():
        expected, found = (model(**batch, logits_to_keep=1).logits for batch in (inputs, wider))
        tokens = [model.generate(**batch, **settings)[:, -3:] for batch in (inputs, wider)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(*tokens)


@every_method
@every_family
@every_prompt
def test_cached_decoding_equals_a_pass_over_prompt_and_answer(name, family, prompt):
    """The loss of a forced answer, decoded step by step behind the cache, is that of one pass: what is dropped, and
    where the rest stands, is decided by the prompt alone."""
    model, processor = tiny_model(family, method_fields(name))
    inputs = inputs_of(processor, prompt)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    letters = torch.tensor(processor.tokenizer("ABCDEFGHIJKL")["input_ids"])
    answer = letters[: 3 * len(ids)].view(-1, 3)
    ones = torch.ones_like(answer)
    whole = dict(inputs, input_ids=torch.cat([ids, answer], 1), attention_mask=torch.cat([mask, ones], 1))
    labels = torch.cat([torch.full_like(ids, -100), answer], 1)
    with torch.no_grad():
        expected = model(**whole, labels=labels).loss
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        steps = [output.logits]
        for step in range(answer.shape[1] - 1):
            mask = torch.cat([mask, ones[:, :1]], 1)
            output = model(
                input_ids=answer[:, step : step + 1],
                attention_mask=mask,
                position_ids=mask.sum(1, keepdim=True) - 1,
                past_key_values=output.past_key_values,
            )
            steps.append(output.logits)
    logits = torch.cat(steps, 1).flatten(0, 1)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, answer.flatten()), expected)


@every_method
@every_family
@every_prompt
def test_text_is_kept_and_positions_stay_ordered(name, family, prompt, monkeypatch):
    """Every layer's cache has room for all text and newlines, and positions never fall along its rows."""
    model, processor = tiny_model(family, method_fields(name))
    inputs = inputs_of(processor, prompt)
    seen, rotary = [], model.language_model.model.rotary_emb
    forward = rotary.forward

    def record(x, position_ids):
        seen.append(position_ids)
        return forward(x, position_ids)

    monkeypatch.setattr(rotary, "forward", record)
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    text = (inputs["input_ids"] != processor.image_token_id) & (inputs["attention_mask"] == 1)
    kept = [layer.keys.shape[2] for layer in cache.layers]
    assert min(kept) >= text.sum(1).max() and max(kept) <= inputs["input_ids"].shape[1] + 8
    rows = max(kept)
    assert all((positions[:, :rows].diff(dim=1) >= 0).all() for positions in seen)


@every_method
@every_family
def test_a_conversation_goes_on_from_the_cache(name, family):
    """`generate` with the running cache feeds the new turn alone, however few rows the cache holds."""
    model, processor = tiny_model(family, method_fields(name))
    inputs = inputs_of(processor, "batch")
    cache, length = DynamicCache(), inputs["input_ids"].shape[1]
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    first = model.generate(**inputs, **settings, past_key_values=cache)
    turn = processor(text=["value of C"] * len(first))["input_ids"]
    ids = torch.cat([first, turn], 1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(ids[:, length:])], 1)
    second = model.generate(**{**inputs, "input_ids": ids, "attention_mask": mask}, **settings, past_key_values=cache)[
        :, ids.shape[1] :
    ]
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        rest, steps = ids[:, length:], []
        for step in range(3):
            seen = mask.shape[1] + step
            so_far = torch.ones(len(ids), seen, dtype=torch.long)
            so_far[:, :length] = inputs["attention_mask"]
            position_ids = (so_far.cumsum(1) - 1)[:, -rest.shape[1] :]
            output = model(input_ids=rest, attention_mask=so_far, position_ids=position_ids, past_key_values=cache)
            output.logits[..., model.config.text_config.eos_token_id] = -torch.inf  # as min_new_tokens does
            output.logits[..., model.config.image_token_id] = -torch.inf  # `generate` writes no placeholder
            rest = output.logits[:, -1:].argmax(-1)
            steps.append(rest)
    assert torch.equal(second, torch.cat(steps, 1))


def reads_the_question(name):
    """Whether a method looks at the whole question before it chooses."""
    return bool({"llm_attention", "question"} & set(make_method(method_fields(name)).needs))


@pytest.mark.parametrize("name", [name for name in METHODS if not reads_the_question(name)])
def test_a_later_text_token_changes_no_earlier_row(name):
    model, processor = tiny_model("llama", method_fields(name))
    short = processor(text=["A <image> B"], images=[[random_image()]])
    longer = processor(text=["A <image> BC"], images=[[random_image()]])
    with torch.no_grad():
        first, second = model(**short).logits, model(**longer).logits
    torch.testing.assert_close(second[:, : first.shape[1]], first, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in METHODS if "no_op" in settings(name)])
@every_family
@every_prompt
def test_no_op_setting_equals_full(name, family, prompt):
    model, processor = tiny_model(family, method_fields(name, **settings(name)["no_op"]))
    full, _ = tiny_model(family, {"name": "full"})
    missing, unused = full.load_state_dict(model.state_dict(), strict=False)
    assert not missing and all(model.module_group(key) == "method" for key in unused)
    inputs = inputs_of(processor, prompt)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs, logits_to_keep=1).logits, full(**inputs, logits_to_keep=1).logits)
        assert torch.equal(*(m.generate(**inputs, max_new_tokens=3, do_sample=False) for m in (model, full)))


def gradients(method, **checkpointing):
    """Gradients of one training pass over the batch, by parameter."""
    model, processor = tiny_model("llama", method)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(checkpointing)
        model.enable_input_require_grads()
    inputs = inputs_of(processor, "batch")
    torch.manual_seed(5)  # methods may draw
    model(**inputs, labels=text_labels(processor, inputs)).loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@every_method
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(name, reentrant):
    plain = gradients(method_fields(name))
    checkpointed = gradients(method_fields(name), use_reentrant=reentrant)
    assert checkpointed.keys() == plain.keys()
    for parameter in plain:
        torch.testing.assert_close(checkpointed[parameter], plain[parameter], atol=1e-4, rtol=1e-3)


REFUSING = [name for name in METHODS if "refuses_reentrant_checkpointing" in settings(name)]


@pytest.mark.parametrize("name", REFUSING)
def test_reentrant_checkpointing_is_refused_where_it_would_be_wrong(name):
    """In one line, under the fields that the settings name; the other kind runs and changes nothing."""
    method = method_fields(name, **settings(name)["refuses_reentrant_checkpointing"])
    with pytest.raises(UserError, match="use_reentrant=False"):
        gradients(method, use_reentrant=True)
    torch.testing.assert_close(gradients(method, use_reentrant=False), gradients(method), atol=1e-4, rtol=1e-3)


@every_method
def test_eager_and_sdpa_agree(name):
    logits = []
    for back_end in ("eager", "sdpa"):
        model, processor = tiny_model("qwen2", method_fields(name))
        model.set_attn_implementation(back_end)
        with torch.no_grad():
            logits.append(model(**inputs_of(processor, "batch"), logits_to_keep=1).logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


@every_method
def test_saved_and_loaded(name, tmp_path):
    model, processor = tiny_model("llama", method_fields(name))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.method == model.method
    inputs = inputs_of(processor, "batch")
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs, logits_to_keep=1).logits, model(**inputs, logits_to_keep=1).logits)


@pytest.mark.parametrize("file", sorted(Path("configs/method").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_method_file_repeats_no_default(file):
    """A default has one source, the method's dataclass."""
    fields = dict(load_recipe(file).method)
    defaults = settle_fields({"name": fields.pop("name")})
    assert not [field for field, value in fields.items() if value == defaults[field]]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_defaults_are_counted_at_full_size(name):
    """configs/method/<name>.yaml fits Vicuna-7B, and its prefill runs on shapes alone."""
    recipe = load_recipe("configs/recipes/vicuna-7b-full.yaml")
    recipe.method = dict(load_recipe(f"configs/method/{name}.yaml").method)
    assert recipe.method == {"name": name}, "the published defaults are those of the dataclass"
    assert prefill_figures(recipe, shapes(recipe), crops=1, text_tokens=50)["decoder_flops"] > 0


def test_settings_are_of_methods_that_exist():
    from tests.contract.method_settings import FOLDER

    assert {path.stem for path in FOLDER.glob("*.yaml")} <= set(METHODS)
    assert tiny_recipe().method == {"name": "full"}
