"""Fixtures and settings for all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPO = Path(__file__).resolve().parents[1]

# Read once by the libraries when they are imported, so set before any test module is. Child processes inherit them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    WANDB_MODE="disabled",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: one thread each
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")


# tests/fuzz: the same cases every time, and others every time with --hypothesis-profile thorough.
_ALL = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile("normal", derandomize=True, **_ALL)
settings.register_profile("thorough", max_examples=500, print_blob=True, **_ALL)
settings.load_profile("normal")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="everything that the normal run takes a few cases of")
    parser.addoption("--kills", type=int, default=1, help="random kills in tests/faults")
    parser.addoption("--kills_of", default="", help="names of tests/faults/kinds.py; default: all")
    parser.addoption("--kills_seed", type=int, default=0, help="of their moments")
    parser.addoption("--train_methods", default="", help="all, or names: train these in every way in tests/distributed")
    parser.addoption("--train_steps", type=int, default=5, help="of most runs in tests/distributed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if "gpu" in item.keywords]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO
