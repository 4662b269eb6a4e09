"""What figures were measured with: software, machine, model."""

from __future__ import annotations

from typing import TypedDict


class EnvironmentRecord(TypedDict):
    """Software and machine (proxyv/environment.py)."""

    versions: dict[str, str | None]  # package → version; null: not installed
    git_commit: str | None  # of the checkout, with "+changes" where tracked files differ; null outside a checkout
    python: str
    platform: str
    cpu_count: int | None
    cpu_threads: int  # that torch uses
    accelerators: list[str]  # names of the GPUs
    cuda: str | None  # the CUDA version that torch was built with


# Written as a call because `class` is a key. path: hub id or folder, null where the object does not say. class: the
# Python class. attention: the back-end. dtype: "bfloat16". device: as `device_name` writes it. fingerprint: a checksum
# of the weights, null where the object is no torch module.
ModelRecord = TypedDict(
    "ModelRecord",
    {
        "path": str | None,
        "class": str,
        "attention": str | None,
        "dtype": str | None,
        "device": str | None,
        "fingerprint": str | None,
    },
)
