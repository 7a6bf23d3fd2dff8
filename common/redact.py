"""Secrets and control characters in text that leaves: made harmless, everything else kept (pure).

A token reaches a message through an address, a header, an environment variable or a setting. What
is written or printed goes through here; a redacted part reads ``[redacted]``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MARK = "[redacted]"
# A shorter value (true, 1, test) is found in too many innocent words.
SHORTEST = 8
SECRET_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|(API|ACCESS|PRIVATE)_KEY)"
    r"(_(ID|VALUE|\d+))?$",
    re.IGNORECASE,
)
# Tokens that are known by how they begin, wherever they stand.
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
ADDRESS_USER = re.compile(r"(?<=://)[^/\s@\"'<>]+(?=@)")
NAMED_VALUE = re.compile(
    r"(?i)((?:[?&]|\b)(?:x-amz-(?:signature|credential|security-token)|x-goog-signature|signature"
    r"|sig|access_token|auth_token|token|api[_-]?key|password|passwd|secret)\s*=\s*)"
    r"[^&\s\"'<>,;)]{6,}"
)
HEADER = re.compile(
    r"(?i)(\bauthorization[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic|token)\s+)?[^\s\"',}]+"
)
BEARER = re.compile(r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{16,}")
# C0 without tab and line feed, DEL, C1, lone surrogates, and what reorders or hides text.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without tokens, passwords in addresses, signatures and secret variables' values.

    ``environment`` is that of the process by default.

    >>> redact("no https://me:letmein@host/x?token=abcdefgh", {})
    'no https://[redacted]@host/x?token=[redacted]'
    """
    return _redact(text, _secret_values(environment))


def _redact(text: str, secrets: tuple[str, ...]) -> str:
    for value in secrets:
        text = text.replace(value, MARK)
    text = TOKENS.sub(MARK, text)
    text = ADDRESS_USER.sub(MARK, text)
    for pattern in (NAMED_VALUE, HEADER, BEARER):
        text = pattern.sub(lambda found: found.group(1) + MARK, text)
    return text


def redact_all(value: Any) -> Any:
    """A JSON value with every text in it redacted, keys too; tuples become lists."""
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
    r"""The text with control characters, lone surrogates and marks of direction spelled out.

    A terminal obeys some of them: it is renamed, cleared, or writes to the clipboard.

    >>> escape_controls("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return CONTROLS.sub(lambda found: repr(found.group())[1:-1], text)


def _secret_values(environment: Mapping[str, str] | None) -> tuple[str, ...]:
    found = os.environ if environment is None else environment
    values = {value.strip() for name, value in found.items() if SECRET_NAME.search(name)}
    return tuple(sorted((v for v in values if len(v) >= SHORTEST), key=len, reverse=True))
