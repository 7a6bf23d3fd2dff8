"""What every attack shares: a small job, children that may die, and a tally of what happened.

Everything heavy is imported once, before the forks, so that an attempt costs its job only.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

from micro_rm.cache.schema import file_checksum

HEAVY = (
    "transformers.models.llama.modeling_llama",
    "micro_rm.configs.command_line",
    "micro_rm.display.embedding",
    "micro_rm.embed.stage",
    "micro_rm.pipeline",
)
# Exit statuses: what a child of its own makes of an exception that nobody caught.
UNCAUGHT = 70
GOOD, EXPLAINED = 0, 2


@dataclass
class Tally:
    """What an attack did and found; ``problems`` are sentences, none if everything held."""

    name: str
    trials: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def expect(self, held: bool, problem: str) -> None:
        """Note a problem unless something held."""
        if not held:
            self.problems.append(problem)


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit status (negative for a signal), what it said, what it returned."""

    status: int
    said: str
    result: Any

    @property
    def well_behaved(self) -> bool:
        """Whether it did its work or gave a message, and nothing else."""
        explained = self.status == EXPLAINED and self.said.count("micro-rm: ") == 1
        return (self.status in (0, 1) or explained) and "Traceback" not in self.said


@dataclass(frozen=True)
class World:
    """A backbone, a data set and a finished undisturbed store, below ``base``."""

    base: Path
    argv: tuple[str, ...]

    @property
    def whole(self) -> Path:
        """The undisturbed store."""
        return self.base / "whole"

    @property
    def run(self) -> Path:
        """The undisturbed run, if there is one."""
        return self.base / "whole-run"

    def config(self, store: Path, name: str = "embed", *more: str) -> tuple[Any, Any]:
        """Options and configuration of a command over a store."""
        options, config = _parsed((name, *self.argv, *more))
        return options, replace(
            config,
            store=replace(config.store, dir=str(store)),
            run=replace(config.run, dir=f"{store}-run"),
        )

    def command(self, store: Path, name: str = "embed", *more: str) -> Callable[[], int]:
        """What ``micro-rm name ...`` does, for a child; the flags are read here, which is slow."""
        options, config = self.config(store, name, *more)

        def run() -> int:
            from micro_rm.pipeline import execute

            found = execute(options, config, lambda _: None)
            return 1 if found.get("problems") or found.get("refused") else 0

        return explained(run)


@lru_cache
def _parsed(argv: tuple[str, ...]) -> tuple[Any, Any]:
    from micro_rm.configs.command_line import parse

    return parse(list(argv))


def explained(action: Callable[[], int]) -> Callable[[], int]:
    """What the command line does with the errors that it explains."""

    @wraps(action)
    def run() -> int:
        from micro_rm.common.errors import UserError

        try:
            return action()
        except (UserError, OSError) as error:
            print(f"micro-rm: {error}", file=sys.stderr)
            return EXPLAINED

    return run


def preload(*more: str) -> None:
    """Import what the children need."""
    for module in (*HEAVY, *more):
        importlib.import_module(module)


def start(
    action: Callable[[], Any], log: Path, *, seconds: int = 120, memory: int | None = None
) -> int:
    """Fork a child that does something and says so in ``log``; its process id.

    It is killed after so many seconds, and gets no more than so many bytes of address space.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = UNCAUGHT
    try:
        signal.alarm(seconds)  # its default action ends the process
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        result = action()
        log.with_suffix(".json").write_text(json.dumps(result))
        status = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int, log: Path) -> Ended:
    """Wait for a child."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    returned = log.with_suffix(".json")
    result = json.loads(returned.read_text()) if status >= 0 and returned.is_file() else None
    returned.unlink(missing_ok=True)
    return Ended(status, log.read_text(errors="replace") if log.is_file() else "", result)


def attempt(action: Callable[[], Any], log: Path, **limits: Any) -> Ended:
    """Do something in a child and wait for it."""
    return ended(start(action, log, **limits), log)


def contents(directory: Path) -> dict[str, str]:
    """Checksums of the files of a store or run, by name; the lock file names a process."""
    return {
        str(path.relative_to(directory)): file_checksum(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "writer.lock"
    }


def build_world(base: Path, rows: int, *, shard_tokens: int = 100) -> World:
    """A tiny random backbone with a reward head, a data set, and their undisturbed store."""
    from micro_rm.tests.embed.conftest import _make_model, _make_tokenizer

    base.mkdir(parents=True, exist_ok=True)
    tokenizer = _make_tokenizer("llama")
    tokenizer.save_pretrained(base / "backbone")
    _make_model("llama", len(tokenizer), labels=1).save_pretrained(base / "backbone")
    write_rows(base / "rows.jsonl", rows)
    world = World(
        base,
        (
            f"--data.train={base / 'rows.jsonl'}",
            "--data.name=rows",
            f"--backbone.name={base / 'backbone'}",
            "--backbone.dtype=float32",
            "--backbone.max_length=256",
            "--embed.device=cpu",
            f"--embed.shard_tokens={shard_tokens}",
            "--embed.bin_tokens=100",
            "--methods=single_bt,micro_stage1,micro",
            "--train.num_heads=2",
            "--train.epochs=3",
            "--train.batch_size=16",
            "--adapt.budget=4",
            "--adapt.draws=2",
        ),
    )
    done = attempt(world.command(world.whole), base / "whole.log")
    if done.status != GOOD:
        raise RuntimeError(f"the undisturbed job failed: {done.said}")
    return world


def build_run(world: World) -> None:
    """Learn from the undisturbed store: a run directory with every kind of file."""
    done = attempt(world.command(world.whole, "run"), world.base / "run.log", seconds=300)
    if done.status != GOOD:
        raise RuntimeError(f"the undisturbed run failed: {done.said}")


def write_rows(path: Path, number: int, word: str = "moon") -> None:
    """Preference rows in two attributes, a quarter of them test; one row cannot be read."""
    made = [
        {
            "prompt": f"Question {place // 2}: how far is the {word}?",
            "chosen": f"About {place} km." + " It is far." * (place % 5),
            "rejected": f"Ask the sun, number {place}.",
            "attribute": ("brief", "long")[place % 2],
            "context": ("be brief", "use many words")[place % 2],
            "split": "test" if place % 8 < 2 else "train",
        }
        for place in range(number)
    ]
    made.append({"prompt": "no answers here"})
    path.write_text("".join(json.dumps(row) + "\n" for row in made))


def timed(attack: Callable[..., Tally], *arguments: Any) -> Tally:
    """Run an attack and note how long it took."""
    began = time.monotonic()
    tally = attack(*arguments)
    tally.seconds = round(time.monotonic() - began, 1)
    return tally
