"""Recipe files: what is read from them, and one line for what cannot be."""

from __future__ import annotations

import time
from dataclasses import asdict

import pytest
from omegaconf import OmegaConf

from proxyv.config import Recipe, StageSpec, load_recipe, save_recipe
from proxyv.errors import UserError
from proxyv.files import CHECKOUT
from proxyv.schema import check_dataclass

TINY = CHECKOUT / "configs" / "recipes" / "tiny-full.yaml"


def refused(path, overrides=()):
    """The one line with which a recipe is refused."""
    with pytest.raises(UserError) as error:
        load_recipe(path, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def written(folder, text):
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)

ALIASES = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 500))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ALIASES, "40 deep"),
        ("name: [", "not valid YAML"),
        ("name:\t- a\n\t- b", "not valid YAML"),
        ("seed: 1\nseed: 2", "duplicate key seed"),
        ("- a", "must hold a mapping"),
        ("just words", "must hold a mapping"),
        (b"\xff\xfe\x00\x01", "not UTF-8"),
        (b"name: caf\xe9", "not UTF-8"),
        (b"\x00\x01\x02", "not valid YAML"),
        ("llm: &a {config: {b: *a}}", "alias stands within its own anchor"),
        (BOMB, "more than 100000 values"),
        ("llm: " + "{config: " * 60 + "1" + "}" * 60, "nest more than 40 deep"),
        ("llm: " + "[" * 100_000, "nest"),
        ("x" * 1_000_001, "larger than 1 MB"),
        ("? [a, b]\n: 1", "not valid YAML"),
        ("null: 1", "not valid YAML"),
        ("1: 2", "unknown key '1'"),
        ("name: !!python/object:os.system x", "not valid YAML"),
        ("parts: tiny.yaml", "parts: must be a list of files"),
        ("parts:", "parts: must be a list of files"),
        ("parts: 3", "parts: must be a list of files"),
        ("parts: [1]", "parts: must be a list of files"),
        ("parts: [none.yaml]", "none.yaml: no such file"),
        ("parts: [.]", "a folder; give the path of a YAML file"),
        ("parts: [recipe.yaml]", "'parts' leads back to the file itself"),
        ("parts: ${seed}", "'seed' not found"),
        ("method: ${nowhere}", "nowhere"),
        ("seed: ${seed}", "seed"),
        ("seed: ${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE"),
        ("seed: ${", "recipe.yaml: "),
        ("seed: ???", "seed"),
        ("llm:", "llm: must be a mapping of fields, found None"),
        ("llm: {config: {a: '${llm}'}}", "recipe.yaml: "),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:24],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path, text, said):
    path = written(tmp_path, text)
    began = time.monotonic()
    line = refused(path)
    assert said in line and str(tmp_path) in line
    assert time.monotonic() - began < 5


def test_parts_that_are_read_over_and_over_take_no_time(tmp_path):
    (tmp_path / "p0.yaml").write_text("seed: 7")
    for number in range(1, 40):
        (tmp_path / f"p{number}.yaml").write_text(f"parts: [p{number - 1}.yaml, p{number - 1}.yaml]")
    assert load_recipe(tmp_path / "p39.yaml").seed == 7


@pytest.mark.parametrize(
    "override", ["seed", "=1", "a..b=1", "seed=[", "seed={a: b: c}", "seed=${", "seed=\tx: y", "seed=???"]
)
def test_an_override_that_cannot_be_read_is_refused_in_one_line(override):
    assert "override" in refused(TINY, [override]) or "seed" in refused(TINY, [override])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("stages.text.learning_rate=1e-4", 1e-4),
        ("stages.text.learning_rate='1e-4'", 1e-4),
        ("stages.text.learning_rate=1", 1.0),
        ("stages.text.steps='3'", 3),
        ("stages.text.steps=3.0", 3),
        ("stages.text.steps=null", None),
        ("stages.text.compile=true", True),
        ("stages.text.group_learning_rate.llm=0", {"llm": 0.0}),
        ("stages.text.lora.targets=q_proj", ["q_proj"]),
        ("stages.text.lora.targets=[q_proj, tower]", ["q_proj", "tower"]),
    ],
)
def test_values_as_people_write_them(override, value):
    found = load_recipe(TINY, [override]).stages["text"]
    for part in override.split("=")[0].split(".")[2:]:
        found = getattr(found, part) if not isinstance(found, dict) else found
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.text.steps=true", "stages.text.steps: must be a number, found True"),
        ("stages.text.steps=2.5", "stages.text.steps: must be an integer, found 2.5"),
        ("stages.text.learning_rate=.nan", "stages.text.learning_rate: must be a finite number, found nan"),
        ("stages.text.learning_rate=-1", "stages.text.learning_rate: must be greater than 0, found -1"),
        ("stages.text.image_mode=nope", "stages.text.image_mode: 'nope' is unknown; known are anyres, pad"),
        ("vision.grid=[[1, 0]]", "vision.grid[0][1]: must be at least 1, found 0"),
        ("vision.grid=[[1, 2, 3]]", "vision.grid[0]: must have at most 2 items, found [1, 2, 3]"),
        ("vision.image_std=[1, 1, 0]", "vision.image_std[2]: must be greater than 0, found 0"),
        ("data.text.limit=-1", "data.text.limit: must be at least 1, found -1"),
        ("seed=4294967296", "seed: must be at most 4294967295, found 4294967296"),
        ("report_to=[wandbb]", "report_to[0]: 'wandbb' is unknown; did you mean 'wandb'?"),
        ("llm.confg=3", "unknown key 'llm.confg'; did you mean 'config'?"),
    ],
)
def test_a_value_outside_its_domain_is_named_with_file_field_and_remedy(override, said):
    assert refused(TINY, [override]) == f"{TINY}: {said}"


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ".", "", " ", ".hidden", "a\\b", "a\nb", "x" * 300, "a\0"])
def test_names_of_runs_and_stages_are_plain_folder_names(tmp_path, name):
    assert "name: must be" in refused(written(tmp_path, OmegaConf.to_yaml({"name": name})))
    assert "stages: key must be" in refused(written(tmp_path, OmegaConf.to_yaml({"stages": {name: {}}})))


