"""Python processes that start at once: forked from a server that has imported the libraries, but nothing of proxyv."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

# What proxyv imports sooner or later, six seconds of CPU each time. The server passes over what is not installed.
LIBRARIES = (
    *("torch", "torch._dynamo"),
    *("transformers.trainer", "transformers.generation.utils", "transformers.image_processing_utils"),
    *("transformers.models.llama.modeling_llama", "transformers.models.clip.modeling_clip"),
    *("datasets", "peft", "pydantic", "omegaconf", "matplotlib.figure", "deepspeed"),
)


def server():
    """The multiprocessing context whose processes are forked from the server. Targets import what they need of proxyv
    and the tests themselves."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES])
    return context


def python(*arguments, folder, environment=None, timeout=300):
    """What `python ARGUMENTS` does in a folder, for `-m MODULE …` and `-c CODE …`.

    environment: variables to add. Returns a subprocess.CompletedProcess with the texts it printed.
    """
    with tempfile.TemporaryDirectory() as place:
        printed = [Path(place) / name for name in ("out", "err")]
        process = server().Process(target=_run, args=(arguments, str(folder), environment or {}, printed))
        process.start()
        process.join(timeout)
        hangs = process.exitcode is None
        if hangs:
            process.kill()
            process.join()
        texts = [path.read_text(encoding="utf-8") for path in printed]
    assert not hangs, f"still running after {timeout} s: {texts}"
    return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


def _run(arguments, folder, environment, printed):
    """In the new process: as the interpreter would, were it started in that folder."""
    for number, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:0] = [folder, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("proxyv", "tests")]:
        del sys.modules[name]  # this very module: there may be another checkout
    option, what, *rest = arguments
    sys.argv = ["-c" if option == "-c" else what, *rest]
    if option == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)
