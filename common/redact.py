"""Redact secrets and escape control characters in text that is written or printed.

Tokens reach messages through URLs, headers, environment variables and settings. A secret is
recognised by its form, or by the value of an environment variable whose name says that it is
secret; it is replaced by ``[redacted]``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MARK = "[redacted]"
SHORTEST = 8  # characters; shorter values (true, 1, test) occur in too many innocent words
SECRET_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|(API|ACCESS|PRIVATE)_KEY)"
    r"(_(ID|VALUE|\d+))?$",
    re.IGNORECASE,
)
# Tokens that can be recognised by their prefix.
TOKENS = re.compile(
    r"\b(?:"
    r"hf_(?:jwt_|oauth_)?[A-Za-z0-9.-]{16,}"  # Hugging Face
    r"|api_org_[A-Za-z0-9]{16,}"
    r"|sk-[A-Za-z0-9_-]{16,}"  # several providers of language models
    r"|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}"  # Slack
    r"|A[KS]IA[A-Z0-9]{16}"  # AWS
    r"|AIza[A-Za-z0-9_-]{30,}"  # Google
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"  # a JSON web token
    r")"
)
URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@\"'<>]+(?=@)")
NAMED_VALUE = re.compile(
    r"(?i)((?:[?&]|\b)(?:x-amz-(?:signature|credential|security-token)|x-goog-signature|signature"
    r"|sig|access_token|auth_token|token|api[_-]?key|password|passwd|secret)\s*=\s*)"
    r"[^&\s\"'<>,;)]{6,}"
)
HEADER = re.compile(
    r"(?i)(\bauthorization[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic|token)\s+)?[^\s\"',}]+"
)
BEARER = re.compile(r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{16,}")
# C0 without tab and line feed, DEL, C1, lone surrogates, and Unicode marks that set the direction
# of text or are invisible.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Redact tokens, credentials in URLs, signatures and the values of secret variables in a text.

    Args:
        text: The text.
        environment: Variables whose secret values are redacted; by default the process's own.

    >>> redact("no https://me:letmein@host/x?token=abcdefgh", {})
    'no https://[redacted]@host/x?token=[redacted]'
    """
    return _redact(text, _secret_values(environment))


def _redact(text: str, secrets: tuple[str, ...]) -> str:
    for value in secrets:
        text = text.replace(value, MARK)
    text = TOKENS.sub(MARK, text)
    text = URL_CREDENTIALS.sub(MARK, text)
    for pattern in (NAMED_VALUE, HEADER, BEARER):
        text = pattern.sub(lambda match: match.group(1) + MARK, text)
    return text


def redact_all(value: Any) -> Any:
    """Redact every string in a JSON value, keys included; tuples become lists."""
    return _redact_all(value, _secret_values(None))


def _redact_all(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return _redact(value, secrets)
    if isinstance(value, Mapping):
        return {_redact_all(key, secrets): _redact_all(v, secrets) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_all(item, secrets) for item in value]
    return value


def escape_controls(text: str) -> str:
    r"""Escape control characters, lone surrogates and bidirectional marks as Python would.

    A terminal obeys some of them: they can clear it, rename it, or write to the clipboard.

    >>> escape_controls("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return CONTROLS.sub(lambda match: repr(match.group())[1:-1], text)


def _secret_values(environment: Mapping[str, str] | None) -> tuple[str, ...]:
    variables = os.environ if environment is None else environment
    values = {value.strip() for name, value in variables.items() if SECRET_NAME.search(name)}
    # Longest first: one value may contain another.
    return tuple(sorted((v for v in values if len(v) >= SHORTEST), key=len, reverse=True))
