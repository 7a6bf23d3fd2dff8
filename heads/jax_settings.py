"""Settings of JAX that every run has, made before it computes anything."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from ..common.cores import limit_threads

# Loops fused in another way are compiled in half the time. XLA ends a process that gives it a flag
# that it does not know, so it is for the version that it was tried with.
FUSION_FLAG = "--xla_cpu_use_fusion_emitters=false"
FUSION_FLAG_VERSION = "0.10."
# What the environment says holds for runs of either kind.
FEW_OPTIMIZATIONS = bool(jax.config.values["jax_disable_most_optimizations"])


def configure_jax(how: str) -> None:
    """Full float32 products (GPUs would take TF32), no claim on memory that torch may hold, and
    compiled programs kept on disk for the next run; ``how`` is ``train.compile``."""
    limit_threads()
    quick = how == "quick"
    jax.config.update("jax_disable_most_optimizations", FEW_OPTIMIZATIONS or quick)
    flags = os.environ.get("XLA_FLAGS", "")
    if quick and jax.__version__.startswith(FUSION_FLAG_VERSION) and FUSION_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FUSION_FLAG}".strip()
    jax.config.update("jax_default_matmul_precision", "float32")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # JAX_COMPILATION_CACHE_DIR says otherwise.
    if jax.config.values["jax_compilation_cache_dir"] is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "micro_rm" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
