"""The command ``micro-rm doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...common.console import Say
from ...configs.schema import Config


def doctor(config: Config, say: Say) -> dict[str, Any]:
    """Print the checks of this machine with remedies; a failed check is a problem."""
    from .checks import FAIL, OK
    from .probes import examine

    checks = examine(Path(config.store.dir))
    for check in checks:
        say(f"{check.level:<8} {check.name}: {check.found}")
        if check.level != OK:
            say(f"         {check.remedy}")
    return {
        "checks": [asdict(check) for check in checks],
        "problems": [f"{check.name}: {check.found}" for check in checks if check.level == FAIL],
    }
