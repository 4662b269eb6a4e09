"""The published reductions counted anew, and the table of all methods: figures, files, explanations."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from proxyv.errors import UserError
from proxyv.experiments import method_costs, paper_flops
from proxyv.experiments.paper_flops import (
    ALL,
    FEW,
    FUSED,
    LAST,
    explain,
    recipe_file,
    reproduce,
    reproduce_row,
    write_efficiency,
)
from proxyv.files import CHECKOUT
from proxyv.report.published import published, published_figure, recipe_name

RESULTS = CHECKOUT / "eval" / "results"
ROWS = [row for row in published()["fine"] if row["flops_reduction_pct"] is not None]


def committed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_published_reductions_are_reproduced(pytestconfig: pytest.Config) -> None:
    """Counted here and now, the committed results are these: a row of each method and one of a fused projection, with
    `--thorough` every row."""
    kept = {recipe_name(row): row for row in committed("efficiency.json")["rows"]}
    if pytestconfig.getoption("thorough"):
        rows = reproduce()["rows"]
        assert [recipe_name(row) for row in rows] == [recipe_name(row) for row in ROWS]
    else:
        rows = [reproduce_row(row) for row in some_rows()]
        assert len(rows) == 8
    for row in rows:
        for figure in ("ours", "as_the_authors_computed_it"):
            assert row[figure] == pytest.approx(kept[recipe_name(row)][figure], abs=0.01), recipe_name(row)
        assert row["explanation"] == kept[recipe_name(row)]["explanation"]


def some_rows() -> list[dict[str, Any]]:
    """The first row of each method, and of an LLM that came with a fused projection."""
    first = {row["method"]: row for row in reversed(ROWS)}
    return [*first.values(), next(row for row in ROWS if row["llm"] == FUSED[0])]


def test_committed_reductions_are_near_the_published_ones() -> None:
    """Most rows within a point, none far away, each deviation explained by a count."""
    rows = committed("efficiency.json")["rows"]
    assert len(rows) == 23
    near = [row for row in rows if abs(row["ours"] - row["published"]) <= 1]
    far = [row for row in rows if row not in near]
    assert len(near) >= 19
    assert all(abs(row["difference"]) <= 3.5 for row in rows)
    assert {row["llm"] for row in far} <= {"phi3-3b", "internlm2.5-7b"}
    assert all(row["explanation"] is None for row in near)
    assert all("fused projection" in row["explanation"] for row in far)


# Closed forms of the reductions as the authors have them: all layers alike, a guided update in the last one too.
def layer(d: int, kv: int, ffn: int, asking: int, rows: int, fed: int) -> int:
    """Multiply-adds of a decoder layer; `fed` rows go through the FFN."""
    return 2 * asking * d * d + 2 * rows * d * kv + 2 * asking * rows * d + 3 * fed * d * ffn


@pytest.mark.parametrize(
    ("name", "d", "kv", "ffn", "layers", "start", "fused"),
    [
        ("vicuna-7b-proxyv-l12", 4096, 4096, 11008, 32, 12, False),
        ("internlm2.5-7b-proxyv-l16", 4096, 1024, 14336, 32, 16, True),
    ],
)
def test_the_authors_count_equals_its_formula(
    name: str, d: int, kv: int, ffn: int, layers: int, start: int, fused: bool
) -> None:
    """2880 vision tokens, 180 proxies, 55 other rows."""
    row = reproduce_row(next(row for row in ROWS if recipe_name(row) == name))
    full = layer(d, kv, ffn, 2935, 2935, 2935)
    m, asking = d // 4, 180 + 55
    update = 2880 * d * m + 180 * d * m + 2880 * (2 * m * m + m * d)
    queries_of_vision_tokens = 2880 * d * d if fused else 0
    proxies = layer(d, kv, ffn, asking, 2935 + 180, asking) + update + queries_of_vision_tokens
    expected = 100 * (1 - (start * full + (layers - start) * proxies) / (layers * full))
    assert row["as_the_authors_computed_it"] == pytest.approx(expected, abs=1e-6)
    assert row["decoder_flops_of_full"] == 2 * layers * full


def counted(llm: str, ours: float, published: float, authors: float, **recounts: float) -> dict[str, Any]:
    names = {"last": LAST, "fused": ALL, "separate": FEW}
    return {
        "llm": llm,
        "method": "proxyv",
        "start_layer": None,
        "ours": ours,
        "published": published,
        "difference": ours - published,
        "as_the_authors_computed_it": authors,
        "recounts": {names[key]: value for key, value in recounts.items()},
        "settings": None,
        "explanation": None,
    }


def test_explanations_follow_the_counts() -> None:
    assert explain(counted("qwen2-7b", 37.9, 37, 36)) is None
    assert explain(counted("qwen2-7b", 39, 37, 37.5, last=37.5)) == (
        "our last layer leaves out what nothing reads; with it whole: 37.5"
    )
    told = explain(counted("internlm2.5-7b", 42.4, 39, 38.7, last=42, fused=39.1, separate=42.4))
    assert told is not None and told.endswith(
        "ours has separate projections. With the fused one, and its last layer whole: 38.7"
    )
    told = explain(counted("phi3-3b", 33, 35, 32.5, last=32.5, fused=33, separate=37))
    assert told is not None and told.endswith("lies between 33.0 with and 37.0 without them")
    assert explain(counted("qwen2-7b", 50, 40, 49, last=49)) == (f"not explained; the nearest count is {LAST}: 49.0")


def test_files(tmp_path: Path) -> None:
    rows = [
        counted("vicuna-7b", 45.804, 46, 45.46, last=45.46),
        counted("phi3-3b", 33.46, 35, 33.1, last=33.1, fused=33.46, separate=37.0),
    ]
    rows[0]["start_layer"] = 12
    for row in rows:
        row["explanation"] = explain(row)
    data, table, text, plot = write_efficiency({"rows": rows}, tmp_path)
    with table.open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0][:5] == ["llm", "method", "start_layer", "ours", "published"]
    assert lines[1][:6] == ["vicuna-7b", "proxyv", "12", "45.8", "46", "-0.2"]
    assert lines[2][:6] == ["phi3-3b", "proxyv", "", "33.46", "35", "-1.54"]
    assert json.loads(data.read_text())["rows"] == rows
    written = text.read_text()
    assert "| phi3-3b | proxyv | – | 33.5 | 35 | -1.5 | 33.1 |" in written
    assert "1 of 2 rows lie within a point" in written and "between 33.5 with and 37.0" in written
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_committed_files_belong_together(tmp_path: Path) -> None:
    result = committed("efficiency.json")
    _, table, text, _ = write_efficiency(result, tmp_path)
    assert table.read_text() == (RESULTS / "efficiency.csv").read_text()
    assert text.read_text() == (RESULTS / "efficiency.md").read_text()
    assert [row["published"] for row in result["rows"]] == [row["flops_reduction_pct"] for row in ROWS]
    assert result["git_commit"] and result["versions"]["torch"]


def test_every_published_row_has_a_recipe() -> None:
    for row in ROWS:
        assert recipe_file(recipe_name(row)).is_file()
        assert published_figure(recipe_name(row), "flops_reduction_pct") == row["flops_reduction_pct"]
    assert published_figure("vicuna-7b-proxyv-l13", "flops_reduction_pct") is None
    with pytest.raises(UserError, match="no recipes are called vicuna-7b-proxyv-l13.yaml"):
        recipe_file("vicuna-7b-proxyv-l13")


# ── all methods at their defaults ────────────────────────────────────────────────────────────────────────────────


def test_comparison_of_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: method_costs.method_configs()[name] for name in ("full", "proxyv", "pyramiddrop")}
    monkeypatch.setattr(method_costs, "method_configs", lambda: some)
    document = tmp_path / "doc.md"
    document.write_text("<!-- table: methods (updated by hand) -->\n<!-- end of table -->\n")
    method_costs.main(["--output", str(tmp_path / "methods.json"), "--into", f"{document}#methods"])
    result = json.loads((tmp_path / "methods.json").read_text())
    assert list(result["methods"]) == ["full", "proxyv", "pyramiddrop"]
    assert (result["llm"], result["crops"], result["text_tokens"], result["dtype"]) == ("vicuna-7b", 5, 50, "bfloat16")
    proxies = result["methods"]["proxyv"]
    assert proxies["added_parameters"] == 19 * (3 * 4096 * 1024 + 2 * 1024**2 + 4096)  # layers 12 to 30
    assert proxies["cache_bytes"] == 32 * 2935 * 2 * 4096 * 2
    dropping = result["methods"]["pyramiddrop"]  # before layers 8, 16 and 24
    assert dropping["mean_vision_tokens"] == (2880 + 1440 + 720 + 360) / 4
    assert dropping["selection_flops"] == dropping["selection_flops_in_decoder"] > 0
    kept = committed("methods.json")["methods"]
    for name, figures in result["methods"].items():
        assert figures["decoder_flops"] == pytest.approx(kept[name]["decoder_flops"], rel=1e-6)
    text = document.read_text()
    assert "| pyramiddrop | llm_attention | " in text and "llm_attention: attention of a few text rows" in text


def test_committed_methods_exist() -> None:
    assert set(committed("methods.json")["methods"]) <= set(method_costs.method_configs())
    assert next(iter(method_costs.method_configs())) == "full"


def test_approximate_methods_are_marked() -> None:
    figures = {key: 0 for key in method_costs.FIGURES} | {"needs": {}, "approximate": True}
    sample = {"llm": "x", "crops": 5, "text_tokens": 50, "dtype": "bfloat16"}
    text = method_costs.to_markdown({**sample, "methods": {"guess": figures}})
    assert "| guess (approximate) | – |" in text and "no code is public" in text


def test_modules_print_help(capsys: pytest.CaptureFixture[str]) -> None:
    for module in (paper_flops, method_costs):
        with pytest.raises(SystemExit) as caught:
            module.main(["--help"])
        assert caught.value.code == 0
    assert "--into" in capsys.readouterr().out
