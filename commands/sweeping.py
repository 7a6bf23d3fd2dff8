"""``micro-rm sweep``: embed what is missing, then fit and score every member."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..common.console import Say, spinner
from ..common.errors import require
from ..common.fingerprint import fingerprint
from ..configs.schema import Config
from ..runs import freshness as progress
from ..runs.record import RunRecord, recording_files
from ..runs.store_settings import resolve_from_store
from .embedding import embed
from .reporting import report_sweep

Result = dict[str, Any]


def sweep(config: Config, say: Say, *, dry_run: bool = False) -> Result:
    """Embed what is missing, then fit and score every member of the sweep."""
    from ..display.sweeps import progress_line
    from ..heads.methods import check_names
    from ..heads.sweeps.plan import make_members
    from ..heads.sweeps.processes import join
    from ..heads.sweeps.run import run_sweep
    from ..heads.sweeps.table import locked

    check_names(config.sweep.methods)
    asked, config = config, resolve_from_store(config)
    members = make_members(config)
    request = progress.table_fingerprint(config)
    embedded = progress.is_embedded(config, request)
    plan = f"{len(members)} members of {', '.join(config.sweep.methods)}"
    if dry_run:
        say(f"sweep    embed: {'done' if embedded else 'to do'}; {plan}")
        found = {} if embedded else embed(asked, say, dry_run=True)
        return found | {"embedded": embedded, "members": len(members)}
    for caveat in config.caveats():
        say(f"note     {caveat}")
    require(
        embedded or not config.sweep.distributed,
        "sweep.distributed",
        "a store that is complete; run micro-rm embed first",
        "one that lacks vectors",
    )
    record = RunRecord(Path(config.run.dir), config)
    if not embedded:
        with record.stage("embed", request) as notes:
            notes |= embed(asked, say)
        config = resolve_from_store(config)
        record = RunRecord(Path(config.run.dir), config)
        request = progress.table_fingerprint(config)
    share = join(distributed=config.sweep.distributed)
    say(f"sweep    {plan}" + (f", part {share.part} of {share.parts}" if share.parts > 1 else ""))
    # One process of a job keeps the record.
    place = Path(config.run.dir)
    guard = partial(locked, place)
    stage = record.stage("sweep", fingerprint(request, config.sweep), guard)
    with recording_files(place, guard), stage if share.part == 0 else nullcontext({}) as notes:
        with spinner("sweep    fitting the first members"):
            outcome = run_sweep(
                config,
                progress.stored_table_fingerprint(config),
                share,
                lambda *counts: say(progress_line(*counts)),
            )
        notes |= {"fitted": outcome.fitted, "before": outcome.before, "failed": outcome.failed}
    if outcome.replaced:
        say(f"sweep    took the place of another sweep of {outcome.replaced} members")
    if outcome.before:
        say(f"sweep    {outcome.before} members were done before for the same inputs")
    with recording_files(place, guard):
        report_sweep(config, say)
    return asdict(outcome)
