"""What stands in front of every request: key, host, length, time; no error tells too much.

Plain ASGI. A body is read in full, within limits, before anybody looks at it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OPEN = ("/healthz",)
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
log = logging.getLogger("micro_rm.serve")


class Refused(Exception):
    """An answer with an error status and one sentence."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, headers or {}


class Guard:
    """Lets a request through to the app, or answers it.

    Without a key only names of this machine are accepted as Host: a page in somebody's browser may
    not reach the service under a name of its own.
    """

    def __init__(
        self,
        app: App,
        *,
        key: str | None,
        body_bytes: int,
        timeout_s: float,
        observe: Callable[[str, int, float], None] = lambda _path, _status, _seconds: None,
    ) -> None:
        self._app = app
        self._key = None if key is None else _digest(key.encode())
        self._body_bytes, self._timeout_s = body_bytes, timeout_s
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 0, time.monotonic()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
            self._check(scope, headers)
            body = await self._body(headers, receive)
            if body is not None:
                await self._app(scope, _replay(body, receive), watched)
        except Refused as refused:
            await answer(watched, refused)
        except Exception as error:
            _log(error)
            if not status:
                await answer(watched, Refused(500, "the service failed; its log says where"))
        finally:
            # The route's pattern, not the path: that may hold a user.
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, status, time.monotonic() - start)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if self._key is None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in LOCAL_HOSTS:
                raise Refused(
                    403, "Host: expected localhost or 127.0.0.1; other names need an API key"
                )
        elif scope["path"] not in OPEN:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            given = token.strip() if scheme.lower() == b"bearer" else b""
            given = given or headers.get(b"x-api-key", b"")
            if not hmac.compare_digest(_digest(given), self._key):
                raise Refused(
                    401,
                    "expected Authorization: Bearer KEY or X-API-Key: KEY",
                    {"WWW-Authenticate": "Bearer"},
                )

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None if the client has gone."""
        too_long = Refused(413, f"body: expected at most {self._body_bytes:,} bytes")
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > self._body_bytes:
            raise too_long
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._body_bytes:
                        raise too_long
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(408, f"body: did not arrive within {self._timeout_s:g} s") from None


async def answer(send: Send, refused: Refused) -> None:
    """Send a refusal as the answer."""
    body = json.dumps({"error": refused.error}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= {name.lower(): value for name, value in refused.headers.items()}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _log(error: BaseException) -> None:
    """Where it happened and what kind it was; the message may hold somebody's text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames[-6:]))
    log.error("%s at %s", type(error).__name__, where)
