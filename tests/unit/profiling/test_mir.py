"""The modality integration rate against its definition, written down a second time in numpy."""

import json
import math

import numpy as np
import pytest
import torch

from proxyv.cli import main
from proxyv.errors import UserError
from proxyv.profiling import frechet as frechet_module
from proxyv.profiling.frechet import frechet
from proxyv.profiling.mir import measure_layers, measure_mir, rates, read_pairs
from tests.small_runs import record, save_image
from tests.tiny import METHODS, tiny_model

# ── the distance ────────────────────────────────────────────────────────────────────────────────────────────────────


def by_definition(vision, text, iterations=5):
    """Exact and fast distance and the outliers of both, in float64: general eigenvalues instead of symmetric ones, the
    published iteration instead of its closed form (its inverses need more rows than dimensions), row after row."""
    vision, text = (rows.double().numpy() for rows in (vision, text))
    scale = np.mean([np.sqrt(row @ row) for row in text])
    cleaned, outliers = [], []
    for rows in (vision / scale, text / scale):
        norms = np.sqrt((rows**2).sum(1))
        middle = np.sort(norms)[(len(norms) - 1) // 2]
        median_row = np.sort(rows, axis=0)[(len(rows) - 1) // 2]
        far = [abs(norm - middle) > 3 * norms.std(ddof=1) for norm in norms]
        cleaned.append(np.array([median_row if out else row for row, out in zip(rows, far, strict=True)]))
        outliers.append(sum(far))
    means = [rows.mean(0) for rows in cleaned]
    one, other = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in cleaned)
    apart = ((means[0] - means[1]) ** 2).sum() + np.trace(one) + np.trace(other)
    root = np.sqrt(np.linalg.eigvals(one @ other).astype(complex)).real.sum()
    product = one @ other
    y, z = product, np.eye(len(product))
    for _ in range(iterations):
        y, z = (y + np.linalg.solve(z, product)) / 2, (z + np.linalg.solve(y, product)) / 2
    return apart - 2 * root, apart - 2 * np.trace(y), outliers


def normal(rows, width, seed, scale=1.0, shift=0.0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


@pytest.mark.parametrize("width", [1, 3, 12])
def test_the_distance_is_that_of_the_definition(width, monkeypatch):
    vision = normal(200, width, 1, scale=torch.linspace(0.5, 4, width), shift=0.7)
    text = normal(150, width, 2) @ normal(width, width, 3) + normal(1, width, 4)
    vision[7] *= 40  # an outlier
    text[[3, 90]] *= 30
    exact, fast, outliers = by_definition(vision, text)
    for chunk in (frechet_module._CHUNK, 50):  # also in pieces
        monkeypatch.setattr(frechet_module, "_CHUNK", chunk)
        found = frechet(vision, text)
        assert (found.exact, found.upstream_fast) == pytest.approx((exact, fast), rel=1e-4)
        assert [found.vision_outliers, found.text_outliers] == outliers and min(outliers) > 0
        assert found.text_scale == pytest.approx(text.norm(dim=1).mean().item(), rel=1e-5)


def test_what_the_distance_must_do():
    rows, other = normal(300, 8, 1), normal(300, 8, 2)
    same = frechet(rows, rows)
    assert same.exact == pytest.approx(0, abs=1e-9)  # the fast mode of equal sets is not 0
    assert same.upstream_fast > 0.5
    assert frechet(rows, rows.flip(0)).exact == pytest.approx(0, abs=1e-9)
    gaps = [frechet(rows + shift, other).exact for shift in (0, 1, 2, 4)]
    assert gaps == sorted(gaps) and gaps[1] > 2 * gaps[0]
    assert frechet(4 * rows, other).exact > frechet(2 * rows, other).exact > gaps[0]
    assert frechet(7 * rows, 7 * other).exact == pytest.approx(gaps[0], rel=1e-5)  # scale alone says nothing
    half = frechet(rows.bfloat16(), other.bfloat16())
    assert half.exact == pytest.approx(gaps[0], rel=0.05)
    few = frechet(normal(2, 8, 1), normal(3, 8, 2))  # fewer rows than dimensions
    assert math.isfinite(few.exact) and few.exact > 0


def test_the_rate_is_the_logarithm_of_the_sum_over_layers():
    gaps = [{"exact": 30.0, "upstream_fast": -5.0}, {"exact": 70.0, "upstream_fast": 2.0}]
    assert rates(gaps) == {"exact": pytest.approx(2.0), "upstream_fast": None}
    assert rates([{"exact": 0.0, "upstream_fast": 10.0}]) == {"exact": None, "upstream_fast": pytest.approx(1.0)}


# ── rows of models ──────────────────────────────────────────────────────────────────────────────────────────────────

# More rows of text than dimensions, where general eigenvalues are good for a check.
STORIES = ["a b c d e f g h i j k l m n o p q r", "one more story, and the rest of it", "word C"]


@pytest.fixture
def pairs(tmp_path):
    """A list of three pairs; the second image takes several crops."""
    records = []
    for number, story in enumerate(STORIES):
        name = save_image(tmp_path, f"{number}.png", 60, (60, 200, 40)[number], seed=number)
        records.append(record(str(number), "<image>", story, image=f"images/{name}"))
    (tmp_path / "pairs.json").write_text(json.dumps(records))
    return tmp_path / "pairs.json"


def states_by_hand(model, encoded):
    """Hidden states of the plain forward, and by sample the rows of vision tokens and of text behind the image."""
    rows_of_crop = model.config.tokens_per_crop + 1
    found = []
    for pair in encoded:
        with torch.no_grad():
            output = model(
                input_ids=pair.input_ids,
                pixel_values=pair.pixel_values,
                crops_per_image=[pair.crops],
                output_hidden_states=True,
            )
        image = [i for i, token in enumerate(pair.input_ids[0].tolist()) if token == model.config.image_token_id]
        vision = [row for place, row in enumerate(image) if place % rows_of_crop < rows_of_crop - 1]
        found.append((output.hidden_states, vision, list(range(image[-1] + 1, pair.input_ids.shape[1]))))
    return found


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda method: method["name"])
def test_layers_are_measured_on_their_vision_and_text_rows(pairs, method):
    model, processor = tiny_model(method=method)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # fresh norms give all rows one length: rounding alone would say which are outliers
            torch.nn.init.uniform_(parameter, 0.2, 3)
    encoded = read_pairs(model, processor, pairs)
    assert encoded[1].crops > 1
    by_hand = states_by_hand(model, encoded)
    gaps = measure_layers(model, encoded)
    assert [gap["layer"] for gap in gaps] == [1, 2, 3]
    for gap in gaps:
        vision, text = (torch.cat([sample[0][gap["layer"]][0, sample[kind]] for sample in by_hand]) for kind in (1, 2))
        exact, fast, outliers = by_definition(vision, text, iterations=0)
        assert (gap["exact"], gap["upstream_fast"]) == pytest.approx((exact, fast), rel=1e-3)
        assert [gap["vision_outliers"], gap["text_outliers"]] == outliers
        assert (gap["vision_rows"], gap["text_rows"]) == (len(vision), len(text))
    assert measure_layers(model, encoded, held_bytes=1) == gaps  # a pass for each layer


@pytest.mark.parametrize(
    "method, left",
    [
        ({"name": "random", "tokens": 5}, [5, 5, 5]),
        ({"name": "pyramiddrop", "layers": [1, 2], "keep": [0.5, 0.25]}, [16, 8, 4]),
        ({"name": "voco_llama", "tokens": 2}, [16, 16, 16]),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else "",
)
def test_rows_that_a_method_drops_or_adds_are_not_mistaken(pairs, method, left):
    model, processor = tiny_model(method=method)
    encoded = read_pairs(model, processor, pairs)
    (full, _), crops = tiny_model(), sum(pair.crops for pair in encoded)
    text = [len(sample[2]) for sample in states_by_hand(full, encoded)]
    gaps = measure_layers(model, encoded)
    assert [gap["vision_rows"] for gap in gaps] == [count * crops for count in left]
    assert [gap["text_rows"] for gap in gaps] == [sum(text)] * 3
    # Text is the end of what is left, so its scale is told without knowing which rows those are.
    ends: dict[int, list] = {gap["layer"]: [] for gap in gaps}
    for pair, rows in zip(encoded, text, strict=True):
        with torch.no_grad():
            prompt = model.read_prompt(pair.input_ids, None, [pair.crops])
            _, states = model.prefill_states(prompt, pair.pixel_values)
        for layer, norms in ends.items():
            norms.append(states[layer][0, -rows:].norm(dim=1))
    scales = [torch.cat(norms).mean().item() for norms in ends.values()]
    assert [gap["text_scale"] for gap in gaps] == pytest.approx(scales, rel=1e-5)


# ── lists and the command ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_is_cut_at_the_positions_and_counted(pairs):
    model, processor = tiny_model()
    whole = read_pairs(model, processor, pairs, limit=1)
    model.config.text_config.max_position_embeddings = whole[0].input_ids.shape[1] - 2
    result = measure_mir(model, processor, pairs, limit=1, progress=False)
    assert result["cut_short"] == 1
    assert result["layers"][0]["text_rows"] == measure_layers(tiny_model()[0], whole)[0]["text_rows"] - 2


def test_the_published_figure_stands_beside_ours(pairs):
    for method, value in (
        ({"name": "full"}, 3.62),
        ({"name": "light_mlp", "start_layer": 0}, 3.1),
        ({"name": "light_mlp", "start_layer": 1}, None),
    ):
        model, processor = tiny_model(method=method)
        published = measure_mir(model, processor, pairs, limit=1, progress=False)["published"]
        assert (None if published is None else published["value"]) == value


def test_wrong_lists_are_refused_in_one_line(pairs):
    model, processor = tiny_model()
    wrong = {
        "has 0 images; give each record one": record("a", "b", "c"),
        "has 2 images": record("a", "<image><image>", "c", image=["images/0.png", "images/1.png"]),
        "does not exist": record("a", "<image>", "c", image="images/gone.png"),
        "has no question": {"id": "a", "conversations": [{"from": "gpt", "value": "x"}]},
    }
    for message, one in wrong.items():
        pairs.write_text(json.dumps([one]))
        with pytest.raises(UserError, match=message) as error:
            measure_mir(model, processor, pairs, progress=False)
        assert f"{pairs}: record 'a' (number 0)" in str(error.value)
    with pytest.raises(UserError, match="gone.json: does not exist; give a list of LLaVA records"):
        measure_mir(model, processor, pairs.with_name("gone.json"))
    with pytest.raises(UserError, match="limit: 0 is too small"):
        measure_mir(model, processor, pairs, limit=0)


def test_the_command_prints_layers_and_rates(pairs, capsys):
    folder = pairs.parent / "model"
    model, processor = tiny_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    main(["mir", str(folder), "--pairs", str(pairs), "--json", "--output", str(pairs.parent / "mir.json")])
    out = capsys.readouterr().out
    result = json.loads(out[out.index("{\n") :])  # libraries write there when they are first imported
    assert result == json.loads((pairs.parent / "mir.json").read_text())
    assert (result["num_pairs"], result["method"], result["model"]["path"]) == (3, {"name": "full"}, str(folder))
    sums = {mode: math.fsum(gap[mode] for gap in result["layers"]) for mode in ("exact", "upstream_fast")}
    assert result["mir"]["exact"] == pytest.approx(math.log10(sums["exact"]))
    main(["mir", str(folder), "--pairs", str(pairs), "--images", str(pairs.parent), "--limit", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "exact", "upstream_fast", "vision", "rows", "text", "rows"]
    assert len(lines) == 1 + 3 + 2 and lines[4].startswith("MIR over 2 pairs: exact ")
    assert lines[5].startswith("published: 3.62 (full: modality integration rate over 100 samples")
    with pytest.raises(SystemExit):  # before any weights
        main(["mir", "nowhere", "--pairs", "gone.json"])
    assert "gone.json: does not exist" in capsys.readouterr().err
