"""The paper's reductions of decoder FLOPs beside our own counts, for every published row that has one:

    python -m proxyv.experiments.paper_flops --output eval/results --into eval/README.md#efficiency

Each figure comes from a prefill by the model's own forward (prefill.py). Where ours is more than a point off, the row
says why, by name, with a count in which that very thing is as the authors have it.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from proxyv.config import Recipe, load_recipe
from proxyv.environment import environment
from proxyv.errors import UserError
from proxyv.files import CHECKOUT, write_json
from proxyv.methods import describe_method, make_method
from proxyv.profiling.prefill import Prefill, run_prefill, shapes
from proxyv.profiling.sample import check_sample
from proxyv.report.markdown import ABSENT, replace_table, table_lines, with_notes
from proxyv.report.published import published, recipe_name

CONFIGS = CHECKOUT / "configs"
CROPS, TEXT_TOKENS = 5, 50  # the paper's sample
TOWER_LAYERS = 4
TOLERANCE = 1.0  # points; the published figures are whole percents
# LLMs that came with one fused projection for queries, keys and values. The authors' ports call it as a whole, so
# queries of vision tokens are computed too, which nothing reads. Ours keeps Phi3's, and converts InternLM2.5 to
# Llama's separate projections. An LLM of the same shapes with the other kind of projection counts the other case.
FUSED = ("phi3-3b", "internlm2.5-7b")
# Names of recounts; keys in the committed result.
LAST, ALL, FEW = "last layer like the others", "queries of all rows", "queries of asking rows only"
COLUMNS = ("llm", "method", "start_layer", "ours", "published", "difference", "as_the_authors_computed_it")


@dataclass(frozen=True)
class CountedPair:
    """Decoder FLOPs of a method and of the same LLM without any."""

    method: Prefill
    full: Prefill

    @property
    def reduction(self) -> float:
        """In percent, as we run it."""
        return self._percent(sum(self.method.layers))

    @property
    def whole_last_layer(self) -> float:
        """With a last layer that does what the one before it does; ours leaves out what nothing reads."""
        return self._percent(sum(self.method.layers[:-1]) + self.method.layers[-2])

    @property
    def without_ranking(self) -> float:
        """Without what it costs to choose among vision tokens in decoder layers."""
        return self._percent(sum(self.method.layers) - self.method.ranking)

    def _percent(self, flops: int) -> float:
        return 100 * (1 - flops / sum(self.full.layers))


def reproduce() -> dict[str, Any]:
    """Every published reduction beside ours, as `rows`; the environment.

    A row has `llm`, `method`, `start_layer`; in percent `ours`, `published`, their `difference`, and
    `as_the_authors_computed_it` (a last layer like the others, queries of all rows where a fused projection or a
    ranking makes them); `recounts`, other ways to count by name; `explanation` where the difference is above a point;
    `settings` that the paper gives; our `recipe`, its `recipe_method` with every field; and decoder FLOPs.

    Raises UserError outside a checkout, and where a row has no recipe of its name.
    """
    rows = [row for row in published()["fine"] if row["flops_reduction_pct"] is not None]
    done = [reproduce_row(row) for row in tqdm(rows, desc="count", unit="row", delay=3, leave=False)]
    figures = {key: published()[key] for key in ("source", "protocol")}
    return {**figures, "crops": CROPS, "text_tokens": TEXT_TOKENS, "rows": done, **environment()}


def reproduce_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One of `reproduce`'s rows. Raises UserError where no recipe has its name."""
    llm, figure, file = row["llm"], row["flops_reduction_pct"], recipe_file(recipe_name(row))
    recipe = load_recipe(file)
    count = _count(llm, recipe)
    recounts = {LAST: count.whole_last_layer}
    authors = count.whole_last_layer
    if llm in FUSED or count.method.ranking:
        counts = {recipe.llm.config["model_type"]: count}
        counts |= {family: _count(llm, recipe, family) for family in ("phi3", "llama") if family not in counts}
        authors = counts["phi3"].whole_last_layer
        recounts |= {ALL: counts["phi3"].reduction, FEW: counts["llama"].reduction}
    if count.method.ranking:
        recounts["without the ranking"] = count.without_ranking
    for override in row.get("also_counted", []):
        recounts[override] = _count(llm, load_recipe(file, [override])).reduction
    result = {
        **{key: row[key] for key in ("llm", "method", "start_layer")},
        "ours": count.reduction,
        "published": figure,
        "difference": count.reduction - figure,
        "as_the_authors_computed_it": authors,
        "recounts": recounts,
        "settings": row.get("settings"),
        "recipe": str(file.relative_to(CONFIGS.parent)),
        "recipe_method": describe_method(make_method(recipe.method)),
        "decoder_flops": sum(count.method.layers),
        "decoder_flops_of_full": sum(count.full.layers),
    }
    return {**result, "explanation": explain(result)}


