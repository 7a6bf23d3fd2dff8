"""Reward models for different people: mixture heads and routing from cached features.

Embed a data set once, then train, sweep and compare methods on the cached features:

    import micro_rm as mrm

    store = mrm.embed("preferences.jsonl", store="cache/store/mine")
    run = mrm.train(store.table(), methods=["single_bt", "micro"], dir="runs/mine")
    print(run.evaluate())

Importing this package loads neither torch nor jax; the parts do, when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .common.errors import UserError
from .common.version import __version__

if TYPE_CHECKING:
    from .api.comparison import Comparison, compare
    from .api.embedding import embed
    from .api.method import method
    from .api.reward_model import RewardModel
    from .api.run import Report, Run, train
    from .api.store import Store, Table
    from .api.sweep import Sweep, sweep
    from .heads.estimator import MixtureRewards
    from .serve.model import Model, load

__all__ = [
    "Comparison",
    "MixtureRewards",
    "Model",
    "Report",
    "RewardModel",
    "Run",
    "Store",
    "Sweep",
    "Table",
    "UserError",
    "__version__",
    "compare",
    "embed",
    "load",
    "method",
    "sweep",
    "train",
]

# Where each name is defined. The package ``embed`` can be called: ``micro_rm.embed(...)`` embeds.
_HOMES = {
    "Comparison": "api.comparison",
    "compare": "api.comparison",
    "MixtureRewards": "heads.estimator",
    "Model": "serve.model",
    "Report": "api.run",
    "RewardModel": "api.reward_model",
    "Run": "api.run",
    "Store": "api.store",
    "Sweep": "api.sweep",
    "Table": "api.store",
    "load": "serve.model",
    "method": "api.method",
    "sweep": "api.sweep",
    "train": "api.run",
}


def __getattr__(name: str) -> Any:
    if name == "embed":
        return import_module(".embed", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
