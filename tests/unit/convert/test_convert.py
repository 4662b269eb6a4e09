"""Checkpoints of other projects, made here in their layouts from known weights, and what they become."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    SiglipVisionConfig,
)

from proxyv.cli import main
from proxyv.config import save_recipe
from proxyv.convert import convert
from proxyv.convert.preprocessing import normalisation
from proxyv.errors import UserError
from proxyv.model import ProxyVForConditionalGeneration, ProxyVProcessor
from proxyv.model.build import build_model, build_processor
from proxyv.model.image_processing import CLIP_STD, ProxyVImageProcessor
from proxyv.model.templates import chat_template
from tests.tiny import METHODS, random_image, tiny_model, tiny_recipe

TO_THEIRS = (
    (r"image_newline$", "model.image_newline"),
    (r"projector\.up\.", "model.mm_projector.0."),
    (r"projector\.down\.", "model.mm_projector.2."),
    (r"vision_tower\.(vision_model\.)?", "model.vision_tower.vision_tower.vision_model."),
    (r"language_model\.model\.layers\.\d+\.proxy_initializer\.queries", "model.proxyv_initializer.proxyv_tokens"),
    (r"language_model\.model\.layers\.\d+\.proxy_initializer\.key_proj\.", "model.proxyv_initializer.Wk."),
    (r"language_model\.", ""),
)
INNER = {"mix.": "proj.0.", "up.": "proj.2.", "norm.": "layernorm_post."}
MODEL_TYPES = {"llama": "llava_llama", "qwen2": "llava_qwen", "phi3": "llava_phi", "mistral": "llava_mistral"}


def their_name(name, start):
    update = re.match(r"language_model\.model\.layers\.(\d+)\.guided_update\.(.+)", name)
    if update:
        inner = next(
            (new + update[2][len(old) :] for old, new in INNER.items() if update[2].startswith(old)), update[2]
        )
        return f"model.vision_mlp_layers.{int(update[1]) - start}.{inner}"
    for pattern, theirs in TO_THEIRS:
        match = re.match(pattern, name)
        if match:
            return theirs + name[match.end() :]
    raise AssertionError(name)


def their_weights(model, proxyv=True):
    """A tiny model's weights under the authors' names, with the last layer's update that they train for nothing."""
    start = model.config.method.get("start_layer", 0)
    weights = {their_name(name, start): value.clone() for name, value in model.state_dict().items()}
    if proxyv and model.config.method["name"] != "full":
        last = model.config.text_config.num_hidden_layers - 1 - start
        weights |= {
            name.replace("mlp_layers.0.", f"mlp_layers.{last}."): torch.randn_like(value)
            for name, value in weights.items()
            if "mlp_layers.0." in name
        }
    return weights


def their_config(model, tower, **fields):
    config, method = model.config.text_config, model.config.method
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"]
    keys += ["num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "bos_token_id", "eos_token_id"]
    keys += ["pad_token_id"]
    return {
        **{key: getattr(config, key) for key in keys if hasattr(config, key)},
        **{
            key: config.rope_parameters[key]
            for key in ("rope_theta", "partial_rotary_factor")
            if key in config.rope_parameters
        },
        "model_type": MODEL_TYPES[config.model_type],
        "proxyv": method["name"] != "full",
        "proxyv_start_layer": method.get("start_layer", 0),
        "proxyv_reduce_factor": method.get("downsample", 1),
        "learn_proxy": method["name"] == "proxyv_ns",
        "mm_vision_tower": str(tower),
        "mm_vision_select_layer": model.config.feature_layer,
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[56, 112], [112, 56]],
        **fields,
    }


def write_tower(folder, model):
    """The tower alone, as a folder that the checkpoint's config names."""
    tower = CLIPVisionModel(CLIPVisionConfig(**model.config.vision_config.to_dict()))
    tower.load_state_dict(model.vision_tower.state_dict())
    tower.save_pretrained(folder)
    return folder


