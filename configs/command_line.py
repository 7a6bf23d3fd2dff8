"""The command line: one configuration for every command, YAML keys and flags being the same."""

from __future__ import annotations

import argparse
import difflib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace, set_loader, set_parsing_settings
from yaml import YAMLError

from ..common.errors import ConfigError
from .schema import Config
from .yaml_text import load_yaml

PRESETS = Path(__file__).parent
COMMANDS = {
    "demo": "the whole pipeline on synthetic text with a small encoder; needs no network",
    "run": "check, embed, train, adapt, evaluate and report; done stages are skipped",
    "check": "validate a preference file and print what is in it",
    "embed": "embed every distinct sequence once into the store",
    "retry": "embed rows that were corrected in a copy of the quarantine, and what failed before",
    "extend": "embed new data into a store that exists; nothing of it is embedded twice",
    "inspect": "draw what a store holds, or what a run has found",
    "push": "verify a store and upload it to the hub",
    "pull": "download a store from the hub and verify it",
    "verify": "read a store or run back in full; embed a sample of a store again",
    "gc": "remove vectors that no pair table uses; asks first",
    "delete": "delete the rows of a user or pair from a store, with proof; asks first",
    "copy": "copy a store to another directory and read it back",
    "train": "stage 1: reward heads and routers from plain pairs",
    "adapt": "stage 2: routers from a few pairs with stated wishes",
    "evaluate": "score held-out prompts",
    "score": "rewards of raw text by a trained run; several responses are ranked",
    "serve": "answer over HTTP what score answers, and learn from people's feedback",
    "sweep": "fit and score many settings at once: a table, plots and the best by validation",
    "study": "run, then vary K, budget and temperature, prune heads and compare seeds",
    "theory": "check the paper's theorem in numbers and plots; needs no data",
    "report": "write report.html from report.json",
    "export": "write a trained run as a model that other tools load, with a model card",
    "doctor": "check versions, devices, disk, locks, hub and limits of this machine",
}
PLACES = {
    "retry": "corrected copy of the quarantine file, instead of data.corrections",
    "score": "file of JSON lines, or - for standard input",
    "check": "preference file, instead of data.train",
    "inspect": "directory of a store or run, instead of store.dir",
    "doctor": "store directory, instead of store.dir",
    "verify": "directory of a store or run, instead of store.dir",
    "extend": "store directory, instead of store.dir",
    "gc": "store directory, instead of store.dir",
    "delete": "store directory, instead of store.dir",
    "copy": "store directory, instead of store.dir",
    "push": "store directory, instead of store.dir",
    "pull": "directory of the new store, instead of store.dir",
}


LONGEST = 500  # characters of the parser's message, which repeats what it was given

# Flags that are typed often.
SHORT = {
    "--shards": "--embed.shards",
    "--engine": "--embed.engine",
    "--compare": "--report.compare",
    "--prompt": "--score.prompt",
    "--response": "--score.responses+",
    "--context": "--score.context",
    "--method": "--score.method",
    "--group": "--score.group",
    "--rebuild": "--upkeep.rebuild=true",
    "--yes": "--upkeep.yes=true",
    "--user": "--upkeep.users+",
    "--pair": "--upkeep.pairs+",
    "--to": "--upkeep.to",
}


@dataclass(frozen=True)
class Options:
    """What a command was asked to do, beside its configuration."""

    command: str
    place: str | None
    dry_run: bool
    json: bool


