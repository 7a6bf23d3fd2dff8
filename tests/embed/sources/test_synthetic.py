"""The synthetic population: seeded, split by prompt, opposed, without hints at the rater."""

from __future__ import annotations

from collections import Counter

import pytest

from micro_rm.configs.data import DataConfig, SyntheticConfig
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.pair import PreferencePair
from micro_rm.embed.sources.synthetic import CONTEXTS, RATERS, generate


@pytest.fixture(scope="module")
def pairs() -> list[PreferencePair]:
    return generate()


def test_at_least_six_raters_in_opposed_pairs_with_wishes_and_rows_of_their_own(
    pairs: list[PreferencePair],
) -> None:
    assert len(RATERS) >= 6
    for axis in {rater.axis for rater in RATERS}:
        assert sorted(rater.pole for rater in RATERS if rater.axis == axis) in ([-1, 1], [0, 1])
    counts = Counter((pair.attribute, pair.split) for pair in pairs)
    for rater in RATERS:
        assert counts[rater.name, "train"] >= 200 and counts[rater.name, "test"] >= 60
        assert len(CONTEXTS[rater.name]["train"]) >= 4 and len(CONTEXTS[rater.name]["test"]) >= 2


def test_the_same_seed_gives_the_same_text_and_another_seed_another(
    pairs: list[PreferencePair],
) -> None:
    assert generate() == pairs
    assert {pair.pair_id for pair in generate(seed=1)} != {pair.pair_id for pair in pairs}


def test_prompts_are_varied_and_neither_they_nor_wishes_are_in_both_splits(
    pairs: list[PreferencePair],
) -> None:
    train, test = ([p for p in pairs if p.split == name] for name in ("train", "test"))
    assert not {pair.context for pair in train} & {pair.context for pair in test}
    prompts = {pair.prompt for pair in train}
    assert not prompts & {pair.prompt for pair in test}
    assert len({pair.prompt for pair in pairs}) == 320
    openings = Counter(" ".join(prompt[0].content.split()[:3]) for prompt in prompts)
    assert openings.most_common(1)[0][1] < 0.1 * len(prompts)


def test_neither_prompt_nor_answers_name_the_rater(pairs: list[PreferencePair]) -> None:
    """The label may reach the encoder only through which answer won, and through the wish."""
    for pair in pairs:
        assert pair.context not in (pair.prompt[0].content, pair.chosen, pair.rejected)
        for text in (pair.prompt[0].content, pair.chosen, pair.rejected):
            assert "rater" not in text.lower() and str(pair.context) not in text


def test_the_longer_answer_does_not_give_it_away(pairs: list[PreferencePair]) -> None:
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / len(pairs)
    assert 0.4 < longer < 0.6


def test_noise_swaps_labels_and_changes_no_text(pairs: list[PreferencePair]) -> None:
    noisy = generate(noise=0.3)
    swapped = sum(
        (one.chosen, one.rejected) == (other.rejected, other.chosen)
        for one, other in zip(pairs, noisy, strict=True)
    )
    assert 0.2 < swapped / len(pairs) < 0.4
    for one, other in zip(pairs, noisy, strict=True):
        assert one.prompt == other.prompt and {one.chosen, one.rejected} == {
            other.chosen,
            other.rejected,
        }


def test_the_source_follows_its_settings() -> None:
    settings = SyntheticConfig(prompts=24, seed=3)
    config = DataConfig(source="synthetic", synthetic=settings, test_fraction=0.5)
    source = open_pairs(config)
    pairs = list(source)
    prompts = {pair.prompt for pair in pairs}
    held_out = {pair.prompt for pair in pairs if pair.split == "test"}
    assert len(prompts) == 24 and len(held_out) == 12
    assert source.account.rows == source.account.pairs == len(pairs)