def layer_of(name):
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def write_checkpoint(folder, weights, config, shards=1, as_bin=False, by_layer=False):
    """Write weights and config; names are dealt out to the files in turn, or by their first number."""
    folder.mkdir(parents=True)
    names = sorted(weights)
    ending, stem = ("bin", "pytorch_model") if as_bin else ("safetensors", "model")
    index = {}
    for shard in range(shards):
        mine = [n for n in names if layer_of(n) % shards == shard] if by_layer else names[shard::shards]
        part = {name: weights[name].contiguous() for name in mine}
        file = f"{stem}-{shard + 1:05}-of-{shards:05}.{ending}" if shards > 1 else f"{stem}.{ending}"
        torch.save(part, folder / file) if as_bin else save_file(part, folder / file)
        index |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def ask(processor):
    return processor(text="<image>" + "what is in A 1", images=random_image())


def assert_same(model, folder):
    """The converted folder holds the model's weights and answers as it does; returns the loaded one."""
    loaded = ProxyVForConditionalGeneration.from_pretrained(folder).eval()
    processor = ProxyVProcessor.from_pretrained(folder)
    want = model.state_dict()
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, want[name], rtol=0, atol=0, msg=name)
    model.config.newline_positions = loaded.config.newline_positions
    with torch.no_grad():
        assert torch.equal(loaded(**ask(processor)).logits, model(**ask(processor)).logits)
    return loaded


@pytest.mark.parametrize("as_bin", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m['name']}{m.get('start_layer', '')}")
def test_authors_checkpoint(tmp_path, family, method, as_bin):
    model, processor = tiny_model(family, method)
    config = their_config(model, write_tower(tmp_path / "tower", model))
    source = write_checkpoint(tmp_path / "foo", their_weights(model), config, shards=3, as_bin=as_bin)
    processor.tokenizer.save_pretrained(source)
    converted = convert(source, tmp_path / "ours")
    loaded = assert_same(model, tmp_path / "ours")
    assert loaded.config.newline_positions == "authors"
    assert {key: loaded.config.method[key] for key in method} == dict(method)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) == 3
    assert ProxyVProcessor.from_pretrained(tmp_path / "ours").image_processor.grid == [[1, 2], [2, 1]]
    assert bool(converted.notes) == (family == "phi3" and method["name"] == "proxyv_ns")


def test_tied_embeddings_are_written_once(tmp_path):
    recipe = tiny_recipe("qwen2", METHODS[1])
    recipe.llm.config["tie_word_embeddings"] = True
    processor = build_processor(recipe)
    model = build_model(recipe, image_token_id=processor.image_token_id).eval()
    config = their_config(model, write_tower(tmp_path / "tower", model), tie_word_embeddings=True)
    weights = their_weights(model)
    assert "lm_head.weight" in weights
    source = write_checkpoint(tmp_path / "foo", weights, config)
    processor.tokenizer.save_pretrained(source)
    convert(source, tmp_path / "ours")
    assert_same(model, tmp_path / "ours")
    with safe_open(tmp_path / "ours" / "model.safetensors", framework="pt") as opened:
        assert "language_model.lm_head.weight" not in set(opened.keys())


def test_llava_in_its_original_layout_takes_the_tower_from_its_own_folder(tmp_path):
    model, processor = tiny_model()
    tower = write_tower(tmp_path / "tower", model)
    weights = {k: v.half() for k, v in their_weights(model).items() if "vision_tower" not in k and "newline" not in k}
    config = their_config(model, "openai/no-such-tower", model_type="llava", image_aspect_ratio="pad")
    for key in ("proxyv", "proxyv_start_layer", "proxyv_reduce_factor", "learn_proxy"):
        del config[key]
    source = write_checkpoint(tmp_path / "foo", weights, config, shards=2)
    processor.tokenizer.save_pretrained(source)
    with pytest.raises(UserError, match="give the tower's folder or hub id with --tower"):
        convert(source, tmp_path / "ours")
    converted = convert(source, tmp_path / "ours", tower=str(tower))
    loaded = ProxyVForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert loaded.dtype == torch.float16 and loaded.config.method == {"name": "full"}
    assert loaded.config.newline_positions == "natural"
    newline = loaded.image_newline.float()
    assert 0.5 < newline.norm() < 2.0
    for name, value in model.state_dict().items():
        if name != "image_newline":
            assert torch.equal(loaded.state_dict()[name], value.half()), name
    assert any("no newline" in note for note in converted.notes)
    assert not any("pictures" in note for note in converted.notes)  # both pad
    assert ProxyVProcessor.from_pretrained(tmp_path / "ours").image_processor.image_mode == "pad"


