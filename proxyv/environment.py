"""What a number was measured with: versions, commit, machine, and the model's back-end and precision.

Training, evaluation and benchmarking write these records beside their results.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

import torch

from proxyv import __version__
from proxyv.errors import UserError, reason
from proxyv.files import CHECKOUT
from proxyv.results.origin import EnvironmentRecord, ModelRecord

PACKAGES = ("proxyv", "torch", "transformers", "datasets", "accelerate", "deepspeed", "peft", "flash-attn")


def environment() -> EnvironmentRecord:
    """Versions, git commit, Python, platform and devices, ready for JSON."""
    return {
        "versions": {name: package_version(name) for name in PACKAGES},
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
    }


def package_version(name: str) -> str | None:
    """The version of an installed package, None where it is absent; proxyv itself need not be installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return __version__ if name == "proxyv" else None


def git_commit() -> str | None:
    """The checkout's commit, with "+changes" where tracked files differ from it; None outside a checkout."""
    if not (CHECKOUT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def describe_model(model: Any) -> ModelRecord:
    """Where a Hugging Face model came from and how it runs: path, class, attention, dtype, device, fingerprint.

    A field is null where the object does not say.
    """
    config = getattr(model, "config", None)
    device = getattr(model, "device", None)
    dtype = getattr(model, "dtype", None)
    return {
        "path": getattr(config, "_name_or_path", None) or getattr(model, "name_or_path", None) or None,
        "class": type(model).__name__,
        "attention": getattr(config, "_attn_implementation", None),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "device": None if device is None else device_name(device),
        "fingerprint": weights_fingerprint(model),
    }


def default_device() -> str:
    """ "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_device(name: str | None) -> str:
    """The device of that name; None: `default_device`. Raises UserError for one that is not there."""
    if name is None:
        return default_device()
    try:
        torch.zeros(1, device=name).item()  # "meta" has tensors without values
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what torch's builds raise for it
        raise UserError(f"device: '{name}' is not there ({reason(error)}); use cpu or cuda") from error
    return name


def device_name(device: torch.device | str) -> str:
    """ "cpu", or the accelerator's name, as in "cuda: NVIDIA H100 80GB HBM3"."""
    device = torch.device(device)
    if device.type != "cuda":
        return device.type
    return f"cuda: {torch.cuda.get_device_name(device)}"


def weights_fingerprint(model: Any, samples: int = 64) -> str | None:
    """A short checksum of the parameters' names, shapes and `samples` evenly spaced values of each.

    Trained weights differ in it from others of the same name, without all of them being read. None for an object that
    is no torch module.
    """
    if not isinstance(model, torch.nn.Module):
        return None
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        if parameter.device.type == "meta" or not parameter.numel():
            continue
        values = parameter.detach().reshape(-1)[:: max(1, parameter.numel() // samples)][:samples]
        digest.update(values.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
