"""Inference as Hugging Face's users expect it, with every method."""

import threading

import pytest
import torch
from transformers import TextIteratorStreamer
from transformers.cache_utils import DynamicCache, StaticCache

from proxyv.errors import UserError
from proxyv.model.build import build_model, build_processor
from proxyv.model.families import FAMILIES
from proxyv.model.inputs import embed
from tests.tiny import METHODS, random_image, tiny_model, tiny_recipe

methods = pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m['name']}-{m.get('start_layer')}")
GREEDY = dict(do_sample=False, max_new_tokens=6, min_new_tokens=6)


def prompt(processor, text="A <image> B", seed=1):
    return processor(text=[text], images=[[random_image(60, 90, seed)]])


def new_tokens(output, inputs):
    return output[:, inputs["input_ids"].shape[1] :].tolist()


@methods
def test_static_cache_equals_dynamic(method):
    model, processor = tiny_model("llama", method)
    inputs = prompt(processor)
    dynamic = model.generate(**inputs, **GREEDY)
    static = model.generate(**inputs, **GREEDY, cache_implementation="static", disable_compile=True)
    assert new_tokens(static, inputs) == new_tokens(dynamic, inputs)


@methods
def test_a_conversation_continues_from_the_cache(method):
    """The second turn reads the images from the cache; it equals a cache-less pass over everything."""
    model, processor = tiny_model("llama", method)
    inputs, cache = prompt(processor), DynamicCache()
    first = model.generate(**inputs, **GREEDY, past_key_values=cache)
    turn = processor(text=["value of C"])["input_ids"]
    whole = torch.cat([first, turn], 1)
    second = {**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
    continued = model.generate(**second, **GREEDY, past_key_values=cache)
    # What the cache holds of the first answer was seen step by step, so the reference takes the same steps.
    reference_cache = DynamicCache()
    with torch.no_grad():
        model(**inputs, past_key_values=reference_cache, use_cache=True)
        rest, tokens = whole[:, inputs["input_ids"].shape[1] :], []
        for _ in range(6):
            logits = model(input_ids=rest, past_key_values=reference_cache, use_cache=True).logits[:, -1]
            logits[:, model.config.image_token_id] = -torch.inf  # `generate` writes no placeholder
            step = logits.argmax(-1)
            tokens.append(step.item())
            rest = step[:, None]
    assert continued[0, whole.shape[1] :].tolist() == tokens


@methods
def test_sampling_is_seeded_and_streams(method):
    model, processor = tiny_model("llama", method)
    inputs = prompt(processor)
    settings = dict(do_sample=True, top_p=0.9, temperature=1.5, max_new_tokens=8, num_return_sequences=3)
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append(new_tokens(model.generate(**inputs, **settings), inputs))
    assert runs[0] == runs[1] and len(runs[0]) == 3
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    worker = threading.Thread(target=model.generate, kwargs={**inputs, **GREEDY, "streamer": streamer})
    worker.start()
    streamed = "".join(streamer)
    worker.join()
    assert streamed == processor.tokenizer.decode(new_tokens(model.generate(**inputs, **GREEDY), inputs)[0])


@methods
def test_text_as_embeddings(method):
    model, processor = tiny_model("llama", method)
    ids = processor(text=["value of C"])["input_ids"]
    from_ids = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **GREEDY)
    from_embeddings = model.generate(
        inputs_embeds=model.get_input_embeddings()(ids), attention_mask=torch.ones_like(ids), **GREEDY
    )
    assert from_embeddings.tolist() == from_ids[:, ids.shape[1] :].tolist()


@methods
def test_hidden_states_have_one_row_a_token(method):
    model, processor = tiny_model("llama", method)
    inputs = prompt(processor)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 4 and {state.shape[1] for state in states} == {inputs["input_ids"].shape[1]}


def test_attention_weights_are_given_or_refused():
    model, processor = tiny_model("llama", METHODS[0])
    model.set_attn_implementation("eager")
    inputs = prompt(processor)
    length = inputs["input_ids"].shape[1]
    weights = model(**inputs, output_attentions=True).attentions
    assert [w.shape for w in weights] == [(1, 4, length, length)] * 3
    model, processor = tiny_model("llama", METHODS[1])
    with pytest.raises(UserError, match="output_attentions"):
        model(**inputs, output_attentions=True)


