"""A hub in this process: repositories of files under one commit, gated, missing or refusing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class FakeHub:
    """``repos`` maps "datasets/owner/name" to files; ``errors`` gives an HTTP status instead."""

    repos: dict[str, Mapping[str, bytes]]
    commit: str = "c" * 40
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a request."""
        recursive = "recursive=true" in path.lower()
        path = unquote(urlsplit(path).path).strip("/")
        self.requests.append(f"{method} {path}")
        if path == "api/repos/create":
            wanted = json.loads(body)
            name = f"datasets/{wanted['organization']}/{wanted['name']}"
            self.repos.setdefault(name, {})
            return _json({"url": f"{self.url}/{name}"})
        kind = "api" if path.startswith("api/") else "files"
        inner = path.removeprefix("api/")
        if not inner.startswith(("datasets/", "models/")):
            inner = f"models/{inner}"
        name = next((name for name in self.repos if (inner + "/").startswith(name + "/")), None)
        refused = next((name for name in self.errors if (inner + "/").startswith(name + "/")), None)
        if refused is not None:
            status, code = self.errors[refused]
            return status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"
        if name is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        files, rest = self.repos[name], inner.removeprefix(name).strip("/").split("/")
        if kind == "api":
            return self._api(name, files, rest, body, recursive=recursive)
        if rest[1] not in ("main", self.commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        return self._file(files, "/".join(rest[2:]))

    def _api(
        self,
        name: str,
        files: Mapping[str, bytes],
        rest: list[str],
        body: bytes,
        *,
        recursive: bool,
    ) -> tuple[int, dict[str, str], bytes]:
        action, revision = [*rest, "", ""][:2]
        if action == "preupload":
            wanted = [entry["path"] for entry in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return _json({"files": [modes | {"path": path} for path in wanted]})
        if action == "commit":
            return self._commit(name, body)
        if revision not in ("", "main", self.commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ]
        if action == "tree":
            return _json(entries) if recursive else _tree(entries, "/".join(rest[2:]))
        if action == "paths-info":
            wanted = json.loads(body)["paths"]
            return _json([e for e in entries if e["path"] in wanted])
        repo = name.partition("/")[2]
        siblings = [
            {"rfilename": e["path"], "size": e["size"], "blobId": e["oid"]} for e in entries
        ]
        return _json(
            {
                "_id": "0" * 24,
                "id": repo,
                "sha": self.commit,
                "private": False,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": siblings,
                "lastModified": "2024-01-01T00:00:00.000Z",
            }
        )

    def _commit(self, name: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Add the files of a commit to its repository."""
        lines = [json.loads(line) for line in body.splitlines()]
        added = [line["value"] for line in lines if line["key"] == "file"]
        files = {item["path"]: base64.b64decode(item["content"]) for item in added}
        self.repos[name] = {**self.repos[name], **files}
        url = f"{self.url}/{name}/commit/{self.commit}"
        return _json(
            {"success": True, "commitOid": self.commit, "commitUrl": url, "hookOutput": ""}
        )

    def _file(self, files: Mapping[str, bytes], path: str) -> tuple[int, dict[str, str], bytes]:
        if path not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        tag = hashlib.sha1(files[path]).hexdigest()
        return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": self.commit}, files[path]


def _tree(entries: list[dict[str, Any]], folder: str) -> tuple[int, dict[str, str], bytes]:
    """Files and folders directly in a folder."""
    prefix = f"{folder}/" if folder else ""
    inside = [entry for entry in entries if entry["path"].startswith(prefix)]
    if not inside:
        return 404, {"X-Error-Code": "EntryNotFound"}, b""
    folders = {
        prefix + name
        for name, slash, _ in (entry["path"][len(prefix) :].partition("/") for entry in inside)
        if slash
    }
    here = [entry for entry in inside if "/" not in entry["path"][len(prefix) :]]
    return _json(here + [{"type": "directory", "path": path, "oid": "0"} for path in folders])


def _json(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Answer requests until the block ends; ``hub.url`` is where."""

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            status, headers, content = hub.answer(self.command, self.path, body)
            start = 0
            wanted = self.headers["Range"]
            if wanted and status == 200:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start = int(first)
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                content = content[start : int(last) + 1 if last else None]
                status = 206
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = _respond

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def run_python(
    hub: FakeHub, index: Path, *words: str, cwd: Path | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with a hub that forgets earlier requests; ``settings`` are variables."""
    hub.requests.clear()
    known = {"HF_ENDPOINT": hub.url, "HF_HOME": str(index), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | known | settings,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
