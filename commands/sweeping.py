"""``micro-rm sweep``: embed what is missing, then fit and score every member."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..common.console import Say, spinner
from ..common.errors import require
from ..configs.schema import Config
from ..run_dir import freshness
from ..run_dir.record import RunRecord, recording_files
from ..run_dir.store_settings import resolve_from_store
from .embedding import embed
from .reporting import report_sweep

Result = dict[str, Any]


def sweep(config: Config, say: Say, *, dry_run: bool = False) -> Result:
    """Embed what is missing, then fit and score every member of the sweep."""
    from ..api.sweep import fit_sweep
    from ..display.sweeps import progress_line
    from ..heads.methods import check_names
    from ..heads.sweeps.plan import make_members
    from ..heads.sweeps.processes import join
    from ..heads.sweeps.table import locked

    check_names(config.sweep.methods)
    asked, config = config, resolve_from_store(config)
    members = make_members(config)
    request = freshness.table_fingerprint(config)
    embedded = freshness.is_embedded(config, request)
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
        request = freshness.table_fingerprint(config)
    share = join(distributed=config.sweep.distributed)
    say(f"sweep    {plan}" + (f", part {share.part} of {share.parts}" if share.parts > 1 else ""))
    directory = Path(config.run.dir)
    with spinner("sweep    fitting the first members"):
        outcome = fit_sweep(config, share, lambda *counts: say(progress_line(*counts)))
    if outcome.replaced:
        say(f"sweep    took the place of another sweep of {outcome.replaced} members")
    if outcome.before:
        say(f"sweep    {outcome.before} members were done before for the same inputs")
    with recording_files(directory, partial(locked, directory)):
        report_sweep(config, say)
    return asdict(outcome)