def tiny_llava(next_model):
    text = dict(model_type="llama", hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    text |= dict(num_key_value_heads=2, vocab_size=320, max_position_embeddings=512)
    tower = dict(model_type="clip_vision_model", hidden_size=32, intermediate_size=64, num_hidden_layers=3)
    tower |= dict(num_attention_heads=2, image_size=56, patch_size=14, projection_dim=32)
    torch.manual_seed(1)
    if next_model:
        config = LlavaNextConfig(text_config=text, vision_config=tower, image_grid_pinpoints=[[56, 112], [112, 56]])
        return LlavaNextForConditionalGeneration(config).eval()
    return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=tower)).eval()


def as_transformers_4(name):
    name = re.sub(r"^model\.language_model\.", "language_model.model.", name)
    name = re.sub(r"^lm_head\.", "language_model.lm_head.", name)
    name = re.sub(r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model.", name)
    return re.sub(r"^model\.", "", name)


SHARES = [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "files, noted, mean",
    [
        ({"preprocessor_config.json": {"do_center_crop": True}}, True, None),
        ({"preprocessor_config.json": {"do_pad": True, "image_mean": SHARES}}, False, SHARES),
        ({"processor_config.json": {"image_processor": {"do_pad": False, "image_mean": SHARES}}}, True, SHARES),
        ({"processor_config.json": {}, "preprocessor_config.json": {"do_pad": True}}, False, None),
        ({}, True, None),
    ],
)
def test_a_changed_preprocessing_is_said_and_the_normalisation_is_kept(tmp_path, files, noted, mean):
    tiny_llava(False).save_pretrained(tmp_path / "foo")
    tiny_model()[1].tokenizer.save_pretrained(tmp_path / "foo")
    for name, content in files.items():
        (tmp_path / "foo" / name).write_text(json.dumps(content))
    notes = convert(tmp_path / "foo", tmp_path / "ours").notes
    assert [note for note in notes if "cuts off" in note and "pads them to a square" in note] == (
        [note for note in notes if note.startswith("pictures")] if noted else []
    )
    assert any(note.startswith("pictures") for note in notes) == noted
    images = ProxyVProcessor.from_pretrained(tmp_path / "ours").image_processor
    assert images.image_mean == (mean or ProxyVImageProcessor().image_mean)


@pytest.mark.parametrize("mode, noted", [("pad", False), ("square", True), (None, True), ("anyres_max_9", None)])
def test_the_original_codes_way_with_pictures(tmp_path, mode, noted):
    model, processor = tiny_model()
    tower = write_tower(tmp_path / "tower", model)
    (tower / "preprocessor_config.json").write_text(json.dumps({"image_std": SHARES}))
    config = their_config(model, tower, image_aspect_ratio=mode)
    del config["proxyv"]
    source = write_checkpoint(tmp_path / "foo", their_weights(model), config)
    processor.tokenizer.save_pretrained(source)
    if noted is None:
        with pytest.raises(UserError, match="config.json: image_aspect_ratio 'anyres_max_9' is not supported"):
            convert(source, tmp_path / "ours")
        return
    notes = convert(source, tmp_path / "ours").notes
    assert any("cuts off" in note for note in notes) == noted
    assert ProxyVProcessor.from_pretrained(tmp_path / "ours").image_processor.image_std == SHARES


def test_a_siglip_tower_has_its_own_normalisation():
    assert normalisation({}, SiglipVisionConfig()) == {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert normalisation({"image_mean": SHARES}, CLIPVisionConfig()) == {
        "image_mean": SHARES,
        "image_std": list(CLIP_STD),
    }


@pytest.mark.parametrize("layout", ["saved", "memory", "transformers 4"])
@pytest.mark.parametrize("next_model", [False, True], ids=["llava", "llava_next"])
def test_llava_hf(tmp_path, next_model, layout):
    theirs = tiny_llava(next_model)
    source = tmp_path / "foo"
    theirs.save_pretrained(source)
    if layout != "saved":
        names = {name: as_transformers_4(name) if layout != "memory" else name for name in theirs.state_dict()}
        weights = {names[name]: value.contiguous() for name, value in theirs.state_dict().items()}
        save_file(weights, source / "model.safetensors")
    tiny_model()[1].tokenizer.save_pretrained(source)
    converted = convert(source, tmp_path / "ours")
    ours = ProxyVForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(10, 30)[None]  # none of them the placeholder's
    with torch.no_grad():
        hidden = theirs.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        torch.testing.assert_close(
            ours.projector(ours.view(pixels).patches()), theirs.model.multi_modal_projector(hidden)
        )
        torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
    if next_model:
        assert torch.equal(ours.image_newline, theirs.model.image_newline)
    assert any("fresh" in note for note in converted.notes) == (not next_model)
    images = ProxyVProcessor.from_pretrained(tmp_path / "ours").image_processor
    assert images.image_mode == ("anyres" if next_model else "pad")
    assert any("cuts off" in note for note in converted.notes) == (not next_model)
    assert any("leaves out the patches of its padding" in note for note in converted.notes) == next_model
    if next_model:  # (height, width) pixels → (columns, rows)
        assert images.grid == [[2, 1], [1, 2]]


def test_stage_one_file_onto_a_recipe(tmp_path):
    model, processor = tiny_model("qwen2", METHODS[1])
    model.language_model.save_pretrained(tmp_path / "llm")  # with method modules, which the base has not
    llm = load_file(tmp_path / "llm" / "model.safetensors")
    base = {k: v for k, v in llm.items() if "guided_update" not in k and "proxy_initializer" not in k}
    save_file(base, tmp_path / "llm" / "model.safetensors", metadata={"format": "pt"})
    recipe = tiny_recipe("qwen2", METHODS[1])
    recipe.llm.pretrained = str(tmp_path / "llm")
    recipe.vision.pretrained = str(write_tower(tmp_path / "tower", model))
    save_recipe(recipe, tmp_path / "recipe.yaml")
    kinds = ("mm_projector", "vision_mlp_layers", "image_newline", "proxyv_initializer")
    trained = {k: v for k, v in their_weights(model).items() if any(kind in k for kind in kinds)}
    torch.save(trained, tmp_path / "mm_projector.bin")
    convert(tmp_path / "mm_projector.bin", tmp_path / "ours", onto=tmp_path / "recipe.yaml")
    assert assert_same(model, tmp_path / "ours").config.newline_positions == "authors"
    with pytest.raises(UserError, match="--onto RECIPE"):
        convert(tmp_path / "mm_projector.bin", tmp_path / "other")
    recipe.method = dict(METHODS[3])
    save_recipe(recipe, tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match="missing: .*proxy_initializer.queries"):
        convert(tmp_path / "mm_projector.bin", tmp_path / "other", onto=tmp_path / "recipe.yaml")


def test_what_is_wrong_is_one_line_and_writes_nothing(tmp_path, capsys):
    model, processor = tiny_model("llama", METHODS[1])
    config = their_config(model, write_tower(tmp_path / "tower", model))
    weights = their_weights(model)
    weights["model.norm.weight"] = torch.ones(7)
    weights["model.extra"] = torch.ones(7)
    del weights["lm_head.weight"]
    source = write_checkpoint(tmp_path / "foo", weights, config)
    processor.tokenizer.save_pretrained(source)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(source), str(tmp_path / "ours")])
    told = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(told) == 1
    assert "missing: language_model.lm_head.weight" in told[0]
    assert "unused: language_model.model.extra" in told[0]
    assert "misshapen: language_model.model.norm.weight (7,) for (32,)" in told[0]
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "bert"}, "model_type 'bert' cannot be converted; supported are"),
        ({}, "model_type 'None' cannot be converted"),
        ({"model_type": "proxyv"}, "model_type 'proxyv' cannot be converted"),
        ({"model_type": "llava_llama", "mm_vision_tower": 3.5}, "mm_vision_tower: must be of type str, found 3.5"),
        (
            {"model_type": "llava_llama", "proxyv": True, "hidden_size": 32},
            "proxyv_start_layer: must be of type int, found None",
        ),
        ({"model_type": "llava_llama", "mm_projector_type": "linear"}, "mm_projector_type 'linear' is not supported"),
        ({"model_type": "internlm2", "bias": True}, "bias: true"),
    ],
)
def test_wrong_configurations(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=re.escape(message)) as error:
        convert(tmp_path, tmp_path / "ours")
    assert "\n" not in str(error.value)


def test_nothing_is_unpickled_and_nothing_overwritten(tmp_path):
    model, processor = tiny_model()
    config = their_config(model, write_tower(tmp_path / "tower", model))
    source = write_checkpoint(tmp_path / "foo", their_weights(model), config, as_bin=True)
    torch.save({"model.norm.weight": ProxyVProcessor}, source / "pytorch_model.bin")
    with pytest.raises(UserError, match="must hold plain tensors"):
        convert(source, tmp_path / "ours")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        convert(source, tmp_path / "full")


def test_the_index_decides_and_must_be_whole(tmp_path):
    model, processor = tiny_model()
    config = their_config(model, write_tower(tmp_path / "tower", model))
    source = write_checkpoint(tmp_path / "foo", their_weights(model), config, shards=2)
    processor.tokenizer.save_pretrained(source)
    save_file({"junk": torch.ones(1)}, source / "consolidated.safetensors")
    convert(source, tmp_path / "ours")
    (source / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="lists files that are not there: model-00002-of-00002.safetensors"):
        convert(source, tmp_path / "other")


def test_files_load_in_transformers_that_nest_the_tower(tmp_path):
    model, processor = tiny_model()
    config = their_config(model, write_tower(tmp_path / "tower", model))
    source = write_checkpoint(tmp_path / "foo", their_weights(model), config)
    processor.tokenizer.save_pretrained(source)
    convert(source, tmp_path / "ours")
    with safe_open(tmp_path / "ours" / "model.safetensors", framework="pt") as opened:
        tower = [name for name in opened.keys() if name.startswith("vision_tower.")]  # noqa: SIM118
    assert tower and all(name.startswith("vision_tower.vision_model.") for name in tower)


