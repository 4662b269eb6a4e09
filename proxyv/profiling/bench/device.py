"""The device of a timing run: what it is, and how fast it multiplies matrices here and now."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import Any

import torch

from proxyv.environment import device_name
from proxyv.profiling.bench.timing import device_clock

# Large enough for the device's best rate, small enough to take milliseconds.
SIDES = {"cuda": 8192, "cpu": 1024}
PRODUCTS = {"cuda": 10, "cpu": 1}


class MatrixRate:
    """Measures the rate of square matrix products, as the yardstick beside what a model achieves on the same device
    in the same run; the figures of a data sheet are seldom reached."""

    def __init__(self, device: str, dtype: torch.dtype):
        self.device = torch.device(device)
        self.side, self.products = SIDES[self.device.type], PRODUCTS[self.device.type]
        # Random values: products of zeros draw less power, and so run faster.
        self.left, self.right = (torch.randn(self.side, self.side, device=device, dtype=dtype) for _ in range(2))

    def measure(self) -> float:
        """TFLOP/s of a few products in a row, an addition and a multiplication each counted."""
        clock = device_clock(self.device)
        self.left @ self.right
        start = clock()
        for _ in range(self.products):
            self.left @ self.right
        return 2 * self.side**3 * self.products / (clock() - start) / 1e9


def describe_device(device: str) -> dict[str, Any]:
    """A device's name and what its speed depends on, ready for JSON.

    Of a GPU: memory in GiB, multiprocessors, compute capability, driver and power limit (null where nvidia-smi is
    absent), precision of float32 products. Of a CPU: the name that the system gives and the threads in use.
    """
    place = torch.device(device)
    if place.type != "cuda":
        return {"name": device_name(place), "processor": _processor(), "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(place)
    driver, power = driver_and_power(str(properties.uuid))
    return {
        "name": device_name(place),
        "memory_gb": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": driver,
        "power_limit": power,
        "float32_products": torch.get_float32_matmul_precision(),
    }


def _processor() -> str | None:
    """The CPU's name where the system gives one."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            named = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:  # not Linux
        named = []
    return named[0] if named else platform.processor() or None


def driver_and_power(uuid: str) -> tuple[str | None, str | None]:
    """Driver version and power limit of a GPU, from nvidia-smi; None where it gives none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, None
    identity = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    query = [program, "--query-gpu=driver_version,power.limit", "--format=csv,noheader", f"--id={identity}"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    if done.returncode:
        return None, None
    driver, _, power = done.stdout.strip().partition(", ")
    return driver, power
