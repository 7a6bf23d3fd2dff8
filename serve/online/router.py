"""The shared router, taught by everybody's feedback in a thread of its own.

The router is a function of the run and of the comparisons: it is fitted anew from the run's router
to all that are kept, by the Hedge targets of stage 2. So nothing of it has to be stored, and a
person who is deleted leaves no trace in it.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.errors import ConfigError
from ...configs.adapt import AdaptConfig
from ..jobs import padded_size
from .journal import Record
from .people import Online

if TYPE_CHECKING:
    from ..model import Model

log = logging.getLogger("micro_rm.serve")
NETWORKS = ("mlp", "linear")


class RouterLearner:
    """Keeps the routers of a model's methods up to date with an ``Online``."""

    def __init__(self, model: Model, methods: Sequence[str], every: int, eta: float) -> None:
        trained = model.scorer.models
        self.updates = 0
        self._model, self._every = model, every
        # Temperature 1 / eta: the targets are what Hedge makes of one comparison.
        self._config = AdaptConfig(tau=1 / eta)
        self._base = {name: trained[name] for name in methods if _routes(trained[name].settings)}
        if not self._base:
            raise ConfigError(
                f"serve.online.router: expected a method with a network router, found "
                f"{', '.join(methods)}; train micro_stage1 or micro"
            )
        self._wake, self._stop, self._rewritten = threading.Event(), False, True
        self._updated = threading.Condition()
        self._done = -1
        self._thread = threading.Thread(target=self._run, name="router", daemon=True)

    def vector(self, prompt: Any, context: str | None, response: str) -> np.ndarray:
        """(D,) what the router reads; only for the thread that owns the model, after a score."""
        from ...embed.sources.pair import PreferencePair
        from ..model import messages

        pair = PreferencePair(
            prompt=messages(prompt),
            chosen=response,
            rejected="",
            split="test",
            source="feedback",
            context=context or None,
        )
        return self._model.router_vectors([pair])[0]

    def start(self, online: Online) -> None:
        """Follow the feedback, from what is there already."""
        self._online = online
        online.changed = self._changed
        self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """Stop after the update that is running."""
        self._stop = True
        self._wake.set()
        self._thread.join()

    def settled(self, comparisons: int, timeout_s: float) -> bool:
        """Wait until the router was fitted to so many comparisons; whether it was."""
        with self._updated:
            return self._updated.wait_for(
                lambda: self._done == comparisons and not self._rewritten, timeout_s
            )

    def _changed(self, rewritten: bool) -> None:
        self._rewritten = self._rewritten or rewritten
        self._wake.set()

    def _run(self) -> None:
        while self._wake.wait() and not self._stop:
            self._wake.clear()
            try:
                self._update()
            except Exception as error:  # the service goes on with the router that it has
                log.error("the router was not updated: %s", type(error).__name__)

    def _update(self) -> None:
        """After every so many comparisons, and whenever some were dropped."""
        target = self._online.comparisons // self._every * self._every
        if target == self._done and not self._rewritten:
            return
        self._rewritten = False
        pooled = [record for record in self._online.journal.records() if "vector" in record]
        fitted = {
            name: self._fit(trained, [one for one in pooled[:target] if one["method"] == name])
            for name, trained in self._base.items()
        }
        scorer = self._model.scorer
        self._model.scorer = replace(scorer, models={**scorer.models, **fitted})
        with self._updated:
            self._done = target
            self.updates += 1
            self._updated.notify_all()

    def _fit(self, trained: Any, records: Sequence[Record]) -> Any:
        """The method under routers (one per draw) that were fitted to the comparisons."""
        if not records:
            return trained
        import jax
        import jax.numpy as jnp

        from ...heads.hedge import AdaptData, fit_router

        rows = padded_size(len(records))
        vector_NxD = _padded([_vector(record) for record in records], rows)
        nothing_NxD = np.zeros_like(vector_NxD)
        scaled = self._model.scorer.scaler.apply(nothing_NxD, nothing_NxD, vector_NxD)
        data = AdaptData(
            jnp.asarray(_padded([record["margins"] for record in records], rows)),
            scaled.router_input_NxD,
            jnp.asarray(np.arange(rows) < len(records), jnp.float32),
            jnp.arange(rows),
        )
        draws = jax.tree.leaves(trained.params["router"])[0].shape[0]
        routers = []
        for draw in range(draws):
            router = jax.tree.map(
                lambda leaf, draw=draw: jnp.asarray(leaf[draw]), trained.params["router"]
            )
            params = {"heads": trained.params["heads"], "router": router}
            key = jax.random.key(draw)
            routers.append(fit_router(trained.spec, params["router"], data, self._config, key)[0])
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *routers)
        return replace(trained, params={**trained.params, "router": stacked})


def _routes(settings: Any) -> bool:
    return "spec" in settings and settings["spec"]["router"] in NETWORKS


def _vector(record: Record) -> np.ndarray:
    return np.frombuffer(base64.b64decode(record["vector"]), "<f4")


def _padded(rows: Sequence[Any], size: int) -> np.ndarray:
    """The rows in float32, and zeros up to ``size``, so that few programs are compiled."""
    array = np.asarray(rows, np.float32)
    return np.concatenate([array, np.zeros((size - len(array), array.shape[1]), np.float32)])
