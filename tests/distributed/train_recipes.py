"""A script: trains recipes one after another in the processes that torchrun started, since starting takes longer.

Arguments: seconds after which it gives up and says where it waits, then files as FILE@ or, for a power cut before the
run's last step, FILE@STEPS.
"""

import contextlib
import faulthandler
import sys

import deepspeed.ops
from pytest import MonkeyPatch

from proxyv.config import load_recipe
from proxyv.train import train
from tests.small_runs import PowerCut, interrupt


def main(seconds, *jobs):
    faulthandler.dump_traceback_later(float(seconds), exit=True)
    # DeepSpeed would compile this operator before anything else, for a minute; only inference uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for job in jobs:
        file, _, steps = job.rpartition("@")
        with MonkeyPatch.context() as patch, contextlib.suppress(PowerCut):
            if steps:
                interrupt(patch, int(steps))
            train(load_recipe(file), resume=True)


main(*sys.argv[1:])