def parse(argv: Sequence[str]) -> tuple[Options, Config]:
    """Command and validated configuration.

    Raises ``ConfigError`` for an unknown key (with the nearest known one), a value of the wrong
    type or range, or a missing file. ``--help`` and ``--print_config`` print and exit.
    """
    _limit_parser()
    for word in argv:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise ConfigError(f"{word!a}: expected an argument in UTF-8, found other bytes")
    short = SHORT | ({"--to": "--export.to"} if "export" in argv[:1] else {})
    words = _config_first([_spelled_out(word, short) for word in argv])
    parser = _build_parser(next(iter(words), None))
    try:
        parsed = parser.parse_args(words)
        command = parsed.command
        chosen: Namespace = parser.instantiate(parsed)[command]
    except argparse.ArgumentError as error:
        raise ConfigError(_explain(str(error))) from error
    except (TypeError, AttributeError, ImportError, ValueError) as error:
        raise ConfigError(
            f"the configuration cannot be read ({error}); every section is a mapping of keys to "
            "values, see configs/demo.yaml"
        ) from error
    options = Options(
        command=command,
        place=getattr(chosen, "place", None),
        dry_run=chosen.dry_run,
        json=chosen.json,
    )
    return options, Config(**{field.name: chosen[field.name] for field in fields(Config)})


def _limit_parser() -> None:
    """Values are data: jsonargparse imports and makes classes that a value names, unless told."""
    set_parsing_settings(
        docstring_parse_attribute_docstrings=False,
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=["*"],
        import_path_allowlist=["micro_rm.configs"],
    )
    set_loader("yaml", load_yaml, exceptions=(YAMLError,))


def _build_parser(wanted: str | None) -> ArgumentParser:
    """The parser of all commands; only the wanted one knows its keys, which takes its time."""
    parser = ArgumentParser(
        prog="micro-rm",
        description="Mixture reward heads and context-aware routing from cached features.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(dest="command", required=True)
    for name, summary in COMMANDS.items():
        if name != wanted:
            commands.add_subcommand(name, ArgumentParser(exit_on_error=False), help=summary)
            continue
        preset: list[str | os.PathLike[str]] = [PRESETS / "demo.yaml"] if name == "demo" else []
        command = ArgumentParser(
            description=f"{summary[0].upper()}{summary[1:]}.",
            default_config_files=preset,
            exit_on_error=False,
            allow_abbrev=False,
        )
        if name in PLACES:
            command.add_argument("place", nargs="?", default=None, help=PLACES[name])
        command.add_argument("--config", action="config", help="YAML file with any of the keys")
        command.add_argument("--dry_run", action="store_true", help="print the plan, do nothing")
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.add_class_arguments(Config)
        commands.add_subcommand(name, command, help=summary)
    return parser


def _spelled_out(word: str, short: Mapping[str, str]) -> str:
    """A short flag as the configuration key that it stands for."""
    name, equals, value = word.partition("=")
    return short.get(name, name) + equals + value


def _config_first(argv: Sequence[str]) -> list[str]:
    """Arguments with every ``--config FILE`` behind the command, so that flags always win."""
    files, rest = [], []
    words = iter(argv)
    for word in words:
        if word == "--config":
            files += [word, *itertools.islice(words, 1)]
        elif word.startswith("--config="):
            files.append(word)
        else:
            rest.append(word)
    return [*rest[:1], *files, *rest[1:]]


def _known_keys(config: type = Config, prefix: str = "") -> list[str]:
    keys = []
    for item in fields(config):
        keys.append(prefix + item.name)
        inner = item.default_factory
        if isinstance(inner, type) and is_dataclass(inner):
            keys += _known_keys(inner, f"{prefix}{item.name}.")
    return keys


def _explain(message: str) -> str:
    """The parser's message in one line, with the nearest known key where one is unknown."""
    line = " ".join(message.split())
    if len(line) > LONGEST:
        line = f"{line[:LONGEST]} ..."
    keys = _known_keys()
    for word in line.replace("'", " ").replace('"', " ").split():
        word = word.lstrip("-").split("=")[0].strip(".,:;")
        if word not in keys and ("." in word or "_" in word or "not" in line):
            close = difflib.get_close_matches(word, keys, n=1, cutoff=0.75)
            if close:
                return f"{line}; did you mean {close[0]}?"
    return f"{line}; micro-rm COMMAND --help lists every key"
