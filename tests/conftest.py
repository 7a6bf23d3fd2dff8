"""Strict numerics for every test, and the checkout as package micro_rm even before an install."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

if importlib.util.find_spec("micro_rm") is None:
    _spec = importlib.util.spec_from_file_location(
        "micro_rm", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert _spec is not None and _spec.loader is not None
    _package = importlib.util.module_from_spec(_spec)
    sys.modules["micro_rm"] = _package
    _spec.loader.exec_module(_package)

from micro_rm.common.cores import available_cores, limit_threads  # noqa: E402

# A process takes more than a gigabyte.
MOST_WORKERS = 8

# No test may depend on programs that another run has compiled, or write into the user's cache.
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""
# Small programs are compiled for longer than they run: without most optimisations a third less.
# The tutorial is typed with all of them (test_docs.py).
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# The emitter of fused loops doubles the time of compilation. The flag is one of this version: XLA
# ends a process that gives it a flag that it does not know.
FAST_FLAGS = ["--xla_cpu_use_fusion_emitters=false"] if version("jax").startswith("0.10.") else []
# Programs are cut into 32 parts to be compiled by as many threads; where every core has a process
# of its own that is only more work. It is how they are compiled, not what they compute.
FAST_FLAGS += ["--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FAST_FLAGS]).strip()

# Few tests, much time: a core that starts with these does not end with one of them alone. xdist
# would give files with many tests first (--no-loadscope-reorder keeps it from that).
LONG_FILES = (
    "pipeline/test_running_again.py",
    "pipeline/test_results.py",
    "pipeline/test_mistakes.py",
    "heads/test_members.py",
    "heads/test_stages.py",
    "embed/test_paper_presets.py",
    "embed/sources/sets/test_sharing_and_downloads.py",
    "embed/sources/sets/test_hub.py",
    "serve/test_export.py",  # trains the run that other files wait for
    "heads/test_streaming.py",
    "heads/sweeps/test_engine.py",
    "heads/test_training.py",
    "heads/test_simulation.py",
    "heads/test_estimator.py",
    "heads/methods/test_vpl.py",
    "heads/methods/test_pal.py",
    "heads/methods/test_armo_style.py",
    "heads/sweeps/test_run.py",
)

# What is imported to collect the tests stays: to look through it again and again found nothing.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """Each process has its share of the cores, and says so before a library asks."""
    if config.getoption("numprocesses", None):
        return  # this process only hands out the tests; what it said would be inherited
    limit_threads(max(1, available_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))))


def pytest_xdist_auto_num_workers() -> int:
    """Processes of ``-n auto``: one per core that is really there."""
    return min(available_cores(), MOST_WORKERS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first; the others stay in their order."""
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONG_FILES)}
    if gone := [str(path) for path in place if not path.is_file()]:
        raise pytest.UsageError(f"tests/conftest.py: LONG_FILES names no test file: {gone}")
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """Garbage of tests is collected as always; what was there before them is not looked at."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _strict_numerics() -> Iterator[None]:
    """Implicit rank promotion hides wrong axes: in tests it is an error."""
    import jax

    before = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_rank_promotion", before)


@pytest.fixture
def repository() -> Path:
    """Root of the checkout."""
    return ROOT