def test_generation_settings_keep_ids_only_and_stop_at_the_end_of_a_turn(tmp_path):
    model, processor = tiny_model("phi3")
    source = write_checkpoint(
        tmp_path / "foo", their_weights(model), their_config(model, write_tower(tmp_path / "t", model))
    )
    processor.tokenizer.add_tokens(["<|end|>"], special_tokens=True)
    processor.tokenizer.save_pretrained(source)
    theirs = {"temperature": 0.9, "top_p": 0.6, "do_sample": False, "eos_token_id": [2, 7]}  # cannot be saved again
    (source / "generation_config.json").write_text(json.dumps(theirs))
    convert(source, tmp_path / "ours")
    ours = json.loads((tmp_path / "ours" / "generation_config.json").read_text())
    assert ours["eos_token_id"] == [2, 7, processor.tokenizer.convert_tokens_to_ids("<|end|>")]
    assert "temperature" not in ours and "top_p" not in ours and ours["pad_token_id"] == 0
    template = ProxyVProcessor.from_pretrained(tmp_path / "ours").chat_template
    assert "<|end|>" in template
    convert(source, tmp_path / "other", chat_template="vicuna_v1")
    assert "ASSISTANT:" in ProxyVProcessor.from_pretrained(tmp_path / "other").chat_template
    with pytest.raises(UserError, match="llm.chat_template: 'vicuna' is unknown; did you mean 'vicuna_v1'"):
        convert(source, tmp_path / "third", chat_template="vicuna")