def test_interpolations_are_resolved_when_a_recipe_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("PAGES", "/pages")
    path = written(tmp_path, "data_root: ${oc.env:PAGES}/new\npages: {seed: '${seed}'}\nseed: 3")
    recipe = load_recipe(path)
    assert (recipe.data_root, recipe.pages.seed) == ("/pages/new", 3)
    save_recipe(recipe, path)
    monkeypatch.delenv("PAGES")
    assert load_recipe(path) == recipe


def test_a_saved_recipe_reads_back_whatever_its_texts(tmp_path):
    for text in ("${seed}", "\\${seed}", "\\\\${seed}", "1e-4", "null", "yes", "a: b", "ü\n\tx", " ", "#", "'"):
        recipe = Recipe(name="one", stages={"1": StageSpec()})
        recipe.llm.pad_token = text
        recipe.llm.config = {"nested": {"text": [text], "number": 1e-5}}
        save_recipe(recipe, tmp_path / "recipe.yaml")
        assert asdict(load_recipe(tmp_path / "recipe.yaml")) == asdict(recipe), text


def test_a_recipe_made_in_python_is_checked_alike():
    recipe = Recipe(name="one")
    check_dataclass(recipe)
    recipe.vision.image_mode = "nope"
    with pytest.raises(UserError, match="^vision.image_mode: 'nope' is unknown"):
        check_dataclass(recipe)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run_stages=[tower, capton]", "run_stages: 'capton' is no stage; did you mean 'caption'?"),
        ("stages.text.data=[txt]", "stages.text.data: 'txt' is no data set; did you mean 'text'?"),
        ("run_stages=[text, text]", "run_stages: must name 'text' once, found ['text', 'text']"),
        ("stages.text.data=[text, text]", "stages.text.data: must name 'text' once"),
        ("stages.text.train=[llm, tower, llm]", "stages.text.train: must name 'llm' once"),
        ("pages.kinds=[charts, charts]", "pages.kinds: must name 'charts' once"),
        ("stages.text.dataloader_workers=1000000", "stages.text.dataloader_workers: must be at most 256"),
        ("output_dir=../elsewhere", "output_dir: must not lead out of the working folder; write an absolute path"),
        ("output_dir=runs/../../elsewhere", "output_dir: must not lead out of the working folder"),
        ("output_dir=~/runs", "output_dir: must be a path written out"),
        (f"data_root={'a' * 256}", "data_root: must be a path that systems take"),
        (f"data_root={'a/' * 501}", "data_root: must be a path that systems take"),
    ],
)
def test_names_places_and_lists_that_cannot_be_meant(override, said):
    assert said in refused(TINY, [override])


@pytest.mark.parametrize("folder", ["/data/runs", "runs/../others", "a/b"])
def test_an_output_folder_is_absolute_or_below_the_working_folder(folder):
    assert load_recipe(TINY, [f"output_dir={folder}"]).output_dir == folder


def test_nothing_of_a_tower_of_another_kind_is_left(tmp_path):
    clip = CHECKOUT / "configs" / "vision" / "clip-l-336.yaml"
    other = f"parts: [{clip}]\nvision: {{config: {{model_type: siglip_vision_model, hidden_size: 64}}}}"
    config = load_recipe(written(tmp_path, other)).vision.config
    assert config == {"model_type": "siglip_vision_model", "hidden_size": 64}
    same = f"parts: [{clip}]\nvision: {{config: {{hidden_size: 64}}}}"
    config = load_recipe(written(tmp_path, same)).vision.config
    assert (config["hidden_size"], config["projection_dim"]) == (64, 768)


def test_fields_of_a_reference_can_be_changed(tmp_path):
    """`${…}` stands for a whole stage; what is said of one field of it changes the copy alone."""
    stages = "stages:\n  a: {data: [], train: [projector], learning_rate: 1.0e-3, steps: 1}\n  b: ${stages.a}\n"
    (tmp_path / "tiny.yaml").write_text(stages)
    recipe = load_recipe(tmp_path / "tiny.yaml", ["stages.b.steps=2"])
    assert (recipe.stages["a"].steps, recipe.stages["b"].steps, recipe.stages["b"].learning_rate) == (1, 2, 1e-3)