@methods
def test_bfloat16_is_close_to_float32(method):
    model, processor = tiny_model("llama", method)
    inputs = prompt(processor)
    with torch.no_grad():
        expected = model(**inputs).logits
        half = model.to(torch.bfloat16)(**inputs).logits
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.float().flatten(), expected.flatten(), 0) > 0.995


@methods
def test_two_threads_on_one_model(method):
    model, processor = tiny_model("llama", method)
    prompts = [prompt(processor, "A <image>", 2), prompt(processor, "<image> B <image>".replace(" <image>", ""), 3)]
    alone = [new_tokens(model.generate(**inputs, **GREEDY), inputs) for inputs in prompts]
    found = [[], []]

    def work(index):
        for _ in range(3):
            found[index].append(new_tokens(model.generate(**prompts[index], **GREEDY), prompts[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [[alone[0]] * 3, [alone[1]] * 3]


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda m: f"{m['name']}-{m['start_layer']}")
def test_folding(method, tmp_path):
    """Equal up to rounding, undone by unfolding and by training, never saved."""
    model, processor = tiny_model("llama", method)
    inputs = prompt(processor)
    with torch.no_grad():
        plain = model(**inputs).logits
        names = set(model.state_dict())
        model.fold()
        folded = model(**inputs).logits
        assert set(model.state_dict()) == names
        torch.testing.assert_close(folded, plain, atol=1e-4, rtol=1e-4)
        model.unfold()
        assert torch.equal(model(**inputs).logits, plain)
        model.fold()
        assert torch.equal(model.train().eval()(**inputs).logits, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_saving_the_llm_is_transformers_own(family):
    """`full` gives the stock model's logits on the same embeddings, and cached decoding continues them."""
    model, processor = tiny_model(family, METHODS[0])
    inputs = prompt(processor)
    with torch.no_grad():
        asked = model.read_prompt(inputs["input_ids"], None, inputs["crops_per_image"])
        vision = model.vision_tokens(model.method, model.view(inputs["pixel_values"]), asked)
        embeddings = embed(model.embed_text(inputs["input_ids"]), vision, model.image_newline, asked.layout)
        stock = model.language_model(inputs_embeds=embeddings).logits
        torch.testing.assert_close(model(**inputs).logits, stock)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: m["name"])
def test_compiled_decoding_step(method):
    """The LLM's step compiles over a static cache that a prefill with images has filled."""
    model, processor = tiny_model("llama", method)
    inputs = prompt(processor)
    length = inputs["input_ids"].shape[1]
    cache = StaticCache(config=model.config.text_config, max_cache_len=length + 8)
    step = torch.compile(model.language_model.forward)
    with torch.no_grad():
        token = model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1)
        tokens = [token.item()]
        for place in range(length, length + 5):
            position = torch.tensor([[place]])
            out = step(input_ids=token[:, None], past_key_values=cache, use_cache=True, position_ids=position)
            token = out.logits[:, -1].argmax(-1)
            tokens.append(token.item())
    assert [tokens] == new_tokens(model.generate(**inputs, **GREEDY), inputs)


@methods
def test_logits_only_where_needed(method):
    """The last row's logits, and the loss over supervised rows alone, equal those cut from all rows' logits."""
    model, processor = tiny_model("llama", method)
    inputs = prompt(processor, "A <image> value of C")
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.image_token_id, -100)
    with torch.no_grad():
        every = model(**inputs).logits
        torch.testing.assert_close(model(**inputs, logits_to_keep=1).logits, every[:, -1:])
        loss = torch.nn.functional.cross_entropy(every[0, :-1], labels[0, 1:], ignore_index=-100)
        torch.testing.assert_close(model(**inputs, labels=labels).loss, loss)
        torch.testing.assert_close(
            model(**inputs, labels=labels, num_items_in_batch=2).loss * 2, loss * (labels[:, 1:] != -100).sum()
        )


@methods
def test_penalties_do_not_look_up_placeholders(method):
    """The placeholder's id lies beyond the vocabulary, as with Vicuna; processors of the prompt must not see it."""
    recipe = tiny_recipe("llama", method)
    processor = build_processor(recipe)
    model = build_model(recipe).eval()
    beyond = model.config.image_token_id
    assert beyond == model.config.text_config.vocab_size
    inputs = prompt(processor)
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.image_token_id, beyond)
    output = model.generate(**inputs, **GREEDY, repetition_penalty=1.3, no_repeat_ngram_size=2)
    assert len(new_tokens(output, inputs)[0]) == 6
