"""Commands of `proxyv` in one process or several, which start at once."""

import os
import signal
import socket
import time
from contextlib import suppress

import psutil

from tests.warm import server

GRACE = 30  # seconds that torchrun, too, leaves the other processes when one is gone


def do_without_compiling():
    """DeepSpeed would compile an operator before anything else, for a minute; only inference uses it."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def command(arguments, folder, output, environment):
    """In the new process: `proxyv <arguments>` in a folder, what it prints added to a file there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in a shell's background ignores it
    os.chdir(folder)
    os.environ.update(environment)
    printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    import datasets.config
    import torch

    from proxyv.cli import main

    torch.set_num_threads(1)
    if "WORLD_SIZE" in environment:
        do_without_compiling()
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    main(arguments)


class Group:
    """One command, in one process or in several that train together."""

    def __init__(self, arguments, folder, processes=1):
        self.output = folder / "output.txt"
        self.output.write_text("")
        together = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.members = []
        for rank in range(processes):
            own = {**together, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            environment = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **own}
            given = (list(arguments), folder, self.output, environment)
            self.members.append(server().Process(target=command, args=given))
        for member in self.members:
            member.start()

    def running(self):
        """Whether all of its processes still run."""
        return all(member.is_alive() for member in self.members)

    def send(self, number, rng):
        """Send a signal: SIGKILL to one process, and to the others once they hang without it; others to all."""
        for member in rng.sample(self.members, 1 if number == 9 else len(self.members)):
            if member.is_alive():
                os.kill(member.pid, number)

    def spent(self):
        """CPU seconds of its processes so far: the same on a busy machine."""
        return cpu_seconds(member.pid for member in self.members)

    def wait(self, seconds=300):
        """Wait for the end; returns the exit codes, negative for a signal."""
        deadline = time.monotonic() + seconds
        while any(member.is_alive() for member in self.members):
            gone = [member for member in self.members if member.exitcode not in (None, 0)]
            if gone:
                deadline = min(deadline, time.monotonic() + GRACE)
            if time.monotonic() > deadline:
                for member in self.members:
                    member.kill()
                assert gone, f"hangs: {self.printed()[-2000:]}"
            time.sleep(0.01)
        return [member.exitcode for member in self.members]

    def printed(self):
        """What its processes have printed."""
        return self.output.read_text(errors="replace")


def cpu_seconds(pids):
    """Of those that still run."""
    total = 0.0
    for pid in pids:
        with suppress(psutil.Error):
            total += sum(psutil.Process(pid).cpu_times()[:2])
    return total


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
