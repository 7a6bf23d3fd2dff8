"""A sweep as a stage: what is fitted, and what was done before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from micro_rm.cache.schema import StoreError
from micro_rm.common.errors import UserError
from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.schema import Config, DataConfig, RunConfig, StoreConfig
from micro_rm.configs.sweep import SweepConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.display.report import SWEEP_PAGE, write_sweep_page
from micro_rm.heads.studies.measure import StudyError
from micro_rm.heads.sweeps import run as stage
from micro_rm.heads.sweeps.processes import Share
from micro_rm.heads.sweeps.run import SweepCounts, run_sweep
from micro_rm.heads.sweeps.table import FILE, PARTS, SweepTable, read_sweep

RATES = [0.1, 0.2, 0.3, 0.4]
ALONE = Share(0, 1)


class Fake:
    """``run_members`` that fits nothing: two by two, a fixed number for every rate."""

    def __init__(self) -> None:
        self.fitted: list[float] = []
        self.memory: list[float | None] = []
        self.room: list[int] = []
        self.failing: set[float] = set()
        self.stop_at: float | None = None

    def __call__(
        self, _bench: Any, members: Any, methods: Any, test: Any, memory: float | None, room: int
    ) -> Any:
        self.memory.append(memory)
        self.room.append(room)
        for start in range(0, len(members), 2):
            group = members[start : start + 2]
            rates = [member.config.train.learning_rate for member in group]
            if self.stop_at in rates:
                raise KeyboardInterrupt
            self.fitted += rates
            yield group, [self.results(rate, methods, test) for rate in rates]

    def results(self, rate: float, methods: Any, test: Any) -> Any:
        if rate in self.failing:
            return UserError(f"{rate} is too much")
        numbers = {
            "accuracy": 1 - rate,
            "nll": rate,
            "ece": 0.1,
            "attributes": dict.fromkeys(test.attributes, 1 - rate),
            "validation_nll": rate,
            "validation_accuracy": 1 - rate,
            "validation_rows": 4,
        }
        return dict.fromkeys(methods, numbers)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    found = Fake()
    monkeypatch.setattr(stage, "run_members", found)
    return found


@pytest.fixture
def config(tiny: Any, tmp_path: Path) -> Config:
    return Config(
        data=DataConfig(name="tiny"),
        store=StoreConfig(str(tiny.store)),
        train=TrainConfig(validation_fraction=0.2),
        adapt=AdaptConfig(budget=8, pool=32, draws=2),
        sweep=SweepConfig(grid={"train.learning_rate": RATES}),
        run=RunConfig(str(tmp_path / "run")),
    )


def swept(config: Config, **changes: Any) -> Config:
    return replace(config, sweep=replace(config.sweep, **changes))


def run(
    config: Config,
    request: str | None = "table",
    tell: Any = lambda *_: None,
    share: Share = ALONE,
) -> SweepCounts:
    Path(config.run.dir).mkdir(exist_ok=True)
    return run_sweep(config, request, share, tell)


def table(config: Config) -> SweepTable:
    found = read_sweep(Path(config.run.dir))
    assert found is not None
    return found


def rates(config: Config) -> list[float]:
    """Rates in the table, once per method."""
    return [row["train.learning_rate"] for row in table(config).rows]


def test_every_member_is_fitted_written_and_told(config: Config, fake: Fake) -> None:
    told: list[tuple[int, ...]] = []
    outcome = run(config, tell=lambda *counts: told.append(counts))
    assert told == [(2, 4, 0), (4, 4, 0)]
    assert (outcome.fitted, outcome.before, outcome.failed) == (4, 0, 0)
    assert fake.fitted == RATES and fake.memory == [None]
    assert rates(config) == [rate for rate in RATES for _ in range(2)]
    assert {row["method"] for row in table(config).rows} == {"micro_stage1", "micro"}
    assert table(config).attributes == ("brief", "polite")
    best = write_sweep_page(config)["best"]["micro"][0]
    assert best["settings"] == {"train.learning_rate": 0.1}
    page = (Path(config.run.dir) / SWEEP_PAGE).read_text("utf-8")
    assert "tiny: a sweep of 4 members" in page and "<svg" in page


def test_a_second_run_fits_nothing_and_shows_the_same(config: Config, fake: Fake) -> None:
    run(config)
    first = write_sweep_page(config)
    before = (Path(config.run.dir) / FILE).read_bytes()
    again = run(config)
    assert (again.fitted, again.before, again.failed, again.replaced) == (0, 4, 0, 0)
    assert write_sweep_page(config) == first and len(fake.fitted) == 4
    (Path(config.run.dir) / FILE).unlink()
    run(config)
    assert (Path(config.run.dir) / FILE).read_bytes() == before and len(fake.fitted) == 4


def test_a_sweep_that_was_stopped_goes_on_behind_what_is_done(config: Config, fake: Fake) -> None:
    fake.stop_at = 0.3
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert sorted(set(rates(config))) == [0.1, 0.2]
    fake.stop_at, fake.fitted = None, []
    outcome = run(config)
    assert (outcome.fitted, outcome.before) == (2, 2) and fake.fitted == [0.3, 0.4]
    assert rates(config) == [rate for rate in RATES for _ in range(2)]


def test_more_values_are_fitted_and_the_old_ones_kept(config: Config, fake: Fake) -> None:
    run(config)
    fake.fitted = []
    more = swept(config, grid={"train.learning_rate": [0.05, *RATES]})
    outcome = run(more)
    assert fake.fitted == [0.05] and (outcome.fitted, outcome.before) == (1, 4)
    numbers = {row["train.learning_rate"]: row["member"] for row in table(more).rows}
    assert sorted(numbers.values()) == [0, 1, 2, 3, 4]
    summary = write_sweep_page(more)
    assert summary["members"] == 5
    points = summary["studies"]["train.learning_rate"]["metrics"]["macro accuracy"]
    assert [point["x"] for point in points["micro"]] == [0.05, *RATES]


def test_fewer_values_are_shown_without_the_others(config: Config, fake: Fake) -> None:
    run(config)
    fewer = swept(config, grid={"train.learning_rate": [0.2, 0.3]})
    outcome = run(fewer)
    assert (outcome.fitted, outcome.before) == (0, 2) and len(fake.fitted) == 4
    assert write_sweep_page(fewer)["members"] == 2 and sorted(set(rates(fewer))) == [0.2, 0.3]


@pytest.mark.parametrize(
    "change",
    [
        {"train": TrainConfig(validation_fraction=0.2, epochs=9)},
        {"request": "another table"},
        {"grid": {"train.learning_rate": RATES, "train.clip": [1.0]}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_inputs_start_over(config: Config, fake: Fake, change: dict[str, Any]) -> None:
    run(config)
    (name, value), request, other = *change.items(), "table", config
    if name == "request":
        request = value
    elif name == "grid":
        other = swept(config, **change)
    else:
        other = replace(config, **change)
    outcome = run(other, request)
    assert (outcome.fitted, outcome.before, outcome.replaced) == (4, 0, 4)
    assert len(fake.fitted) == 8
    assert len(table(other).labels) == 4
    assert len(list((Path(config.run.dir) / PARTS).glob("*.parquet"))) == 1


def test_members_that_failed_are_recorded_and_not_tried_again(config: Config, fake: Fake) -> None:
    fake.failing = {0.2}
    told: list[tuple[int, ...]] = []
    outcome = run(config, tell=lambda *counts: told.append(counts))
    assert told == [(2, 4, 1), (4, 4, 1)] and outcome.failed == 1
    errors = [row["error"] for row in table(config).rows if row["error"]]
    assert errors == ["0.2 is too much"]
    failed = [{"settings": {"train.learning_rate": 0.2}, "error": "0.2 is too much"}]
    assert write_sweep_page(config)["failed"] == failed
    assert "0.2 is too much" in (Path(config.run.dir) / SWEEP_PAGE).read_text("utf-8")
    again = run(config)
    assert (again.fitted, again.before) == (0, 4)
    assert write_sweep_page(config)["failed"] == failed


def test_members_fitted_later_have_the_room_of_all(config: Config, fake: Fake) -> None:
    run(swept(config, grid={"train.num_heads": [2, 7]}))
    run(swept(config, grid={"train.num_heads": [2, 7, 3]}))
    assert fake.room == [7, 7]


def test_memory_is_given_in_gib(config: Config, fake: Fake) -> None:
    run(swept(config, memory_gib=0.5))
    assert fake.memory == [2**29]


def test_processes_share_the_members_by_stage_1(config: Config, fake: Fake) -> None:
    grid = {"adapt.tau": [0.1, 0.2], "train.learning_rate": RATES[:3]}
    config = swept(config, grid=grid)
    seen = []
    for part in (1, 0):
        fake.fitted = []
        run(config, share=Share(part, 2))
        seen.append(fake.fitted)
    assert seen == [[0.2, 0.2], [0.1, 0.1, 0.3, 0.3]]
    assert len(table(config).labels) == 6
    parts = sorted(path.stem for path in (Path(config.run.dir) / PARTS).glob("*.parquet"))
    assert parts == ["0-of-2", "1-of-2"]
    # One process goes on with what two have done.
    fake.fitted = []
    assert run(config).before == 6 and not fake.fitted


def test_fewer_values_after_several_processes(config: Config, fake: Fake) -> None:
    for part in (0, 1):
        run(config, share=Share(part, 2))
    fewer = swept(config, grid={"train.learning_rate": RATES[:2]})
    assert run(fewer).fitted == 0
    assert write_sweep_page(fewer)["members"] == 2


def test_a_damaged_part_stops_the_sweep_with_a_remedy(config: Config, fake: Fake) -> None:
    run(config)
    part = Path(config.run.dir) / PARTS / "0-of-1.parquet"
    part.write_text("no", "utf-8")
    with pytest.raises(StoreError, match=r"0-of-1\.parquet: damaged .* delete it"):
        run(config)
    part.unlink()
    assert run(config).fitted == 4


def test_a_method_that_the_data_cannot_serve_is_named(config: Config, fake: Fake) -> None:
    with pytest.raises(StudyError, match=r"sweep\.methods: native_head is impossible here: the b"):
        run(swept(config, methods=["native_head"]))
    assert not fake.fitted
