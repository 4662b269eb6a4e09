"""What is killed: a command each, the folder it works in, and what must come out of it bit by bit."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from safetensors import safe_open

from proxyv.config import LoRASpec, save_recipe
from proxyv.files import CHECKOUT
from tests.commands import Group, cpu_seconds
from tests.small_runs import SUITE, VARYING, page_recipe, stage

# Times and what follows from them, and how often a run was interrupted.
PASSING = {*VARYING, "seconds", "wall_seconds", "created", "resumed_after", "batch_sizes", "legs", "processes"}
PASSING |= {"environment", "environments"}  # the commit may change meanwhile
ZERO = {
    **dict.fromkeys(["train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"], "auto"),
    "gradient_clipping": "auto",
    "zero_force_ds_cpu_optimizer": False,
}


def recipe(deepspeed=None, mixed=("captions", "text")):
    """A short stage, whose lines and checkpoints fall on different steps; dropout makes random states matter."""
    common = dict(micro_batch_size=2, deepspeed=deepspeed, schedule="cosine")
    second = stage(list(mixed), steps=8, save_steps=3, logging_steps=4, max_length=120, **common)
    made = page_recipe(Path(), second=second)
    made.llm.config["attention_dropout"] = 0.1
    made.pages.test_pages = 12
    return replace(made, suite="two.yaml")


def prepare_training(folder):
    made = recipe()
    adapter = replace(made.stages["second"], lora=LoRASpec(rank=2, dropout=0.1), steps=4, save_steps=1)
    save_recipe(replace(made, stages={**made.stages, "adapter": adapter}), folder / "tiny.yaml")


def prepare_two(folder, zero=None):
    if zero is not None:
        (folder / "zero.json").write_text(json.dumps({**ZERO, "zero_optimization": zero}))
    mixed = ("captions",) if zero else ("captions", "text")  # both in one sharded step: see tests/distributed
    save_recipe(recipe(zero and "zero.json", mixed), folder / "tiny.yaml")


def prepare_sweep(folder):
    made = recipe()
    second = replace(made.stages["second"], steps=4)
    save_recipe(replace(made, stages={"second": second}), folder / "tiny.yaml")


TRAIN = ("train", "tiny.yaml", "--resume")
EVALUATE = ("eval", "runs/tiny", "--resume", "--batch_size", "3")
ZERO_2 = {"stage": 2, "reduce_bucket_size": 5000, "allgather_bucket_size": 5000}
ZERO_3 = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0}


@dataclass(frozen=True)
class Kind:
    """One thing to kill."""

    name: str
    prepare: object  # a folder → None
    arguments: tuple
    processes: int = 1
    launched: bool = False  # by torchrun, not by us
    equals: str | None = None  # another kind that leaves the same

    def start(self, folder):
        """Start the command, or go on with it."""
        return (Launched if self.launched else Group)(self.arguments, folder, self.processes)


class Launched:
    """A command under torchrun, as users start it."""

    def __init__(self, arguments, folder, processes):
        self.output = folder / "output.txt"
        self.output.write_text("")
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(CHECKOUT)}
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [*launcher, "-m", "tests.faults.launched", *arguments],
                cwd=folder,
                stdout=output,
                stderr=output,
                env=environment,
            )

    def running(self):
        return self.process.poll() is None

    def workers(self):
        """The processes below the launcher."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def send(self, number, rng):
        """SIGTERM to the launcher, which passes it on; SIGUSR1 to the workers; SIGKILL to one worker, or to all and
        the launcher, as when a machine goes down."""
        workers = self.workers()
        if number == signal.SIGTERM or not workers:
            return self.process.send_signal(number)
        if number == signal.SIGKILL and rng.random() < 0.5:
            workers = [rng.choice(workers)]
        elif number == signal.SIGKILL:
            self.process.kill()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(number)

    def spent(self):
        return cpu_seconds(worker.pid for worker in self.workers())

    def wait(self, seconds=300):
        workers = self.workers()
        codes = [self.process.wait(seconds)]
        gone, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive, "workers outlive their launcher"
        return codes

    def printed(self):
        return self.output.read_text(errors="replace")


KINDS = {
    kind.name: kind
    for kind in (
        Kind("train", prepare_training, TRAIN),
        Kind("ddp", prepare_two, TRAIN, processes=2),
        Kind("zero2", lambda folder: prepare_two(folder, ZERO_2), TRAIN, processes=2),
        Kind("zero3", lambda folder: prepare_two(folder, ZERO_3), TRAIN, processes=2),
        Kind("eval", None, EVALUATE),
        Kind("eval-two", None, EVALUATE, processes=2, equals="eval"),
        Kind("sweep", prepare_sweep, ("sweep", "tiny.yaml", "--output", "sweep", "--batch_size", "3")),
        Kind("torchrun-eval", None, EVALUATE, processes=2, launched=True, equals="eval"),
        Kind("torchrun-ddp", prepare_two, TRAIN, processes=2, launched=True),
        Kind("torchrun-zero2", lambda folder: prepare_two(folder, ZERO_2), TRAIN, processes=2, launched=True),
        Kind("torchrun-zero3", lambda folder: prepare_two(folder, ZERO_3), TRAIN, processes=2, launched=True),
    )
}


def outcome(folder):
    """What must be the same however often it was killed: relative path → content, without what may differ."""
    found = {}
    for path in sorted(path for top in ("runs", "sweep") for path in (folder / top).rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if "checkpoint-" in name or path.name.startswith(".") or path.suffix in (".png", ".bin"):
            continue
        if path.suffix == ".safetensors":
            found[name] = weights(path)
        elif path.suffix == ".jsonl":
            found[name] = [settled(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".json":
            found[name] = settled(json.loads(path.read_text()))
        else:
            found[name] = path.read_text()
    return found


def weights(path):
    """Checksums of a file's tensors; the file itself may hold its metadata in any order."""
    with safe_open(path, framework="np") as opened:
        return {key: hashlib.sha256(opened.get_tensor(key).tobytes()).hexdigest() for key in opened.keys()}  # noqa: SIM118


def settled(value):
    """JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {key: settled(inner) for key, inner in value.items() if key not in PASSING}
    return [settled(inner) for inner in value] if isinstance(value, list) else value


def new_folder(kind, folder, trained=None):
    """A folder in which the kind's command can be started."""
    folder.mkdir(parents=True)
    (folder / "two.yaml").write_text(SUITE)
    if kind.prepare is None:  # an evaluation, of a run that is there
        shutil.copytree(trained / "runs", folder / "runs")
        shutil.copytree(trained / "pages", folder / "pages")
    else:
        kind.prepare(folder)
    return folder
