"""Killed anywhere, and started again until it is done: weights, logs and results are those of an unbroken run.

A few kills run with all tests, at moments that matter; `--kills 40` adds so many at random ones (see tests/README.md).
"""

import random
import signal
import time

import pytest

from proxyv.cli.main import INTERRUPTED
from proxyv.signals import REQUEUE
from tests.faults.kinds import KINDS, new_folder, outcome

pytestmark = pytest.mark.distributed

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Unbroken:
    """One run of each kind that nobody interrupts: what comes out of it, and its CPU seconds."""

    def __init__(self, folder):
        self.folder, self.known = folder, {}

    def __call__(self, name):
        if name not in self.known:
            kind = KINDS[name]
            trained = self("train") and self.folder / "train" if kind.prepare is None else None
            folder = new_folder(kind, self.folder / name, trained)
            started, seconds = kind.start(folder), 0.0
            while started.running():
                seconds = max(seconds, started.spent())
                time.sleep(0.05)
            assert set(started.wait()) == {0}, started.printed()[-3000:]
            self.known[name] = (outcome(folder), seconds)
        return self.known[name]


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    return Unbroken(tmp_path_factory.mktemp("unbroken"))


def strike(kind, folder, number, moment, rng):
    """Start the command, send the signal once `moment` says so, and wait; whether the signal met it alive."""
    started = kind.start(folder)
    while started.running() and not moment(started):
        time.sleep(0.003)
    alive = started.running()
    if alive:
        started.send(number, rng)
    codes = started.wait()
    printed = started.printed()
    if number == signal.SIGKILL or kind.launched:
        return alive
    expected = {0, REQUEUE, INTERRUPTED, -number}  # -number: before `main`
    # A process that ends before training begins leaves the other waiting, until that one is killed as torchrun does it.
    alone = {-signal.SIGKILL} if kind.processes > 1 else set()
    assert set(codes) <= expected | alone, (codes, printed[-3000:])
    if kind.processes == 1:
        assert "Traceback" not in printed, printed[-3000:]
    return alive


def finish(kind, folder, expected):
    """Let the command run to its end and compare what it leaves."""
    started = kind.start(folder)
    assert set(started.wait()) == {0}, started.printed()[-3000:]
    found = outcome(folder)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert not [path for left in ("partial", "*.parts", ".*lock") for path in folder.rglob(left)]


def after(seconds):
    """The moment at which the command has taken so many CPU seconds."""
    return lambda started: started.spent() > seconds


def exists(folder, pattern):
    """The moment at which a file or folder is there."""
    return lambda started: next(folder.glob(pattern), None) is not None


def lines(folder, pattern, count):
    """The moment at which a file has so many lines."""
    return lambda started: any(path.read_bytes().count(b"\n") >= count for path in folder.glob(pattern))


# While a checkpoint is written, between two lines of the log, while the final model is written, between two answers.
POINTS = {
    "train": [
        (signal.SIGKILL, "runs/tiny/second/partial/checkpoint-6/optimizer.pt", 0),
        (signal.SIGKILL, "runs/tiny/adapter/partial/model/config.json", 0),
    ],
    "ddp": [(signal.SIGTERM, "runs/tiny/second/log.jsonl", 1)],
    "eval": [(signal.SIGKILL, "runs/tiny/eval/synthetic_chartqa.parts/0.jsonl", 3)],
    "eval-two": [(signal.SIGTERM, "runs/tiny/eval/synthetic_chartqa.parts/*.jsonl", 3)],
    "sweep": [(signal.SIGKILL, "sweep/tiny/seed-0/second/partial/checkpoint-3/model.safetensors", 0)],
}


@pytest.mark.parametrize("name", POINTS)
def test_kills_at_moments_that_matter(tmp_path, unbroken, name):
    kind, rng = KINDS[name], random.Random(name)
    expected, _ = unbroken(kind.equals or name)
    folder = new_folder(kind, tmp_path / "killed", unbroken.folder / "train")
    for number, pattern, count in POINTS[name]:
        moment = lines(folder, pattern, count) if count else exists(folder, pattern)
        assert strike(kind, folder, number, moment, rng), f"was done before {pattern}"
    finish(kind, folder, expected)


def test_random_kills(tmp_path, unbroken, pytestconfig):
    """`--kills N`: four or five a trial, over all kinds in turn, or those of `--kills_of`."""
    names = pytestconfig.getoption("kills_of")
    kinds = [KINDS[name] for name in (names.split(",") if names else KINDS)]
    left, trial = pytestconfig.getoption("kills"), 0
    while left > 0:
        kind = kinds[trial % len(kinds)]
        rng = random.Random(f"{pytestconfig.getoption('kills_seed')} {trial}")
        expected, seconds = unbroken(kind.name)
        assert kind.equals is None or expected == unbroken(kind.equals)[0]
        folder = new_folder(kind, tmp_path / f"{trial}-{kind.name}", unbroken.folder / "train")
        kills = min(left, rng.choice((4, 5)))
        # A leg is shorter than the whole: most moments are in the first half, so that they meet it alive.
        plan = [(rng.choice(SIGNALS), seconds * rng.random() ** 2) for _ in range(kills)]
        met = [strike(kind, folder, number, after(moment), rng) for number, moment in plan]
        finish(kind, folder, expected)
        said = [
            f"{number.name} after {moment:.1f} s" for (number, moment), alive in zip(plan, met, strict=True) if alive
        ]
        print(f"trial {trial}, {kind.name} ({seconds:.1f} s unbroken): {', '.join(said)}", flush=True)
        left, trial = left - sum(met), trial + 1
