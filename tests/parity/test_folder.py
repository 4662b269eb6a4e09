"""The folder of recordings itself: something is compared, and another folder may hold less."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from proxyv.files import CHECKOUT
from tests.parity.recordings import HERE, KINDS, Contents, cases_with, find_cases, golden_folder, raw_images
from tests.warm import python

FOLDER = golden_folder()


def test_something_is_compared():
    """An empty folder, or a case that no test reads, is a mistake."""
    files = [name for name in ("anyres_table.json", "checkpoint_keys.json") if (FOLDER / name).exists()]
    assert find_cases(FOLDER) or files or raw_images(FOLDER), f"{FOLDER} holds no recording; fix PROXYV_GOLDEN_DIR"
    unread = [one for one in find_cases(FOLDER) if not any(getattr(Contents.of(FOLDER, *one), k) for k in KINDS)]
    assert not unread, f"nothing is compared of {unread}"


def test_the_folder_of_the_project_is_complete():
    """So that no test above is left out unnoticed in a clone."""
    assert len({variant for variant, _ in find_cases(HERE)}) == 4
    counts = {kind: len(cases_with(HERE, kind)) for kind in KINDS}
    assert counts == {"logits": 43, "loss": 41, "cache": 28, "states": 7, "decoding": 41}
    assert len(raw_images(HERE)) == 2
    assert (HERE / "anyres_table.json").exists() and (HERE / "checkpoint_keys.json").exists()


def run_on(folder):
    """All parity tests but these, on another folder; returns the exit code and the counts by outcome."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", NOT_THESE]
    given = {"PROXYV_GOLDEN_DIR": str(folder)}
    done = python("-m", "pytest", str(Path(__file__).parent), *options, folder=CHECKOUT, environment=given)
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout.splitlines()[-1])
    return done.returncode, {outcome: int(count) for count, outcome in counts}, done.stdout


NOT_THESE = "not less_is_recorded and not of_the_project and not empty_folder"


@pytest.mark.slow
def test_a_folder_in_which_less_is_recorded(tmp_path):
    """One case without inner states, cache, gradients and decoding; no tables, no raw images: its logits and its loss
    are compared all the same, and a wrong number is found."""
    shutil.copytree(HERE / "clip112", tmp_path / "clip112")
    shutil.copytree(HERE / "llama_spatial" / "model", tmp_path / "llama_spatial" / "model")
    for room, names in (("images112", ("square", "wide")), ("llama_spatial/cases", ("square5", "wide3"))):
        (tmp_path / room).mkdir()
        for name in names:
            tensors = load_file(HERE / room / f"{name}.safetensors")
            kept = ("crops_u8", "logits_newline_text", "input_ids", "labels_in", "labels_packed", "attention_mask")
            kept = {key: tensor for key, tensor in tensors.items() if key in (*kept, "attention_mask_in")}
            if name == "wide3":
                kept["logits_newline_text"] += 1
            save_file(kept, tmp_path / room / f"{name}.safetensors")
    for name in ("square5", "wide3"):
        meta = json.loads((HERE / "llama_spatial" / "cases" / f"{name}.json").read_text())
        for key in ("grad_norms", "generate", "kv_lengths_after_prefill"):
            del meta[key]
        (tmp_path / "llama_spatial" / "cases" / f"{name}.json").write_text(json.dumps(meta))
    code, counts, shown = run_on(tmp_path)
    assert code == 1 and "FAILED" in shown and "test_logits[llama_spatial-wide3]" in shown, shown
    assert counts["failed"] == 1 and counts["passed"] == 4, shown  # two losses, one logits, and the folder's own test


@pytest.mark.slow
def test_an_empty_folder_fails(tmp_path):
    code, counts, shown = run_on(tmp_path)
    assert code == 1 and counts["failed"] == 1 and "passed" not in counts, shown
    assert "holds no recording" in shown
