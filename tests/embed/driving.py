"""A test file run as a program of its own: it starts and ends processes of ``micro-rm embed``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def driven_by(file: str, base: Path, rows: str, backbone: Path, *, shard: int, bins: int) -> Any:
    """What ``file`` prints as JSON when it gets the arguments of a small job and a directory.

    ``shard`` and ``bins`` are tokens.
    """
    argv = [
        "embed",
        "--json",
        f"--data.train={rows}",
        "--data.name=rows",
        f"--backbone.name={backbone}",
        "--backbone.dtype=float32",
        "--backbone.max_length=256",
        "--embed.device=cpu",
        f"--embed.shard_tokens={shard}",
        f"--embed.bin_tokens={bins}",
    ]
    driver = subprocess.run(
        [sys.executable, file, json.dumps(argv), str(base)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert driver.returncode == 0, driver.stderr
    return json.loads(driver.stdout)
