"""Replace every ``auto`` of a configuration by the value that follows from the backbone.

These functions are pure: the caller passes the facts, from a store's identity or a loaded model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Protocol

from .schema import BackboneConfig, Config, ViewsConfig


class ModelFacts(Protocol):
    """Facts about a backbone: dtype, pooling, and longest sequence in tokens."""

    @property
    def dtype(self) -> str: ...

    @property
    def pooling(self) -> str: ...

    @property
    def max_length(self) -> int: ...


class StaticFacts(NamedTuple):
    """Facts that are known without a model."""

    dtype: str
    pooling: str
    max_length: int


# The simulator has no backbone. Pooling last selects the paper's views.
SIMULATOR_FACTS = StaticFacts("float32", "last", 4096)


def resolve(config: Config, facts: ModelFacts) -> Config:
    """Return the configuration with every ``auto`` replaced; explicit settings stay.

    Raises ``ConfigError`` for an overlong policy that the pooling does not allow.
    """
    backbone = resolve_backbone(config.backbone, facts)
    views = resolve_views(config.views, backbone.pooling)
    return replace(config, backbone=backbone, views=views)


def resolve_backbone(backbone: BackboneConfig, facts: ModelFacts) -> BackboneConfig:
    """Replace ``auto`` in the dtype, pooling, maximum length and overlong policy of a backbone.

    Raises ``ConfigError`` for an overlong policy that the pooling does not allow.
    """
    pooling = facts.pooling if backbone.pooling == "auto" else backbone.pooling
    # The last token of a truncated sequence would be read in mid-sentence.
    policy = "drop" if pooling == "last" else "truncate_end"
    return replace(
        backbone,
        dtype=facts.dtype if backbone.dtype == "auto" else backbone.dtype,
        pooling=pooling,
        max_length=facts.max_length if backbone.max_length == "auto" else backbone.max_length,
        overlong=policy if backbone.overlong == "auto" else backbone.overlong,
    )


def resolve_views(views: ViewsConfig, pooling: str) -> ViewsConfig:
    """Replace ``auto`` in the views: the paper's for last-token pooling, else the context alone.

    Mean pooling would drown a context in front of a long prompt.
    """
    last = pooling == "last"
    head, router = views.adapt_head, views.adapt_router
    return replace(
        views,
        adapt_head=("ctx" if last else "plain") if head == "auto" else head,
        adapt_router=("ctx" if last else "context") if router == "auto" else router,
    )


def has_auto(config: Config) -> bool:
    """Whether any setting is ``auto``, so that ``resolve`` has something to do."""
    backbone, views = config.backbone, config.views
    settings = (backbone.dtype, backbone.pooling, backbone.max_length, backbone.overlong)
    return "auto" in (*settings, views.adapt_head, views.adapt_router)
