"""A sweep as a stage over a run directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.fingerprint import code_fingerprint, fingerprint
from ...configs.schema import Config
from ..ensemble import by_key
from ..methods import choose_methods, outside_sources
from ..stages import open_run_data
from ..studies.measure import StudyError
from .engine import run_members
from .plan import describe, largest_heads, make_members
from .processes import Share
from .table import SweepTable, clear_parts, locked, read_parts, rows_of, write_part

Tell = Callable[[int, int, int], None]


@dataclass(frozen=True)
class SweepCounts:
    """Members fitted now, before and in vain; those of another sweep that was replaced."""

    fitted: int
    before: int
    failed: int
    replaced: int


def run_sweep(config: Config, request: str | None, share: Share, tell: Tell) -> SweepCounts:
    """Fit and score every member that the table lacks; writes sweep.parquet.

    ``request`` identifies the pair table. Of several processes of one job each takes its
    ``share``. ``tell`` hears the members done, those of this process, and those that failed.

    Raises ``StudyError`` if the data cannot serve a method.
    """
    run_data = open_run_data(config)
    config = run_data.config
    for method in choose_methods(config.sweep.methods):
        reason = run_data.lacks(method)
        if reason is not None:
            raise StudyError(f"sweep.methods: {method.name} is impossible here: {reason}")
    members = make_members(config)
    run = Path(config.run.dir)
    test = run_data.test_set
    code = [code_fingerprint("heads"), *outside_sources(config.sweep.methods)]
    inputs = fingerprint(request, code, config.data.name, describe(config))
    keys = tuple(dict.fromkeys(key for member in members for key in member.settings))
    mine = SweepTable(inputs, keys, test.attributes, [])
    numbers = {member.label: member.number for member in members}
    with locked(run):
        replaced = clear_parts(run, inputs, keys)
        known = read_parts(run, mine, numbers)
    part, parts = share
    # Members that share their stage 1 stay in one process.
    shares = by_key([member.stage1 for member in members])
    todo = [
        members[index]
        for number, indices in enumerate(shares)
        for index in indices
        if number % parts == part and members[index].label not in known.labels
    ]
    mine.rows.extend(known.rows)
    done = failed = 0
    if todo:
        memory = config.sweep.memory_gib
        limit = None if memory is None else memory * 2**30
        # Room as for all members: one that is fitted later has the bits that it would have had.
        fitting = run_members(
            run_data, todo, config.sweep.methods, test, limit, largest_heads(members)
        )
        for group, results in fitting:
            for member, result in zip(group, results, strict=True):
                mine.rows.extend(rows_of(member, result))
                failed += not isinstance(result, dict)
            done += len(group)
            write_part(run, f"{part}-of-{parts}", mine, numbers)
            tell(done, len(todo), failed)
    else:
        write_part(run, f"{part}-of-{parts}", mine, numbers)
    return SweepCounts(done, len(known.labels), failed, replaced)
