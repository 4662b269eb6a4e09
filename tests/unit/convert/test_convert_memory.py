"""Conversion holds about one source file in memory, however many there are."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from proxyv.convert.authors_config import authors_config
from proxyv.convert.folder import meta_model
from tests.tiny import tiny_model
from tests.unit.convert.test_convert import their_config, their_name, write_checkpoint, write_tower

SHARDS, MEGABYTE = 8, 2**20
MEASURE = """
import sys
from pathlib import Path
from proxyv.convert import convert
def status(field):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(field))
    return int(line.split()[1]) * 1024
convert(sys.argv[1], sys.argv[2])  # a small one first, so that everything is imported
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # start the peak afresh
convert(sys.argv[3], sys.argv[4])
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from /proc, as on Linux")
@pytest.mark.parametrize("as_bin", [False, True], ids=["safetensors", "bin"])
def test_peak_memory_is_about_one_file(tmp_path, as_bin, repo):
    """Eight files of about 32 MB in bfloat16: 16 layers of width 512, two a file."""
    small, processor = tiny_model()
    tower = write_tower(tmp_path / "tower", small)
    config = their_config(small, tower)
    large = {**config, "hidden_size": 512, "intermediate_size": 4608, "num_hidden_layers": 2 * SHARDS}
    model = meta_model(authors_config(large, small.config.vision_config, {}))
    weights = {
        their_name(name, 0): torch.full(value.shape, 0.5, dtype=torch.bfloat16)
        for name, value in model.state_dict().items()
    }
    sources = {
        "small": ({their_name(n, 0): v for n, v in small.state_dict().items()}, config),
        "large": (weights, large),
    }
    for name, (tensors, fields) in sources.items():
        write_checkpoint(tmp_path / name, tensors, fields, SHARDS, as_bin, by_layer=True)
        processor.tokenizer.save_pretrained(tmp_path / name)
    files = [file for file in (tmp_path / "large").iterdir() if file.suffix in (".bin", ".safetensors")]
    shard, total = (f(file.stat().st_size for file in files) for f in (max, sum))
    assert len(files) == SHARDS and shard < 40 * MEGABYTE and total > 6 * shard
    folders = [str(tmp_path / name) for name in ("small", "small-ours", "large", "large-ours")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *folders], cwd=repo, capture_output=True, text=True, check=True
    )
    peak = int(done.stdout)
    print(f"peak {peak / MEGABYTE:.0f} MB for files of {shard / MEGABYTE:.0f} MB, {total / MEGABYTE:.0f} MB in all")
    assert peak < 2.2 * shard