def recipe_file(name: str) -> Path:
    """The recipe or ablation of that name. Raises UserError where there is none, or several."""
    found = sorted(path for room in ("recipes", "ablations") for path in (CONFIGS / room).rglob(f"{name}.yaml"))
    if len(found) != 1:
        raise UserError(f"{CONFIGS}: {len(found) or 'no'} recipes are called {name}.yaml; there must be one")
    return found[0]


def explain(row: Mapping[str, Any]) -> str | None:
    """Why a row is more than a point off, in words with figures; None where it is not."""
    if abs(row["difference"]) <= TOLERANCE:
        return None
    recounts, figure, authors = row["recounts"], row["published"], row["as_the_authors_computed_it"]
    if row["llm"] in FUSED:
        fused, separate = recounts[ALL], recounts[FEW]
        why = "the LLM's fused projection computes queries of vision tokens too, which nothing reads"
        if abs(authors - figure) <= TOLERANCE:
            return f"{why}; ours has separate projections. With the fused one, and its last layer whole: {authors:.1f}"
        if fused <= figure <= separate:
            return f"{why}; the published figure lies between {fused:.1f} with and {separate:.1f} without them"
    if abs(authors - figure) <= TOLERANCE:
        return f"our last layer leaves out what nothing reads; with it whole: {authors:.1f}"
    nearest = min(recounts, key=lambda name: abs(recounts[name] - figure))
    return f"not explained; the nearest count is {nearest}: {recounts[nearest]:.1f}"


def _count(llm: str, recipe: Recipe, family: str | None = None) -> CountedPair:
    """A recipe beside the same LLM without a method; `family` gives the LLM another family's projections."""
    return CountedPair(_prefill(recipe, family), _full(llm, family))


@cache
def _full(llm: str, family: str | None) -> Prefill:
    return _prefill(load_recipe(recipe_file(f"{llm}-full")), family)


