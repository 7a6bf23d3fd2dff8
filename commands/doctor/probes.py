"""Gather facts about this machine; of heavy packages only torch is imported, to measure it."""

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
    """Run every check, for a store that exists or will be made at a path."""
    names = {name: d.version for d in metadata.distributions() if (name := _name(d))}
    try:
        requirements = metadata.requires("micro-rm") or []
    except metadata.PackageNotFoundError:
        requirements = []
    # The store may not exist yet: examine the directory that it would be made in.
    paths = (store.absolute(), *store.absolute().parents)
    directory = next(path for path in paths if path.is_dir())
    temporary = Path(tempfile.gettempdir())
    offline = next((name for name in OFFLINE if os.environ.get(name, "").lower() in YES), None)
    endpoint = _endpoint()
    reachable = "" if endpoint is None or offline else _connect(endpoint)
    return [
        *check_versions(requirements, names),
        *check_cuda(_gpus(), _torch_cuda(), names),
        *check_numerics(os.environ),
        check_space("store", directory, shutil.disk_usage(directory).free),
        check_space("temporary files", temporary, shutil.disk_usage(temporary).free),
        *check_file_system(_file_system(directory), *_try_files(directory)),
        check_clock(time.time()),
        check_cores(available_cores(), os.cpu_count() or 1),
        *_types(),
        *check_limits(
            resource.getrlimit(resource.RLIMIT_NOFILE)[0], _memory(), sys.getfilesystemencoding()
        ),
        check_hub(endpoint, offline, reachable),
    ]


def _name(distribution: metadata.Distribution) -> str:
    return (distribution.metadata["Name"] or "").lower().replace("_", "-")


def _gpus() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=1.5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [" with driver ".join(line.split(", ")) for line in result.stdout.splitlines()]


def _torch_cuda() -> str | None:
    """CUDA version that torch was built for, read from its files; importing it takes seconds."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    except OSError:
        return None
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else ""


def _file_system(directory: Path) -> str:
    """Type of the file system of a directory, empty if it cannot be found out."""
    longest, kind = "", ""  # the longest mount point above the directory is the one that counts
    try:
        lines = Path("/proc/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mount, mount_kind = line.split(" ")[:3]
        mount = mount.replace("\\040", " ")
        if directory.resolve().is_relative_to(mount) and len(mount) >= len(longest):
            longest, kind = mount, mount_kind
    return kind


def _try_files(directory: Path) -> tuple[str, str, float]:
    """Errors of flock and of fsync in a directory, empty if they work, and its clock skew in s."""
    locks = syncs = ""
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".micro-rm-doctor-") as file:
            skew = os.stat(file.name).st_mtime - time.time()
            # flock works if a second open file of the same path cannot take the lock.
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
        return f"nothing can be written at {directory}: {error.strerror}", "not tried", 0.0
    return locks, syncs, skew


def _memory() -> int:
    """Free memory in bytes, within the limit of the control group if there is one."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        match = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
        free = int(match[1]) * 1024 if match else free
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        return min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return free


def _types() -> list[Check]:
    """Check which type a backbone would compute in, by measurement; no check without torch."""
    if util.find_spec("torch") is None:
        return []
    try:
        from ...embed.dtype import DEFAULT_SHAPE, choose_local_dtype
    except (ImportError, OSError) as error:
        remedy = "install torch again, for this machine"
        return [Check("backbone type", WARN, f"torch cannot be imported ({error})", remedy)]
    return [check_types(*choose_local_dtype(DEFAULT_SHAPE))]


def _endpoint() -> str | None:
    """Address of the hub, None without huggingface_hub."""
    if util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import constants

    return constants.ENDPOINT


def _connect(endpoint: str) -> str:
    """Error of a connection, empty if it is established within a second."""
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    errors = ["no answer within a second"]  # the last one counts

    def attempt() -> None:
        try:
            socket.create_connection((address.hostname or "", port), CONNECT_SECONDS).close()
            errors.append("")
        except OSError as error:
            errors.append(str(error))

    # In a thread, because name resolution has no time limit.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return errors[-1]
