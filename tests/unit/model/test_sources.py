"""What is read from folders and hub ids: no code of theirs, no pickles, and nothing asked of the hub for a path."""

import http.server
import json
import os
import pickle
import threading
import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from proxyv.checkpoints.load import load_for_evaluation
from proxyv.convert import convert
from proxyv.errors import UserError
from proxyv.model.build import build_model, build_processor
from proxyv.model.sources import check_source, load_tokenizer
from tests.tiny import tiny_model, tiny_recipe


@pytest.fixture
def folder(tmp_path):
    """A saved tiny model."""
    model, processor = tiny_model()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def parts(tmp_path):
    """A recipe whose LLM is a folder, and that folder."""
    recipe, folder = tiny_recipe(), tmp_path / "llm"
    build_model(recipe).language_model.save_pretrained(folder)
    build_processor(recipe).tokenizer.save_pretrained(folder)
    recipe.llm.pretrained = str(folder)
    return recipe, folder


def edit(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def pickled(folder, names=("pytorch_model.bin",)):
    """The folder with its weights in pickles of these names, and its safetensors gone."""
    weights = load_file(folder / "model.safetensors")
    for place, name in enumerate(names):
        torch.save(dict(list(weights.items())[place :: len(names)]), folder / name)
    if len(names) > 1:
        places = {key: names[0] for key in weights}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_code_of_a_folder_is_refused_and_never_run(folder, tmp_path, monkeypatch, file):
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("asked on the terminal"))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(folder / file, auto_map={"AutoTokenizer": ["theirs.Tokenizer", None], "AutoConfig": "theirs.Config"})
    with pytest.raises(UserError, match=f"{file}: auto_map: names code of the folder's own"):
        load_for_evaluation(folder)
    assert not (tmp_path / "ran").exists()


def test_code_that_transformers_has_itself_is_left_alone(parts):
    recipe, folder = parts
    edit(folder / "config.json", auto_map={"AutoConfig": "theirs.Config"})
    build_model(recipe)


def test_a_tokenizer_that_needs_code_is_refused(parts, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("asked on the terminal"))
    _, folder = parts
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["theirs.Tokenizer", None]},
        tokenizer_class="Theirs",
    )
    with pytest.raises(UserError, match="auto_map"):
        load_tokenizer(folder, "llm.tokenizer")


@pytest.mark.parametrize(
    "names",
    [("pytorch_model.bin",), ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"), ("model.pt",)],
)
def test_pickled_weights_are_refused_and_the_line_says_how_to_convert_them(parts, names):
    recipe, folder = parts
    pickled(folder, names)
    with pytest.raises(UserError, match=f"{names[0]}: is a pickle.*proxyv convert {folder} NEW_FOLDER"):
        build_model(recipe)


def test_a_pickle_beside_safetensors_is_not_opened(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    load_for_evaluation(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is a pickle"):
        load_for_evaluation(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("names", [("pytorch_model.bin",), ("pytorch_model-00001-of-00001.bin",)])
def test_convert_makes_safetensors_of_pickled_weights(parts, tmp_path, names):
    recipe, folder = parts
    right = build_model(recipe).language_model.state_dict()
    pickled(folder, names)
    converted = convert(folder, tmp_path / "new")
    recipe.llm.pretrained = str(converted.folder)
    found = build_model(recipe).language_model.state_dict()
    assert found.keys() == right.keys() and all(torch.equal(found[name], right[name]) for name in right)
    assert load_tokenizer(converted.folder, "llm.tokenizer").get_vocab() == load_tokenizer(folder, "x").get_vocab()
    with pytest.raises(UserError, match="has safetensors already"):
        convert(converted.folder, tmp_path / "again")


@pytest.mark.parametrize(
    "path", ["./runs/x", "/nowhere/model", "../x", "a/b/c", "~/model", "models\\x", "", "x" * 5000]
)
def test_a_path_that_is_not_there_is_never_sent_to_the_hub(monkeypatch, path):
    monkeypatch.setattr("socket.socket.connect", lambda *words: pytest.fail("asked the network"))
    with pytest.raises(UserError, match="^llm.tokenizer: there is no folder"):
        load_tokenizer(path, "llm.tokenizer")


def test_a_tokenizer_that_fails_at_unknown_characters_is_damaged(tmp_path):
    words = Tokenizer(WordLevel({"a": 0}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="llm.tokenizer: .* cannot be read .*UNK.*; give the folder or hub id"):
        load_tokenizer(tmp_path, "llm.tokenizer")


@pytest.fixture
def hub(monkeypatch):
    """A server in the hub's place, which knows no model; its address."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # answers 501
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_what_can_be_a_hub_id_passes_where_the_hub_answers(hub):
    check_source("someone/a-model", "llm.pretrained")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path, hub):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(UserError, match="^llm.tokenizer: there is no folder 'someone/a-model', and http.* answer"):
            load_tokenizer("someone/a-model", "llm.tokenizer")
    assert time.monotonic() - started < 15  # the libraries' own attempts take half a minute
    (tmp_path / "models--someone--a-model").mkdir()  # downloaded before
    check_source("someone/a-model", "llm.tokenizer")
