"""``micro-rm serve``: the service of a run at an address, until it is told to stop."""

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
from .online.people import Online
from .online.router import RouterLearner
from .online.weights import Rule
from .service import Service

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_KEY = 16
CONNECTIONS = 4  # for each request that may wait


def serve(model: Model, config: ServeConfig, say: Callable[[str], None]) -> None:
    """Answer until SIGTERM or SIGINT, then finish what is queued.

    Raises ``ConfigError`` for an address that cannot be taken, a key that is missing or too short,
    or without the packages of the extra ``serve``.
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
    say("serve    computing once what is compiled")
    warm_up(model, config)
    host, port = listener.getsockname()[:2]
    say(f"serve    http://{host}:{port}" + ("" if key is None else ", with an API key"))
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(service, key),
            access_log=False,  # addresses may hold wishes and users
            log_level="warning",
            limit_concurrency=CONNECTIONS * config.queue,
            timeout_graceful_shutdown=int(config.timeout_s) + 1,
            server_header=False,
        )
    )
    # uvicorn raises the signal again when it has stopped.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    say("serve    stopped; what was queued is answered, and feedback is written down")


def read_key(config: ServeConfig) -> str | None:
    """The API key of the environment; only this machine is served without one."""
    key = os.environ.get(config.key_variable) or None
    require(
        key is not None or config.host in LOOPBACK,
        "serve.host",
        f"127.0.0.1, or an API key in the environment variable {config.key_variable}",
        config.host,
    )
    if key is not None and len(key) < SHORTEST_KEY:
        raise ConfigError(
            f"{config.key_variable}: expected {SHORTEST_KEY} characters or more, found {len(key)}"
        )
    return key


def make_service(model: Model, config: ServeConfig) -> Service:
    """The service of a model, with what people taught it before."""
    if not config.online.enabled:
        return Service(model, config)
    method = config.online.method or model.default_method(wish=True)
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
    same = same_heads(model, method)
    learner = None
    if config.online.router:
        learner = RouterLearner(model, same, config.online.router_every, config.online.eta)
    scale_D = model.scorer.scaler.delta_scale_D
    digest = hashlib.sha256(kernel_DxK.tobytes() + scale_D.tobytes()).hexdigest()
    online = Online(
        Path(config.online.dir or model.run / "online"),
        kernel_DxK.shape[1],
        {"heads_sha256": digest},
        Rule(config.online.eta, config.online.rho, config.online.single),
        most_people=config.online.users,
    )
    return Service(model, config, online, same, learner)


def same_heads(model: Model, method: str) -> list[str]:
    """Methods with the same heads: what a person thinks of them holds for all."""
    kernels = {name: _kernel(model, name) for name in model.methods}
    wanted_DxK = kernels[method]
    if wanted_DxK is None:
        return []
    return [
        name
        for name, kernel_DxK in kernels.items()
        if kernel_DxK is not None and np.array_equal(kernel_DxK, wanted_DxK)
    ]


def warm_up(model: Model, config: ServeConfig) -> None:
    """Score every batch size once, so that nobody waits for a compilation."""
    largest = padded_size(max(config.batch_texts, config.responses))
    sizes = [2**power for power in range(largest.bit_length())]
    for name in {model.default_method(wish=wish) for wish in (False, True)}:
        for size in sizes:
            score_jobs(model, [Job(["Hello"] * size, ["Hi"] * size, [None] * size, name)])


def _kernel(model: Model, method: str) -> np.ndarray | None:
    heads = model.scorer.models[method].params.get("heads")
    return None if heads is None else np.asarray(heads["kernel"])


def _listen(config: ServeConfig) -> socket.socket:
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
