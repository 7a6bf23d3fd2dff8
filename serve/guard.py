"""ASGI middleware in front of every route: API key, Host check, body limits, safe error responses.

The body is read in full, within its limits of size and time, before the application sees it. Error
responses and logs never contain the text of a request.
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
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
KEYLESS_PATHS = ("/healthz",)
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
log = logging.getLogger("micro_rm.serve")


class Refused(Exception):
    """A request that is answered with an error status and one sentence."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, headers or {}


class Guard:
    """Passes valid requests on to the application and answers the others.

    Without a key only local names are accepted as Host, which prevents DNS rebinding: a web page
    cannot reach the service under a domain of its own.

    Args:
        app: The application behind the guard.
        key: API key, or None.
        body_bytes: Largest body.
        timeout_s: Seconds within which the body must arrive.
        observe: Called with the route, status and seconds of every request.
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
        """Handle one ASGI connection; only HTTP is guarded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 0, time.monotonic()

        async def send_and_note(message: AsgiMessage) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
            self._authorize(scope, headers)
            body = await self._read_body(headers, receive)
            if body is not None:
                await self._app(scope, _replay(body, receive), send_and_note)
        except Refused as refused:
            await send_refusal(send_and_note, refused)
        except Exception as error:
            _log(error)
            if not status:  # nothing was sent yet
                await send_refusal(
                    send_and_note, Refused(500, "the service failed; its log says where")
                )
        finally:
            # The route's pattern, not the path, which may hold the name of a user.
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, status, time.monotonic() - start)

    def _authorize(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Check the Host header if there is no key, else the key."""
        if self._key is None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            # Strip the port; an IPv6 literal without one ends with a bracket.
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in LOCAL_HOSTS:
                raise Refused(
                    403, "Host: expected localhost or 127.0.0.1; other names need an API key"
                )
        elif scope["path"] not in KEYLESS_PATHS:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            candidate = token.strip() if scheme.lower() == b"bearer" else b""
            candidate = candidate or headers.get(b"x-api-key", b"")
            if not hmac.compare_digest(_digest(candidate), self._key):
                raise Refused(
                    401,
                    "expected Authorization: Bearer KEY or X-API-Key: KEY",
                    {"WWW-Authenticate": "Bearer"},
                )

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """Return the whole body, or None if the client disconnected."""
        too_long = Refused(413, f"body: expected at most {self._body_bytes:,} bytes")
        # Refuse by the announced length; the loop below counts, because that may be wrong.
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


async def send_refusal(send: Send, refused: Refused) -> None:
    """Send the response of a refused request."""
    body = json.dumps({"error": refused.error}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= {name.lower(): value for name, value in refused.headers.items()}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that delivers the body that was already read."""
    sent = False

    async def replay() -> AsgiMessage:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _digest(value: bytes) -> bytes:
    """Equal lengths, so that ``compare_digest`` reveals not even the length of the key."""
    return hashlib.sha256(value).digest()


def _log(error: BaseException) -> None:
    """Log the type and location of an error, not its message, which may quote a request."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames[-6:]))
    log.error("%s at %s", type(error).__name__, where)
