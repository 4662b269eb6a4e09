"""Timing runs: who runs when, what a cell holds, which ratios exist, and the tables, on tiny models."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import count

import pytest
import torch

from proxyv.cli import main
from proxyv.config import save_recipe
from proxyv.errors import UserError
from proxyv.methods import method_classes
from proxyv.model.attention import masked_back_end
from proxyv.model.modeling import ProxyVForConditionalGeneration
from proxyv.profiling import profile_recipe
from proxyv.profiling.bench import bench_recipe, bench_recipes, bench_tables, read_recipes, read_result
from proxyv.profiling.bench import cells as cells_module
from proxyv.profiling.bench.cells import Setting
from proxyv.profiling.bench.device import MatrixRate, describe_device, driver_and_power
from proxyv.profiling.bench.models import build_candidates
from proxyv.profiling.bench.result import Measured, time_ratio
from proxyv.profiling.bench.timing import PARTS, TIMES, Stopwatch, split_pass
from proxyv.profiling.sample import make_inputs
from tests.contract.method_settings import method_fields
from tests.tiny import METHODS, tiny_recipe

PDROP = {"name": "pyramiddrop", "layers": [1, 2], "keep": [0.5, 0.25]}
QUICK = dict(device="cpu", text_tokens=7, new_tokens=1, warmup=0, repeats=2, splits=2)


def named(name, method):
    return replace(tiny_recipe("llama", method), name=name)


FULL, PROXYV, DROP = named("plain", METHODS[0]), named("proxies", METHODS[1]), named("pyramid", PDROP)


@pytest.fixture
def clockless(monkeypatch):
    """No clock: pass number n takes n ms to the first token, and 1 ms per token. Returns who ran, in order."""
    ran, number = [], count(1)

    def timed(model, inputs, new_tokens):
        ran.append((model.method.name, model.config._attn_implementation))
        prefill = float(next(number))
        return dict(zip(TIMES, (prefill, 1.0, prefill + new_tokens), strict=True))

    monkeypatch.setattr(cells_module, "timed_pass", timed)
    monkeypatch.setattr(cells_module, "split_pass", lambda model, inputs: {f"{part}_ms": 1.0 for part in PARTS})
    return ran


# ── who runs when ────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_models_take_turns(clockless):
    result = bench_recipes([PROXYV, DROP], attentions=["eager", "sdpa"], **QUICK | {"warmup": 1})
    first, second = ["proxyv", "pyramiddrop", "full"], ["pyramiddrop", "full", "proxyv"]
    third = ["full", "proxyv", "pyramiddrop"]
    turns = [(name, back_end) for order in (first, second, third) for back_end in ("eager", "sdpa") for name in order]
    assert clockless == turns
    # Passes 1 to 6 warm up. Under eager, proxyv is pass 9 and then 14, full is 8 and then 13.
    cell = next(c for c in result["cells"] if (c["label"], c["attention"]) == ("proxies", "eager"))
    assert cell["rounds"]["prefill_ms"] == [9.0, 14.0]
    assert cell["prefill_ms"]["median"] == 11.5
    assert cell["ratios"]["prefill_ms"]["median"] == pytest.approx((9 / 8 + 14 / 13) / 2)


def test_grid_of_settings_and_what_a_cell_holds(clockless):
    result = bench_recipes([DROP], batch_sizes=[1, 2], crops=[1, 5], **QUICK)
    assert json.loads(json.dumps(result))["cells"] == result["cells"]
    settings = [(c["label"], c["batch_size"], c["crops"]) for c in result["cells"]]
    assert settings == [(name, batch, crops) for batch in (1, 2) for crops in (1, 5) for name in ("pyramid", "full")]
    cell = result["cells"][-2]  # pyramid, two samples of five crops
    assert cell["prompt_tokens"] == 2 * (5 * 17 + 7)
    assert cell["prefill_flops"] == 2 * profile_recipe(DROP, crops=5, text_tokens=7)["total_flops"]
    seconds = cell["prefill_ms"]["median"] / 1e3
    assert cell["prefill_tokens_per_second"] == pytest.approx(184 / seconds)
    assert cell["decode_tokens_per_second"] == pytest.approx(2 / 0.001)
    assert cell["prefill_tflops_per_second"] == pytest.approx(cell["prefill_flops"] / seconds / 1e12)
    assert cell["share_of_matrix_rate"] is None and result["matrix_rate"] is None
    assert 0 < result["models"]["pyramid"]["weights_mb"] < cell["peak_memory_mb"]


def test_one_of_several_recipes_is_the_baseline(clockless):
    result = bench_recipes([FULL, DROP], **QUICK)
    assert result["baseline"] == "plain" and list(result["models"]) == ["plain", "pyramid"]
    alone = bench_recipes([replace(FULL, name="full")], **QUICK)  # against itself: how much chance there is
    assert alone["baseline"] == "full (baseline)" and list(alone["models"]) == ["full", "full (baseline)"]
    free = bench_recipes([FULL, DROP], compare=None, **QUICK)
    assert free["baseline"] is None and all(cell["ratios"] is None for cell in free["cells"])


def test_what_cannot_run_is_a_cell_with_its_reason(monkeypatch, clockless):
    timed = cells_module.timed_pass

    def failing(model, inputs, new_tokens):
        if model.config._attn_implementation == "eager":
            if model.method.name == "pyramiddrop":
                raise UserError("method: not with eager")
            if model.method.name == "full":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")
        return timed(model, inputs, new_tokens)

    monkeypatch.setattr(cells_module, "timed_pass", failing)
    result = bench_recipes([PROXYV, DROP], attentions=["eager", "sdpa", "flash_attention_2"], **QUICK)
    failed = [cell["failed"] for cell in result["cells"]]
    assert failed[:6] == [None, "method: not with eager", "out of memory", None, None, None]
    assert all(reason.startswith("attention: 'flash_attention_2'") for reason in failed[6:])
    assert result["cells"][0]["ratios"] is None  # the baseline did not run there
    assert [name for name, back_end in clockless if back_end == "eager"] == ["proxyv"] * 2
    lines = bench_tables([result]).splitlines()
    assert lines[2].startswith("| full | eager | not measured: out of memory | – |")
    assert [line.split(" | ")[0] for line in lines if "flash" in line] == ["| all models"]


def test_a_back_end_that_cannot_be_switched_on_is_a_cell_too(monkeypatch, clockless):
    def absent(model, name):
        raise OSError("no route to the hub")

    monkeypatch.setattr(ProxyVForConditionalGeneration, "set_attn_implementation", absent)
    result = bench_recipes([DROP], compare=None, attentions=["sdpa", "eager"], **QUICK)
    assert [cell["failed"] for cell in result["cells"]] == [None, "OSError: no route to the hub"]


def test_flash_attention_from_the_hub_is_known():
    """transformers takes it where the package kernels is installed and flash-attn is not, and calls it so."""
    assert masked_back_end("kernels-community/flash-attn2") == masked_back_end("flash_attention_2") == "sdpa"


def test_a_mistake_in_the_program_is_no_cell(monkeypatch):
    monkeypatch.setattr(cells_module, "timed_pass", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        bench_recipes([DROP], **QUICK)


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_models_share_what_is_alike():
    recipes = [FULL, PROXYV, replace(PROXYV, name="again"), DROP]
    models = [c.model for c in build_candidates(recipes, 0, "cpu", torch.float32)]
    names = [dict(model.named_parameters()) for model in models]
    assert all(names[0][name] is other[name] for other in names[1:] for name in names[0])
    assert all(names[1][name] is names[2][name] for name in names[1])
    everything = {parameter.data_ptr(): parameter for own in names for parameter in own.values()}
    own = sum(p.numel() for name, p in names[1].items() if models[1].module_group(name) == "method")
    assert sum(p.numel() for p in everything.values()) == sum(p.numel() for p in names[0].values()) + own


def test_folded_twins(clockless):
    result = bench_recipes([PROXYV, DROP], fold="both", **QUICK)
    assert list(result["models"]) == ["proxies", "proxies, folded", "pyramid", "full"]
    plain, folded = (cell["prefill_flops"] for cell in result["cells"][:2])
    assert folded < plain
    only = bench_recipes([PROXYV], fold="yes", compare=None, **QUICK)
    assert list(only["models"]) == ["proxies, folded"] and only["models"]["proxies, folded"]["folded"]


# ── the clock ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_stopwatch_gives_each_part_its_own_time():
    ticks = iter([0, 1, 3, 6, 10, 15, 21, 28, 36, 45, 55])
    watch = Stopwatch(lambda: float(next(ticks)))
    watch.start()  # 0
    watch.enter("tower")  # 1: other 1
    watch.leave()  # 3: tower 2
    watch.enter("selection")  # 6: other 3
    watch.enter("llm")  # 10: selection 4; the pass over a question belongs to the selection
    watch.leave()  # 15: selection 5
    watch.leave()  # 21: selection 6
    watch.enter("llm")  # 28: other 7
    watch.enter("selection")  # 36: llm 8
    watch.leave()  # 45: selection 9
    watch.leave()  # 55: llm 10
    assert watch.times == {"tower": 2, "projector": 0, "selection": 24, "llm": 18, "other": 11}


@pytest.mark.parametrize("recipe", [FULL, PROXYV, DROP], ids=lambda recipe: recipe.name)
def test_split_pass_sees_every_part_and_leaves_no_trace(recipe):
    (candidate,) = build_candidates([recipe], 0, "cpu", torch.float32)
    model, method = candidate.model, candidate.model.method
    inputs = make_inputs(model, 5, 7)
    with torch.no_grad():
        model(**inputs)  # transformers puts hooks of its own in place
    hooks = count_hooks(model)
    parts = split_pass(model, inputs)
    assert list(parts) == [f"{part}_ms" for part in PARTS] and all(value > 0 for value in parts.values())
    assert model.method is method
    assert count_hooks(model) == hooks


def count_hooks(model):
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def test_real_times_add_up():
    result = bench_recipes([DROP], peak=True, **QUICK)
    rate = result["matrix_rate"]["median"]
    for cell in result["cells"]:
        rounds = cell["rounds"]
        for prefill, decode, whole in zip(*(rounds[name] for name in TIMES), strict=True):
            assert prefill + decode == pytest.approx(whole)  # one new token
        assert cell["share_of_matrix_rate"] == pytest.approx(cell["prefill_tflops_per_second"] / rate)
    flat = bench_recipe(DROP, device="cpu", text_tokens=7, new_tokens=1, warmup=0, repeats=2)
    assert flat["vision_ms"]["median"] > 0 and flat["compare"] == "full" and len(flat["run"]) == 12


def test_every_method_can_be_timed():
    recipes = [named(name, method_fields(name)) for name in method_classes()]
    result = bench_recipes(recipes, batch_sizes=[2], **QUICK)
    assert result["baseline"] == "full"
    for cell in result["cells"]:
        assert cell["failed"] is None, (cell["label"], cell["failed"])
        assert cell["parts"]["llm_ms"]["median"] > 0 and cell["prefill_flops"] > 0


def test_device():
    assert MatrixRate("cpu", torch.float32).measure() > 0
    about = describe_device("cpu")
    assert about["name"] == "cpu" and about["threads"] == torch.get_num_threads()


def test_driver_of_a_gpu(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\ncase "$*" in *--id=GPU-1a2b*) echo "570.86.15, 700.00 W" ;; *) exit 6 ;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert driver_and_power("1a2b") == driver_and_power("GPU-1a2b") == ("570.86.15", "700.00 W")
    assert driver_and_power("another") == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert driver_and_power("1a2b") == (None, None)


# ── ratios and tables ────────────────────────────────────────────────────────────────────────────────────────────


def test_ratios_exist_within_a_run_only(clockless):
    one, other = (bench_recipes([recipe], **QUICK) for recipe in (PROXYV, DROP))
    at = Setting("sdpa", 1, 5)
    within = time_ratio(Measured(one, "proxies", at), Measured(one, "full", at), "prefill_ms")
    assert within == one["cells"][0]["ratios"]["prefill_ms"]
    with pytest.raises(UserError, match=r"'proxies' and 'full' were timed in different runs .*one `proxyv bench`"):
        time_ratio(Measured(one, "proxies", at), Measured(other, "full", at), "prefill_ms")
    with pytest.raises(UserError, match="has no 'pyramid' at sdpa, 1, 5"):
        time_ratio(Measured(one, "pyramid", at), Measured(one, "full", at), "prefill_ms")
    both = bench_tables([one, other])  # each with its own baseline
    assert both.count("× full: median of the ratios") == 2
    with pytest.raises(UserError, match=f"different runs .{other['run']}, {one['run']}.,"):
        bench_tables([one, other], against="proxies")
    with pytest.raises(UserError, match="compare: no run has 'visionzip'; use one of proxies, full"):
        bench_tables([one], against="visionzip")


def test_table_can_turn_to_another_baseline(clockless):
    result = bench_recipes([PROXYV, DROP], **QUICK)
    lines = bench_tables([result], against="pyramid").splitlines()
    assert lines[0].startswith("| model | prefill ms | × pyramid | decode ms/token | × pyramid |")
    assert lines[2].startswith("| pyramid |") and lines[2].split(" | ")[2] == "–"
    assert "- Need attention of a few text rows inside the LLM: pyramid." in lines
    # proxies: passes 1 and 6, pyramid: 2 and 4
    assert lines[3].startswith("| proxies | 3.5 (2.5) | 1.000 [0.500, 1.500] | 1 (0) | 1.000 [1.000, 1.000] |")


def test_published_reductions_stand_beside_the_paper_s_sample(clockless):
    recipe = replace(PROXYV, name="vicuna-7b-proxyv-l12")
    result = bench_recipes([recipe], **QUICK | {"text_tokens": 50})
    # Passes 1 and 4 to 2 and 3: the middle of 1/2 and 4/3 is 0.917.
    assert "| vicuna-7b-proxyv-l12 | 8.3 | 0.0 | 41 |" in bench_tables([result])
    assert "published" not in bench_tables([bench_recipes([recipe], **QUICK)])


def test_kept_results_give_the_tables_in_their_documents(repo):
    files = [*(repo / "eval" / "results").glob("paper-times/*/*.json")]
    for file in files:
        assert file.with_suffix(".md").read_text() == bench_tables([read_result(file)])


# ── words and wrong input ────────────────────────────────────────────────────────────────────────────────────────


def test_recipes_from_words(tmp_path):
    save_recipe(DROP, tmp_path / "a.yaml")
    words = [str(tmp_path / "a.yaml"), "full", "{name: random, tokens: 4}"]
    first, second, third = read_recipes(words, ["seed=3"])
    assert (first.name, second.name, third.name) == ("pyramid", "full", "random tokens=4")
    assert third.method == {"name": "random", "tokens": 4} and third.llm == first.llm and third.seed == 3
    for bad, message in (
        (["full"], "'full': a recipe file must come first"),
        ([words[0], words[0]], "two recipes are called 'pyramid'"),
        ([words[0], "{name: random"], "'{name: random': not a YAML mapping"),
        ([words[0], "{name: random, token: 4}"], "unknown key 'method.token'; did you mean 'tokens'"),
        ([words[0], "{tokens: 4}"], "unknown method.name 'None'"),
        ([words[0], "fool"], "fool: no such file"),
    ):
        with pytest.raises(UserError) as caught:
            read_recipes(bad)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_settings_that_cannot_be_measured():
    wider = named("wider", METHODS[0])
    wider.llm.config["hidden_size"] = 64
    for recipes, settings, message in (
        ([DROP, wider], {}, "wider: not the LLM and tower of pyramid"),
        ([DROP], {"batch_sizes": [1, 0]}, "batch_size: 0 is too few"),
        ([DROP], {"splits": 1}, "splits: 1 is too few"),
        ([DROP], {"crops": [5, 6]}, "crops: no image has 6 crops"),
        ([DROP], {"fold": "maybe"}, "fold: 'maybe' is unknown"),
        ([DROP], {"attentions": ["flash_attention_2"]}, "attention: 'flash_attention_2'"),
        ([DROP], {"attentions": ["sdpa", "flash"]}, "attention: 'flash' is unknown"),
    ):
        with pytest.raises(UserError, match=message):
            bench_recipes(recipes, **QUICK | settings)


def test_command(capsys, tmp_path, clockless):
    save_recipe(DROP, tmp_path / "a.yaml")
    document = tmp_path / "README.md"
    document.write_text("<!-- table: times (here) -->\n<!-- end of table -->\n")
    options = ["--device", "cpu", "--repeats", "2", "--splits", "2", "--new_tokens", "1", "--warmup", "0"]
    words = [str(tmp_path / "a.yaml"), "{name: random, tokens: 4}", "--crops", "1", "5", "--output"]
    main(["bench", *words, str(tmp_path / "one.json"), *options, "--json", "--method.keep", "[0.75,0.25]"])
    result = json.loads(capsys.readouterr().out)
    assert result == read_result(tmp_path / "one.json")
    assert result["models"]["pyramid"]["method"]["keep"] == [0.75, 0.25]
    assert list(result["models"]) == ["pyramid", "random tokens=4", "full"]
    main(["bench", *words, str(tmp_path / "two.json"), *options, "--compare", "none"])
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "two.md").read_text() and "×" not in shown
    main(["bench", str(tmp_path / "one.json"), "--into", f"{document}#times"])
    assert capsys.readouterr().out == (tmp_path / "one.md").read_text()
    assert (tmp_path / "one.md").read_text() in document.read_text()
    for wrong, message in (
        ([str(tmp_path / "one.json"), str(tmp_path / "two.json"), "--compare", "full"], "different runs"),
        ([str(tmp_path / "none.json")], "no such file"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["bench", *wrong])
        assert stop.value.code == 2 and message in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match="not the result of a `proxyv bench`"):
        read_result(tmp_path / "other.json")


TINY = {
    "llm.config": dict(
        hidden_size=32, intermediate_size=32, vocab_size=64, num_attention_heads=2, num_key_value_heads=2
    ),
    "vision.config": dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=1),
}


def run_script(repo, name, *options, **variables):
    environment = {**os.environ, "PROXYV_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    shape = [word for part, fields in TINY.items() for key, n in fields.items() for word in (f"--{part}.{key}", str(n))]
    quick = ["--device", "cpu", "--dtype", "float32", "--crops", "1", "--repeats", "2", "--splits", "2"]
    command = ["bash", f"scripts/{name}", *shape, *quick, "--warmup", "0", "--new_tokens", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, cwd=repo)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_paper_s_times_run_through(repo, tmp_path, pytestconfig):
    """The whole script, with the recipes' layers and crops, at a tiny width on the CPU: of an LLM with two published
    times, with `--thorough` of the one with most."""
    llm, models = ("vicuna-7b", 14) if pytestconfig.getoption("thorough") else ("vicuna-13b", 3)
    back_ends = ["--attention", "sdpa", "flash_attention_2"]
    shown = run_script(repo, "paper_times.sh", *back_ends, "--output", str(tmp_path / "times.json"), LLM=llm)
    result = read_result(tmp_path / "times.json")
    assert len(result["models"]) == models and result["baseline"] == "full"
    ran = [cell for cell in result["cells"] if cell["attention"] == "sdpa"]
    assert len(ran) == models and all(cell["failed"] is None and cell["share_of_matrix_rate"] > 0 for cell in ran)
    assert shown == (tmp_path / "times.md").read_text()


@pytest.mark.slow
def test_the_times_on_this_cpu_run_through(repo, tmp_path):
    document = tmp_path / "README.md"
    shutil.copy(repo / "eval" / "README.md", document)
    run_script(repo, "bench_cpu.sh", "--output", str(tmp_path / "times.json"), "--into", f"{document}#cpu-prefill")
    result = read_result(tmp_path / "times.json")
    assert len(result["models"]) == 8 and all(cell["failed"] is None for cell in result["cells"])
    assert (tmp_path / "times.md").read_text() in document.read_text()
