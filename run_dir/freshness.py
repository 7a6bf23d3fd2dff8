"""Decide which stages of a run are done, by fingerprints of everything their results depend on."""

from __future__ import annotations

from pathlib import Path

from ..common.fingerprint import code_fingerprint, fingerprint
from ..configs.schema import SIMULATOR_SOURCE, Config
from .record import RunRecord

# Folder of the models of further training seeds, as many as were trained.
SEEDS = "seeds"
OUTPUTS = {
    "train": ("model.safetensors", "model.json"),
    "adapt": ("model.safetensors", "model.json"),
    "evaluate": ("report.json", "predictions.parquet"),
}


def table_fingerprint(config: Config) -> str:
    """Fingerprint of everything that a configuration's pair table is made from."""
    from ..embed.input_fingerprint import input_fingerprint

    if config.data.source == SIMULATOR_SOURCE:
        return fingerprint(SIMULATOR_SOURCE, config.data.simulator)
    return input_fingerprint(config)


def stored_table_fingerprint(config: Config) -> str | None:
    """Fingerprint of the pair table that the store holds, None if it holds none.

    Training depends on this one: the text files may have changed since they were embedded.
    """
    from ..cache.pairs import read_request

    if config.data.source == SIMULATOR_SOURCE:
        return table_fingerprint(config)
    return with_missing_pairs(config, read_request(Path(config.store.dir), config.data.name))


def with_missing_pairs(config: Config, request: str | None) -> str | None:
    """Extend a table's fingerprint ``request`` by the number of pairs that the table lacks.

    Failed pairs, which a later job may fill in, and deleted ones change what is trained on,
    although the inputs of the table stay the same.
    """
    from ..cache.pairs import DELETED, read_account, read_request

    store = Path(config.store.dir)
    if config.data.source == SIMULATOR_SOURCE or request is None:
        return request
    if read_request(store, config.data.name) != request:
        return request
    account = read_account(store, config.data.name)  # older tables have neither
    missing = account.get("failed_pairs", 0), account.get(DELETED, 0)
    return f"{request} without {missing}" if any(missing) else request


def stage_inputs(config: Config, request: str | None) -> dict[str, str]:
    """Fingerprint per learning stage of everything that its result depends on.

    ``request`` is the fingerprint of the pair table, as ``with_missing_pairs`` returns it.
    """
    from ..heads.methods import check_names, outside_sources

    methods = check_names(config.methods)
    code = [code_fingerprint("heads"), *outside_sources(methods)]
    learning = [code, config.data.name, methods, config.run.seed]
    trained = fingerprint(request, learning, config.views, config.train, config.baselines)
    adapted = fingerprint(trained, config.adapt)
    return {
        "train": trained,
        "adapt": adapted,
        "evaluate": fingerprint(adapted, config.evaluate),
    }


def is_done(config: Config, record: RunRecord, name: str, inputs: dict[str, str]) -> bool:
    """Whether a stage has finished with these ``stage_inputs`` and its files are intact."""
    files = list(OUTPUTS[name])
    if name != "evaluate":
        files += [file for file in record.content["files"] if file.startswith(f"{SEEDS}/")]
    sound = not any(record.problem(file) for file in files)
    return sound and record.done(name, inputs[name])


def is_embedded(config: Config, request: str) -> bool:
    """Whether the store holds the pair table of fingerprint ``request`` and all of its shards.

    Raises ``StoreError`` if a shard that the manifest lists is missing or has another shape.
    """
    from ..cache.pairs import read_layout, read_request
    from ..cache.reader import FeatureStore

    if config.data.source == SIMULATOR_SOURCE:
        return True
    store = Path(config.store.dir)
    if not (store / "manifest.json").is_file() or read_request(store, config.data.name) != request:
        return False
    return FeatureStore(store).manifest.fits(read_layout(store, config.data.name))
