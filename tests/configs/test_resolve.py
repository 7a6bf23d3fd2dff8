"""``auto`` follows from the backbone; explicit settings stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.resolve import StaticFacts, has_auto, resolve
from micro_rm.configs.schema import BackboneConfig, Config, ViewsConfig

DECODER = StaticFacts("bfloat16", "last", 2048)
ENCODER = StaticFacts("float32", "mean", 512)


def test_a_decoder_has_the_papers_views_and_drops_what_is_too_long() -> None:
    found = resolve(Config(), DECODER)
    assert found.backbone == replace(
        BackboneConfig(), dtype="bfloat16", pooling="last", max_length=2048, overlong="drop"
    )
    assert (found.views.adapt_head, found.views.adapt_router) == ("ctx", "ctx")


def test_an_encoder_reads_the_context_alone_and_cuts_the_end() -> None:
    found = resolve(Config(), ENCODER)
    assert found.backbone == replace(
        BackboneConfig(), dtype="float32", pooling="mean", max_length=512, overlong="truncate_end"
    )
    assert (found.views.adapt_head, found.views.adapt_router) == ("plain", "context")


def test_what_is_said_stays() -> None:
    said = BackboneConfig(dtype="bfloat16", pooling="cls", max_length=99, overlong="error")
    views = ViewsConfig(adapt_head="ctx", adapt_router="plain")
    config = Config(backbone=said, views=views)
    assert resolve(config, ENCODER) == config
    assert not has_auto(config)


def test_a_read_out_that_is_said_decides_about_the_rest() -> None:
    found = resolve(Config(backbone=BackboneConfig(pooling="last")), ENCODER)
    assert found.backbone.overlong == "drop" and found.views.adapt_router == "ctx"


def test_nothing_is_open_twice() -> None:
    assert has_auto(Config())
    once = resolve(Config(), ENCODER)
    assert not has_auto(once) and resolve(once, DECODER) == once


OPEN = ["backbone.dtype", "backbone.pooling", "backbone.max_length", "backbone.overlong"]


@pytest.mark.parametrize("open_key", [*OPEN, "views.adapt_head", "views.adapt_router"])
def test_every_open_setting_counts(open_key: str) -> None:
    section, key = open_key.split(".")
    settled = resolve(Config(), ENCODER)
    part = replace(getattr(settled, section), **{key: "auto"})
    assert has_auto(replace(settled, **{section: part}))


def test_a_policy_that_the_read_out_forbids_is_refused() -> None:
    config = Config(backbone=BackboneConfig(overlong="truncate_end"))
    assert resolve(config, ENCODER).backbone.overlong == "truncate_end"
    with pytest.raises(ConfigError, match=r"backbone\.overlong: .* found 'pooling last'"):
        resolve(config, DECODER)


def test_a_length_that_is_open_is_no_number() -> None:
    assert BackboneConfig(max_length=9).token_limit == 9
    with pytest.raises(ValueError, match="auto"):
        _ = BackboneConfig().token_limit
