"""Checks of good and bad machines, and that they need no heavy imports."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from micro_rm.commands.doctor import probes
from micro_rm.commands.doctor.checks import (
    FAIL,
    GIB,
    OK,
    WARN,
    Check,
    check_clock,
    check_cuda,
    check_file_system,
    check_hub,
    check_limits,
    check_numerics,
    check_space,
    check_versions,
)
from micro_rm.commands.doctor.probes import examine
from micro_rm.pipeline import main

REQUIRED = [
    "jax>=0.10",
    "numpy >=2.2",
    'torch>=2.11; extra == "embed"',
    'pytest>=9; extra == "dev"',
]


def levels(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.level for check in checks}


def test_versions_at_their_floor_are_fine() -> None:
    (check,) = check_versions(REQUIRED, {"jax": "0.10", "numpy": "2.10.1", "torch": "2.11.0+cpu"})
    assert check == Check("versions", OK, "all as required (jax 0.10, torch 2.11.0+cpu)")


def test_old_and_missing_packages_are_named_with_the_command() -> None:
    found = check_versions(REQUIRED, {"numpy": "2.1.9"})
    assert levels(found) == {"jax": FAIL, "numpy": FAIL, "torch": WARN}
    assert found[1].found == "2.1.9, needed is 2.2 or newer"
    assert found[1].remedy == "pip install 'numpy>=2.2'"
    assert found[2].remedy == "pip install 'micro-rm[embed]'"


def test_a_gpu_wants_builds_that_use_it() -> None:
    found = check_cuda(["H100 with driver 580"], "", {})
    assert levels(found) == {"devices": OK, "torch on GPU": WARN, "JAX on GPU": WARN}
    both = {"jax-cuda13-plugin": "1", "nvidia-cudnn-cu13": "9"}
    assert levels(check_cuda(["H100"], "13.0", both)) == {"devices": OK}
    assert levels(check_cuda([], "", {})) == {"devices": OK}


@pytest.mark.parametrize("name", ["nvidia-cudnn-cu1{}", "jax-cuda1{}-plugin"])
def test_two_cuda_versions_at_once_are_a_warning(name: str) -> None:
    found = check_cuda([], None, {name.format(2): "1", name.format(3): "1"})
    assert levels(found)["CUDA libraries"] == WARN


def test_settings_that_change_products_are_found() -> None:
    assert levels(check_numerics({})) == {"numerics": OK}
    assert levels(check_numerics({"NVIDIA_TF32_OVERRIDE": "0"})) == {"numerics": OK}
    assert levels(check_numerics({"XLA_PYTHON_CLIENT_PREALLOCATE": "True"})) == {
        "XLA_PYTHON_CLIENT_PREALLOCATE": WARN
    }


def test_space() -> None:
    found = [check_space("store", Path("/x"), free).level for free in (6 * GIB, 2 * GIB, 1000)]
    assert found == [OK, WARN, FAIL]


def test_file_systems() -> None:
    assert set(levels(check_file_system("ext4", "", "", 0.1)).values()) == {OK}
    for kind in ("nfs4", "fuse.sshfs", "lustre"):
        assert levels(check_file_system(kind, "", "", 0))["file system"] == WARN
    bad = levels(check_file_system("nfs", "flock fails", "fails", -300))
    assert bad == {"file system": WARN, "locks": FAIL, "fsync": FAIL, "clock": WARN}


def test_clock_limits_and_hub() -> None:
    assert check_clock(0).level == WARN and check_clock(1.8e9).level == OK
    assert set(levels(check_limits(1024, 2 * GIB, "utf-8")).values()) == {OK}
    assert set(levels(check_limits(256, GIB, "ascii")).values()) == {WARN}
    hub = "http://hub.example"
    assert check_hub(None, None, "").level == OK
    assert check_hub(hub, "HF_HUB_OFFLINE", "").level == OK
    assert check_hub(hub, None, "").level == OK
    assert check_hub(hub, None, "refused").level == WARN


def test_a_check_that_is_ok_has_no_remedy() -> None:
    checks = [*check_file_system("ext4", "", "", 0), *check_limits(9999, 9 * GIB, "utf-8")]
    assert not any(check.remedy for check in checks)


def test_an_offline_machine_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "create_connection", never)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = {check.name: check for check in examine(tmp_path / "not" / "there")}
    assert found["hub"].level == OK and "HF_HUB_OFFLINE" in found["hub"].found
    assert found["locks"].level == found["fsync"].level == OK
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_looked_up_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def wait(*_: object) -> None:
        asked.wait(60)
        raise OSError("too late")

    monkeypatch.setattr(socket, "create_connection", wait)
    monkeypatch.setattr(probes, "CONNECT_SECONDS", 0.05)
    assert probes._connect("https://hub.example") == "no answer within a second"
    asked.set()


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("https://hub.example", 443), ("http://hub.example", 80), ("http://hub.example:8080", 8080)],
)
def test_the_port_follows_from_the_scheme(
    endpoint: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def connect(address: object, _seconds: float) -> object:
        asked.append(address)
        raise OSError("refused")

    monkeypatch.setattr(socket, "create_connection", connect)
    assert probes._connect(endpoint) == "refused"
    assert asked == [("hub.example", port)]


def test_locks_that_let_two_in_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes.fcntl, "flock", lambda *_: None)
    assert probes._try_files(tmp_path)[0] == "flock lets two in at once"


def test_the_command_prints_lines_or_json_and_fails_with_a_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["doctor", str(tmp_path)]) == 0
    assert "locks: flock keeps others out" in capsys.readouterr().out
    monkeypatch.setattr(probes, "_try_files", lambda _: ("flock fails", "", 0.0))
    assert main(["doctor", str(tmp_path), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["problems"] == ["locks: flock fails"]
    assert {"name", "level", "found", "remedy"} == content["checks"][0].keys()


@pytest.mark.long
def test_of_what_is_heavy_only_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from micro_rm.pipeline import main\n"
        f"main(['doctor', {str(tmp_path)!r}])\n"
        "print(*sorted({'jax', 'transformers', 'datasets'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"HF_HUB_OFFLINE": "1", "PATH": ""},
    )
    assert done.stdout.splitlines()[-1] == ""