def _prefill(recipe: Recipe, family: str | None) -> Prefill:
    config = dict(recipe.llm.config)
    if family is not None:
        theta = config["rope_parameters"]["rope_theta"]
        config |= {"model_type": family, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
        config.pop("original_max_position_embeddings", None)
    if family == "phi3":
        config["original_max_position_embeddings"] = config["max_position_embeddings"]
    # Only decoder FLOPs are read here, which a shallower tower leaves as they are.
    tower = recipe.vision.config | {"num_hidden_layers": TOWER_LAYERS}
    recipe = replace(recipe, llm=replace(recipe.llm, config=config), vision=replace(recipe.vision, config=tower))
    return run_prefill(shapes(recipe), check_sample(recipe, CROPS, TEXT_TOKENS), TEXT_TOKENS)


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_efficiency(result: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write efficiency.json, .csv, .md and .png of `reproduce`'s result; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data, table, text, plot = (folder / f"efficiency.{ending}" for ending in ("json", "csv", "md", "png"))
    write_json(data, dict(result))
    _write_csv(result["rows"], table)
    text.write_text(f"{to_markdown(result)}\n![Published and own reductions]({plot.name})\n", encoding="utf-8")
    _plot(result["rows"], plot)
    return [data, table, text, plot]


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Reductions in percent, two decimals; an absent start layer is empty."""
    recounts = list(dict.fromkeys(name for row in rows for name in row["recounts"]))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *recounts, "explanation"])
        for row in rows:
            values = [row[column] for column in COLUMNS] + [row["recounts"].get(name) for name in recounts]
            cells = [round(value, 2) if isinstance(value, float) else value for value in values]
            writer.writerow([*cells, row["explanation"]])


def to_markdown(result: Mapping[str, Any]) -> str:
    """The table, then what it leaves out and why rows differ."""
    rows = result["rows"]
    near = sum(abs(row["difference"]) <= TOLERANCE for row in rows)
    furthest = max(abs(row["difference"]) for row in rows)
    head = ("LLM", "method", "start layer", "ours %", "published %", "difference", "as the authors computed it %")
    lines = table_lines(head, [_cells(row) for row in rows], text_columns=2)
    notes = [
        f"{near} of {len(rows)} rows lie within a point of the published figure, the furthest {furthest:.1f} away.",
        "As the authors computed it: with a last layer like the others (ours leaves out what nothing reads), and "
        "queries of all rows where a fused projection (Phi3, InternLM2.5) or the published ranking (PyramidDrop) "
        "computes them.",
    ]
    for row in rows:
        name = " ".join(str(part) for part in (row["llm"], row["method"], row["start_layer"]) if part is not None)
        if row["explanation"] is not None:
            notes.append(f"{name}: {row['explanation']}.")
        if row["settings"] is not None:
            notes.append(f"{name}, in the paper: {row['settings']}.")
        others = {key: value for key, value in row["recounts"].items() if key not in _SHOWN}
        notes += [f"{name}, {key}: {value:.1f}." for key, value in others.items()]
    return with_notes(lines, notes)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["llm"],
        row["method"],
        ABSENT if row["start_layer"] is None else str(row["start_layer"]),
        f"{row['ours']:.1f}",
        f"{row['published']:.0f}",
        f"{round(row['difference'], 1) + 0.0:+.1f}",
        f"{row['as_the_authors_computed_it']:.1f}",
    ]


_SHOWN = (LAST, ALL, FEW)  # in a column, or in the explanation


def _plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Published against own reductions, one marker an LLM; rows more than a point off are named."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(5.6, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(canvas)
    axis = canvas.subplots()
    axis.plot([0, 100], [0, 100], color="gray", linewidth=1, zorder=0)
    for marker, llm in zip("osD^vPX", dict.fromkeys(row["llm"] for row in rows), strict=False):
        own = [row for row in rows if row["llm"] == llm]
        points = [row["published"] for row in own], [row["ours"] for row in own]
        axis.scatter(*points, marker=marker, label=llm, alpha=0.8)
    for row in rows:
        if abs(row["difference"]) > TOLERANCE:
            above = row["difference"] > 0
            axis.annotate(
                f"{row['llm']} {row['method']} {row['start_layer']}",
                (row["published"], row["ours"]),
                xytext=(-8, 4) if above else (8, -10),
                textcoords="offset points",
                ha="right" if above else "left",
                fontsize=7,
            )
    axis.set(xlabel="published reduction of decoder FLOPs (%)", ylabel="ours (%)", xlim=(0, 90), ylim=(0, 90))
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    canvas.savefig(path, metadata={"Software": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, write the files, update the table in a document."""
    parser = argparse.ArgumentParser(prog="python -m proxyv.experiments.paper_flops", description=__doc__)
    parser.add_argument("--output", default="eval/results", help="folder for efficiency.json, .csv, .md and .png")
    parser.add_argument("--into", metavar="FILE#NAME", help="also update the table of that name in a document")
    args = parser.parse_args(arguments)
    result = reproduce()
    for path in write_efficiency(result, args.output):
        print(path)
    if args.into is not None:
        document, _, name = args.into.partition("#")
        print(replace_table(document, name, to_markdown(result)))


if __name__ == "__main__":
    main()
