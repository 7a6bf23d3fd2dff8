"""``micro-rm serve``: build the service of a run and answer HTTP until stopped."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..common.errors import ConfigError, require
from ..configs.serve import ServeConfig
from .jobs import Job, padded_size, score_jobs
from .model import Model
from .online.people import FeedbackStore
from .online.router import RouterLearner
from .online.weights import HedgeRule
from .service import Service

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_KEY_CHARACTERS = 16
CONNECTIONS_PER_REQUEST = 4  # open connections per request that may wait


def serve(model: Model, config: ServeConfig, say: Callable[[str], None]) -> None:
    """Answer until SIGTERM or SIGINT, then compute what is queued and stop.

    Raises ``ConfigError`` if the address cannot be bound, the key is missing or too short, or the
    packages of the extra ``serve`` are not installed.
    """
    try:
        import uvicorn

        from .app import make_app
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed; install it by: pip install 'micro-rm[serve]'"
        ) from error
    key = read_key(config)
    listener = _listen(config)
    service = make_service(model, config)
    say("serve    compiling the model for every batch size")
    warm_up(model, config)
    host, port = listener.getsockname()[:2]
    say(f"serve    http://{host}:{port}" + ("" if key is None else ", with an API key"))
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(service, key),
            access_log=False,  # URLs may hold contexts and user names
            log_level="warning",
            limit_concurrency=CONNECTIONS_PER_REQUEST * config.queue,
            timeout_graceful_shutdown=int(config.timeout_s) + 1,
            server_header=False,
        )
    )
    # uvicorn re-raises the signal after its shutdown.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    say("serve    stopped; what was queued is answered, and feedback is written down")


def read_key(config: ServeConfig) -> str | None:
    """Read the API key from the environment; None serves the loopback interface only.

    Raises ``ConfigError`` for another ``serve.host`` without a key, and for a short key.
    """
    key = os.environ.get(config.key_variable) or None
    require(
        key is not None or config.host in LOOPBACK,
        "serve.host",
        f"127.0.0.1, or an API key in the environment variable {config.key_variable}",
        config.host,
    )
    if key is not None and len(key) < MIN_KEY_CHARACTERS:
        raise ConfigError(
            f"{config.key_variable}: expected {MIN_KEY_CHARACTERS} characters or more, found "
            f"{len(key)}"
        )
    return key


def make_service(model: Model, config: ServeConfig) -> Service:
    """Build the service of a model and restore the feedback of earlier runs.

    Raises ``ConfigError`` if ``serve.online.method`` is unknown or has a single head.
    """
    if not config.online.enabled:
        return Service(model, config)
    method = config.online.method or model.default_method(has_context=True)
    require(
        method in model.methods,
        "serve.online.method",
        f"one of {', '.join(model.methods)}",
        method,
    )
    kernel_DxK = _kernel(model, method)
    if kernel_DxK is None:
        raise ConfigError(
            f"serve.online.method: expected a method with several heads, found {method}; or set "
            "serve.online.enabled=false"
        )
    online_methods = methods_sharing_heads(model, method)
    learner = None
    if config.online.router:
        learner = RouterLearner(
            model, online_methods, config.online.router_every, config.online.eta
        )
    # Identifies the heads to whose margins the journal belongs.
    scale_D = model.scorer.scaler.delta_scale_D
    digest = hashlib.sha256(kernel_DxK.tobytes() + scale_D.tobytes()).hexdigest()
    online = FeedbackStore(
        Path(config.online.dir or model.run / "online"),
        kernel_DxK.shape[1],
        {"heads_sha256": digest},
        HedgeRule(config.online.eta, config.online.rho, config.online.single),
        max_people=config.online.users,
    )
    return Service(model, config, online, online_methods, learner)


def methods_sharing_heads(model: Model, method: str) -> list[str]:
    """Methods with the same heads as ``method``, to which feedback about these heads applies."""
    kernels = {name: _kernel(model, name) for name in model.methods}
    shared_DxK = kernels[method]
    if shared_DxK is None:
        return []
    return [
        name
        for name, kernel_DxK in kernels.items()
        if kernel_DxK is not None and np.array_equal(kernel_DxK, shared_DxK)
    ]


def warm_up(model: Model, config: ServeConfig) -> None:
    """Score a batch of every padded size, so that no request waits for a compilation."""
    largest = padded_size(max(config.batch_texts, config.responses))
    sizes = [2**power for power in range(largest.bit_length())]
    for method in {model.default_method(has_context=flag) for flag in (False, True)}:
        for size in sizes:
            score_jobs(model, [Job(["Hello"] * size, ["Hi"] * size, [None] * size, method)])


def _kernel(model: Model, method: str) -> np.ndarray | None:
    """(D, K) kernel of the heads of a method; None if it has no stack of heads."""
    heads = model.scorer.models[method].params.get("heads")
    return None if heads is None else np.asarray(heads["kernel"])


def _listen(config: ServeConfig) -> socket.socket:
    """Bind before the model warms up, so that a taken port fails at once."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"serve.host, serve.port: {config.host}:{config.port} cannot be taken ({error}); "
            "choose another port, or 0 for a free one"
        ) from error
    return listener
