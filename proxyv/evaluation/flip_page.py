"""A comparison as one HTML file without anything outside: what changed, sample by sample, with small pictures.

All texts are escaped, and the page may load nothing and run nothing: predictions are whatever a model wrote.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from proxyv.errors import UserError
from proxyv.evaluation.benchmarks import load_benchmark
from proxyv.evaluation.samples import BenchmarkSamples
from proxyv.results.comparison import ComparedBenchmark, Comparison, Flip, Pair

SIDE = 320  # pixels of a picture's longer side
QUALITY = 75  # of its JPEG
MOST = 200  # flips of two runs on one benchmark that the page shows

Pictures = Callable[[Flip], str]

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em }
table { border-collapse: collapse; width: 100% } th, td { border: 1px solid #bbb; padding: .4em; text-align: left }
td { vertical-align: top; overflow-wrap: anywhere; white-space: pre-wrap } img { display: block; max-width: 320px }
.higher { background: #e3f4e3 } .lower { background: #fbe6e4 } .note { color: #555 }
"""


def flip_page(comparison: Comparison, summaries: Sequence[str], pictures: dict[str, Pictures], most: int = MOST) -> str:
    """The page.

    Args:
        summaries: lines that say how the runs differ, shown on top.
        pictures: by benchmark, see `find_pictures`.
        most: flips of two runs on one benchmark that are shown, the largest changes first.
    """
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Compared runs</title>',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        f"<style>{_STYLE}</style></head><body>\n<h1>Compared runs</h1>",
        *(f"<p>{escape(line)}</p>" for line in summaries),
    ]
    first = comparison["runs"][0]["name"]
    for name, benchmark in comparison["benchmarks"].items():
        parts.append(f"<h2>{escape(benchmark['title'])} <small>({escape(name)})</small></h2>")
        parts.append(f'<p class="note">{escape(benchmark["protocol"])}</p>')
        for pair in benchmark["pairs"]:
            parts += _pair(first, benchmark, pair, pictures[name], most)
    return "\n".join([*parts, "</body></html>\n"])


def find_pictures(
    comparison: Comparison, data_root: str | Path | None, benchmarks_dir: str | Path | None = None
) -> tuple[dict[str, Pictures], list[str]]:
    """What stands in a flip's picture, by benchmark: an <img>, or the reason why there is none.

    Args:
        data_root: the folder of the benchmarks' data; None: there are no data.
        benchmarks_dir: where benchmarks are looked up by name.

    Returns them, and one line for each benchmark without pictures.
    """
    found: dict[str, Pictures] = {}
    notes = []
    for name in comparison["benchmarks"]:
        try:
            if data_root is None:
                raise UserError("no pictures without the benchmark's data; give its folder with --data_root")
            found[name] = _pictures(BenchmarkSamples(load_benchmark(name, benchmarks_dir), data_root))
        except UserError as error:
            text = f"<em>{escape(str(error))}</em>"
            found[name] = lambda flip, text=text: text  # type: ignore[misc]
            notes.append(f"{name}: {error}")
    return found, notes


def _pictures(samples: BenchmarkSamples) -> Pictures:
    def picture(flip: Flip) -> str:
        """Its <img>s; why there is none where the data are other ones than the runs were asked about."""
        try:
            sample = samples[flip["index"]] if flip["index"] < len(samples) else None
            if sample is None or (sample.id, sample.references) != (flip["id"], flip["references"]):
                raise UserError(f"{samples.path}: holds another sample in this place; give the data of the runs")
            return "".join(map(_embedded, samples.images(sample)))
        except UserError as error:
            return f"<em>{escape(str(error))}</em>"

    return picture


def _embedded(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    written = io.BytesIO()
    small.save(written, "JPEG", quality=QUALITY)
    data = base64.b64encode(written.getvalue()).decode("ascii")
    return f'<img alt="" width="{small.width}" height="{small.height}" src="data:image/jpeg;base64,{data}">'


def _pair(first: str, benchmark: ComparedBenchmark, pair: Pair, picture: Pictures, most: int) -> Iterator[str]:
    """One run's flips against the first, as a table."""
    flips = pair["flips"]
    yield f"<h3>{escape(first)} → {escape(pair['other'])}</h3>"
    if not flips:
        yield f"<p>No sample's {escape(benchmark['score'])} differs.</p>"
        return
    hidden = f"; the {most} largest changes are shown" if len(flips) > most else ""
    yield f"<p>{len(flips)} samples differ in {escape(benchmark['score'])}{hidden}.</p>"
    heads = ("picture", "sample", "prompt", "accepted", first, pair["other"])
    yield f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"
    for flip in flips[:most]:
        kind = "higher" if flip["other"]["score"] > flip["first"]["score"] else "lower"
        texts = [f"{flip['id']}\n({kind})", flip["prompt"], "\n".join(flip["references"])]
        texts += [f"{one['prediction']}\n({one['score']:.4g})" for one in (flip["first"], flip["other"])]
        cells = [picture(flip), *map(escape, texts)]
        yield f'<tr class="{kind}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    yield "</table>"
