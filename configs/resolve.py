"""What a configuration leaves open follows from the model: every ``auto`` becomes a value.

Pure: the caller has the facts, a store's identity or the loaded model itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Protocol

from .schema import BackboneConfig, Config, ViewsConfig


class ModelFacts(Protocol):
    """What a backbone computes in, how it is read out, and its longest sequence in tokens."""

    @property
    def dtype(self) -> str: ...

    @property
    def pooling(self) -> str: ...

    @property
    def max_length(self) -> int: ...


class KnownFacts(NamedTuple):
    """Facts that nobody has to ask a model for."""

    dtype: str
    pooling: str
    max_length: int


# The simulator's vectors have no backbone; the paper's views are the default.
SIMULATED = KnownFacts("float32", "last", 4096)


def resolve(config: Config, facts: ModelFacts) -> Config:
    """The configuration with nothing left open; what it says itself stays."""
    backbone = resolve_backbone(config.backbone, facts)
    views = resolve_views(config.views, backbone.pooling)
    return replace(config, backbone=backbone, views=views)


def resolve_backbone(backbone: BackboneConfig, facts: ModelFacts) -> BackboneConfig:
    """Settings of a backbone without ``auto`` in type, read-out, length and policy.

    Raises ``ConfigError`` for a policy that the read-out does not allow.
    """
    pooling = facts.pooling if backbone.pooling == "auto" else backbone.pooling
    policy = "drop" if pooling == "last" else "truncate_end"
    return replace(
        backbone,
        dtype=facts.dtype if backbone.dtype == "auto" else backbone.dtype,
        pooling=pooling,
        max_length=facts.max_length if backbone.max_length == "auto" else backbone.max_length,
        overlong=policy if backbone.overlong == "auto" else backbone.overlong,
    )


def resolve_views(views: ViewsConfig, pooling: str) -> ViewsConfig:
    """Views without ``auto``: the paper's for a last-token read-out, else the context alone."""
    last = pooling == "last"
    head, router = views.adapt_head, views.adapt_router
    return replace(
        views,
        adapt_head=("ctx" if last else "plain") if head == "auto" else head,
        adapt_router=("ctx" if last else "context") if router == "auto" else router,
    )


def left_open(config: Config) -> bool:
    """Whether ``resolve`` has anything to do."""
    backbone, views = config.backbone, config.views
    settings = (backbone.dtype, backbone.pooling, backbone.max_length, backbone.overlong)
    return "auto" in (*settings, views.adapt_head, views.adapt_router)