@pytest.mark.parametrize(
    "name, want",
    [
        (
            "phi3",
            "<|system|>\nYou are a helpful AI assistant.<|end|>\n<|user|>\n<image>\nhi<|end|>\n"
            "<|assistant|>\nyo<|end|>\n<|user|>\nagain<|end|>\n<|assistant|>\n",
        ),
        (
            "internlm2",
            "<s><|im_start|>user\n<image>\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
            "<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "granite",
            "<|start_of_role|>user<|end_of_role|><image>\nhi<|end_of_text|>\n"
            "<|start_of_role|>assistant<|end_of_role|>yo<|end_of_text|>\n"
            "<|start_of_role|>user<|end_of_role|>again<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        ),
        (
            "gemma",
            "<bos><start_of_turn>user\n<image>\nhi<end_of_turn>\n<start_of_turn>model\nyo<end_of_turn>\n"
            "<start_of_turn>user\nagain<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "olmo2",
            "<|endoftext|><|user|>\n<image>\nhi\n<|assistant|>\nyo<|endoftext|>\n<|user|>\nagain\n<|assistant|>\n",
        ),
    ],
)
def test_chat_templates(name, want):
    tokenizer = tiny_model()[1].tokenizer
    first = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hi"}]}
    turns = [first, {"role": "assistant", "content": "yo"}, {"role": "user", "content": "again"}]
    asked = dict(chat_template=chat_template(name), tokenize=False)
    assert tokenizer.apply_chat_template(turns, add_generation_prompt=True, **asked) == want


def internlm_weights(llama, config):
    """A Llama's weights in InternLM2's layout, written from its definition."""
    names = {"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3"}
    names |= {"mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm", "norm": "norm"}
    names |= {"post_attention_layernorm": "ffn_norm", "embed_tokens": "tok_embeddings", "lm_head": "output"}
    size, per_group = 8, config.num_attention_heads // config.num_key_value_heads
    weights, state = {}, llama.state_dict()
    for name, value in state.items():
        if "_proj" in name and name.split(".")[-2][0] in "qkv":
            continue
        prefix = re.match(r"(model\.(?:layers\.\d+\.)?)?", name)[0]
        weights[f"{prefix}{names[name[len(prefix) :].removesuffix('.weight')]}.weight"] = value
    for layer in range(config.num_hidden_layers):
        q, k, v = (state[f"model.layers.{layer}.self_attn.{kind}_proj.weight"].split(size) for kind in "qkv")
        rows = []
        for group in range(config.num_key_value_heads):
            rows += [*q[group * per_group : (group + 1) * per_group], k[group], v[group]]
        weights[f"model.layers.{layer}.attention.wqkv.weight"] = torch.cat(rows)
    return weights


def test_internlm(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8)
    config = LlamaConfig(**{**config.to_dict(), "num_key_value_heads": 2, "vocab_size": 99, "head_dim": 8})
    llama = AutoModelForCausalLM.from_config(config).eval()
    theirs = {"model_type": "internlm2", "bias": False, "rope_theta": 10000.0, "auto_map": {"AutoModel": "x.Y"}}
    theirs |= {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 2048}
    theirs |= {key: getattr(config, key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    theirs |= {"num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 99, "rms_norm_eps": 1e-6}
    source = write_checkpoint(tmp_path / "foo", internlm_weights(llama, config), theirs, shards=2)
    tiny_model()[1].tokenizer.save_pretrained(source)
    convert(source, tmp_path / "llama")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "llama").eval()
    assert type(loaded).__name__ == "LlamaForCausalLM"
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, llama(ids).logits)
    assert "auto_map" not in (tmp_path / "llama" / "config.json").read_text()
    assert len(AutoTokenizer.from_pretrained(tmp_path / "llama")) == len(AutoTokenizer.from_pretrained(source))
