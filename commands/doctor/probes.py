"""Facts about this machine for ``doctor``; of what is heavy only torch is asked, for its speed."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata, util
from pathlib import Path
from urllib.parse import urlsplit

from ...common.cores import available_cores
from .checks import (
    WARN,
    YES,
    Check,
    check_clock,
    check_cores,
    check_cuda,
    check_file_system,
    check_hub,
    check_limits,
    check_numerics,
    check_space,
    check_types,
    check_versions,
)

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
CONNECT_SECONDS = 1.0


def examine(store: Path) -> list[Check]:
    """Every check, for a store that lies or will lie at a place."""
    names = {name: d.version for d in metadata.distributions() if (name := _name(d))}
    try:
        requirements = metadata.requires("micro-rm") or []
    except metadata.PackageNotFoundError:
        requirements = []
    place = next(path for path in (store.absolute(), *store.absolute().parents) if path.is_dir())
    temporary = Path(tempfile.gettempdir())
    offline = next((name for name in OFFLINE if os.environ.get(name, "").lower() in YES), None)
    endpoint = _endpoint()
    reachable = "" if endpoint is None or offline else _connect(endpoint)
    return [
        *check_versions(requirements, names),
        *check_cuda(_gpus(), _torch_cuda(), names),
        *check_numerics(os.environ),
        check_space("store", place, shutil.disk_usage(place).free),
        check_space("temporary files", temporary, shutil.disk_usage(temporary).free),
        *check_file_system(_file_system(place), *_try_files(place)),
        check_clock(time.time()),
        check_cores(available_cores(), os.cpu_count() or 1),
        *_types(),
        *check_limits(
            resource.getrlimit(resource.RLIMIT_NOFILE)[0], _memory(), sys.getfilesystemencoding()
        ),
        check_hub(endpoint, offline, reachable),
    ]


def _name(found: metadata.Distribution) -> str:
    return (found.metadata["Name"] or "").lower().replace("_", "-")


def _gpus() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=1.5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [" with driver ".join(line.split(", ")) for line in done.stdout.splitlines()]


def _torch_cuda() -> str | None:
    """CUDA version that torch was built for, read from its files; importing it takes seconds."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else ""


def _file_system(place: Path) -> str:
    """Type of the file system of a place, empty where the system does not tell."""
    best, kind = "", ""
    try:
        lines = Path("/proc/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mount, found = line.split(" ")[:3]
        mount = mount.replace("\\040", " ")
        if place.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def _try_files(place: Path) -> tuple[str, str, float]:
    """Errors of flock and fsync in a directory, empty if both work, and the clock's skew."""
    locks = syncs = ""
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".micro-rm-doctor-") as file:
            skew = os.stat(file.name).st_mtime - time.time()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with Path(file.name).open("rb") as second:
                    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    locks = "flock lets two in at once"
            except BlockingIOError:
                pass
            except OSError as error:
                locks = f"flock fails: {error.strerror}"
            try:
                os.fsync(file.fileno())
            except OSError as error:
                syncs = f"fails: {error.strerror}"
    except OSError as error:
        return f"nothing can be written at {place}: {error.strerror}", "not tried", 0.0
    return locks, syncs, skew


def _memory() -> int:
    """Free bytes of memory, within the limit of the control group if there is one."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
        free = int(found[1]) * 1024 if found else free
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        return min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return free


def _types() -> list[Check]:
    """The type that a backbone would compute in, by measurement; nothing without torch."""
    if util.find_spec("torch") is None:
        return []
    try:
        from ...embed.dtype import USUAL_SHAPE, choose_dtype_here
    except (ImportError, OSError) as error:
        remedy = "install torch again, for this machine"
        return [Check("backbone type", WARN, f"torch cannot be imported ({error})", remedy)]
    return [check_types(*choose_dtype_here(USUAL_SHAPE))]


def _endpoint() -> str | None:
    if util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import constants

    return constants.ENDPOINT


def _connect(endpoint: str) -> str:
    """The error of a connection, empty if it stands within a second."""
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    outcome = ["no answer within a second"]

    def attempt() -> None:
        try:
            socket.create_connection((address.hostname or "", port), CONNECT_SECONDS).close()
            outcome.append("")
        except OSError as error:
            outcome.append(str(error))

    # In a thread, because looking up a name has no time limit.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return outcome[-1]
