"""Members as arrays: groups, padding, drawing, and devices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.common.errors import ConfigError
from micro_rm.heads.ensemble import (
    by_key,
    cut_heads,
    draw,
    make_mesh,
    pad_heads,
    split,
    spread,
    stack,
)
from micro_rm.heads.model import ModelSpec, RouterKind, init, log_weights


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_places_are_grouped_by_key_in_order_of_their_first(keys: list[str]) -> None:
    groups = by_key(keys)
    assert sorted(place for group in groups for place in group) == list(range(len(keys)))
    assert [keys[group[0]] for group in groups] == list(dict.fromkeys(keys))
    for group in groups:
        assert group == sorted(group) and len({keys[place] for place in group}) == 1


@given(st.integers(1, 60), st.integers(1, 9), st.none() | st.floats(0.1, 400))
@settings(max_examples=200)
def test_groups_fit_into_memory_and_have_one_size(
    count: int, each: int, memory: float | None
) -> None:
    groups = split(count, each, memory)
    assert [place for group in groups for place in group] == list(range(count))
    sizes = [len(group) for group in groups]
    assert len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]
    if memory is None:
        assert len(groups) == 1
    else:
        assert sizes[0] == 1 or sizes[0] * each <= memory
        fewest = -(-count // max(int(memory // each), 1))
        assert len(groups) <= fewest


def test_groups_are_equal_where_they_can_be() -> None:
    """Not four and one: a size of its own is compiled again."""
    assert [len(group) for group in split(6, 10, 45)] == [3, 3]
    assert [len(group) for group in split(5, 10, 45)] == [3, 2]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["linear", "static"])
def test_the_first_heads_do_not_depend_on_how_many_there_are(kind: RouterKind) -> None:
    keys = jax.random.split(jax.random.key(3), 2)
    few, many = (draw(ModelSpec(6, count, kind, 4), keys) for count in (2, 5))
    for member in range(2):
        small, large = (jax.tree.map(lambda a, m=member: a[m], tree) for tree in (few, many))
        jax.tree.map(np.testing.assert_array_equal, cut_heads(large, 2), small)
        if kind == "linear":
            alone = init(ModelSpec(6, 2, kind, 4), keys[member])
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), small, alone)
    heads = np.asarray(few["heads"]["kernel"])
    assert (heads[0] != heads[1]).all() and (heads[..., 0] != heads[..., 1]).all()


def some_params(num_heads: int, kind: RouterKind) -> Any:
    """Random numbers in the shapes of a model."""
    rng, spec = np.random.default_rng(0), ModelSpec(6, num_heads, kind, 4)
    shapes = jax.eval_shape(lambda: init(spec, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("kind", ["mlp", "static"])
def test_heads_of_padding_are_zeros_behind_without_weight_and_can_be_cut_away(
    kind: RouterKind,
) -> None:
    spec, wide = ModelSpec(6, 3, kind, 4), ModelSpec(6, 5, kind, 4)
    params = some_params(3, kind)
    padded = pad_heads(params, 5)
    assert jax.tree.map(jnp.shape, padded) == jax.tree.map(jnp.shape, some_params(5, kind))
    jax.tree.map(np.testing.assert_array_equal, cut_heads(padded, 3), params)
    assert (padded["heads"]["kernel"][:, 3:] == 0).all()
    prompt_NxD = jnp.asarray(np.random.default_rng(0).normal(size=(7, 6)), jnp.float32)
    found = log_weights(wide, padded["router"], prompt_NxD, 3)
    assert (np.asarray(found)[:, 3:] == -np.inf).all()
    expected = log_weights(spec, params["router"], prompt_NxD)
    np.testing.assert_allclose(found[:, :3], expected, atol=1e-6)


def test_members_are_stacked_along_a_first_axis() -> None:
    found = stack([{"a": 1.0, "b": np.ones(3)}, {"a": 2.0, "b": np.zeros(3)}])
    np.testing.assert_array_equal(found["a"], [1, 2])
    np.testing.assert_array_equal(found["b"], [[1, 1, 1], [0, 0, 0]])


# --- devices --------------------------------------------------------------------------------------


def test_one_device_needs_no_mesh_and_cannot_be_two() -> None:
    assert jax.local_device_count() == 1
    assert make_mesh(1) is None
    members, rows = {"a": 1}, [2]
    assert spread(None, members, rows) == (members, rows)
    with pytest.raises(ConfigError, match=r"train\.data_devices: expected a divisor .* \(1\)"):
        make_mesh(2)
