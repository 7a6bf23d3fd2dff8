"""Online learning of the shared router from everybody's feedback, in a background thread.

The router is a function of the run and of the stored comparisons: each update refits the run's own
router to all of them with the Hedge targets of stage 2. Nothing but the journal has to be stored,
and a deleted person leaves no trace in the next fit.
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
from .people import FeedbackStore

if TYPE_CHECKING:
    from ..model import Model

log = logging.getLogger("micro_rm.serve")
NETWORKS = ("mlp", "linear")


class RouterLearner:
    """Keeps the routers of a model's methods fitted to the comparisons of a ``FeedbackStore``."""

    def __init__(self, model: Model, methods: Sequence[str], every: int, eta: float) -> None:
        """Prepare to refit after every ``every`` comparisons; see ``start``.

        Raises ``ConfigError`` if none of the methods has a network router.
        """
        trained = model.scorer.models
        self.updates = 0
        self._model, self._every = model, every
        # The Hedge targets of stage 2 weigh a loss by 1 / tau, as the rule for people does by eta.
        self._config = AdaptConfig(tau=1 / eta)
        self._base = {
            name: trained[name] for name in methods if _has_network(trained[name].settings)
        }
        if not self._base:
            raise ConfigError(
                f"serve.online.router: expected a method with a network router, found "
                f"{', '.join(methods)}; train micro_stage1 or micro"
            )
        self._wake, self._stop, self._rewritten = threading.Event(), False, True
        self._updated = threading.Condition()
        self._fitted = -1  # comparisons behind the current router
        self._thread = threading.Thread(target=self._run, name="router", daemon=True)

    def router_vector(self, prompt: Any, context: str | None, response: str) -> np.ndarray:
        """Embed the (D,) input of the router for a prompt, context and response.

        Call it on the thread that owns the model, after the response was scored: its vectors are
        then cached.
        """
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

    def start(self, online: FeedbackStore) -> None:
        """Fit the comparisons that exist and follow new ones."""
        self._online = online
        online.on_change = self._on_change
        self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """Stop the thread after the update in progress."""
        self._stop = True
        self._wake.set()
        self._thread.join()

    def wait_until_fitted(self, comparisons: int, timeout_s: float) -> bool:
        """Wait until the router is fitted to ``comparisons``; False after ``timeout_s`` seconds."""
        with self._updated:
            return self._updated.wait_for(
                lambda: self._fitted == comparisons and not self._rewritten, timeout_s
            )

    def _on_change(self, rewritten: bool) -> None:
        self._rewritten = self._rewritten or rewritten
        self._wake.set()

    def _run(self) -> None:
        while self._wake.wait() and not self._stop:
            self._wake.clear()
            try:
                self._update()
            except Exception as error:  # keep serving with the last good router
                log.error("the router was not updated: %s", type(error).__name__)

    def _update(self) -> None:
        """Refit if another ``every`` comparisons arrived or some were removed."""
        # Rounded down, so that a restart arrives at the same router.
        target = self._online.comparisons // self._every * self._every
        if target == self._fitted and not self._rewritten:
            return
        self._rewritten = False
        records = [one for one in self._online.journal.records() if "vector" in one][:target]
        fitted = {
            name: self._fit(trained, [one for one in records if one["method"] == name])
            for name, trained in self._base.items()
        }
        # A single assignment: requests see either the old or the new routers.
        scorer = self._model.scorer
        self._model.scorer = replace(scorer, models={**scorer.models, **fitted})
        with self._updated:
            self._fitted = target
            self.updates += 1
            self._updated.notify_all()

    def _fit(self, trained: Any, records: Sequence[Record]) -> Any:
        """Return the method with the router of every draw refitted to the comparisons."""
        if not records:
            return trained
        import jax
        import jax.numpy as jnp

        from ...heads.hedge import AdaptData, fit_router

        # Padded to a power of two, with weight 0, so that few programs are compiled.
        rows = padded_size(len(records))
        vector_NxD = _padded([_vector(record) for record in records], rows)
        zeros_NxD = np.zeros_like(vector_NxD)
        scaled = self._model.scorer.scaler.apply(zeros_NxD, zeros_NxD, vector_NxD)
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


def _has_network(settings: Any) -> bool:
    return "spec" in settings and settings["spec"]["router"] in NETWORKS


def _vector(record: Record) -> np.ndarray:
    return np.frombuffer(base64.b64decode(record["vector"]), "<f4")


def _padded(rows: Sequence[Any], size: int) -> np.ndarray:
    """The rows as float32, padded with zeros to ``size``."""
    array = np.asarray(rows, np.float32)
    return np.concatenate([array, np.zeros((size - len(array), array.shape[1]), np.float32)])
