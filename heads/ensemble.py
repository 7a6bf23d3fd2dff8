"""Members of a sweep as arrays with a leading axis: grouping, padding, stacking, devices.

Every member has its own number of heads K. It is drawn and stored as if it had as many as the
largest of its group; heads beyond K have no weight and no gradient (``log_weights``), and head k is
drawn from its own key, so the first K are those of the member alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..common.errors import UserError, require
from .model import ModelSpec, init

if TYPE_CHECKING:
    from .methods.interface import Method, Problem, Trained

Tree = TypeVar("Tree")
Rest = TypeVar("Rest")


def by_key(keys: Sequence[Hashable]) -> list[list[int]]:
    """Indices of equal keys, in order of their first."""
    indices: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        indices.setdefault(key, []).append(index)
    return list(indices.values())


def fit_grouped(
    method: Method,
    problems: Sequence[Problem],
    done: Sequence[Mapping[str, Trained]],
    capacity: int = 0,
) -> list[Trained | UserError]:
    """Fit a method's members, those of one ``method.program`` by one call of ``fit_many``.

    Args:
        method: A method with ``fit_many`` and ``program``.
        problems: What each member learns from.
        done: What was fitted before for each.
        capacity: Heads that all members are padded to, unless one has more.

    Returns:
        A model per problem, in their order; an error instead of one that has none.
    """
    assert method.fit_many is not None and method.program is not None
    keys = [method.program(*member) for member in zip(problems, done, strict=True)]
    results: dict[int, Trained | UserError] = {}
    for group in by_key(keys):
        fitted = method.fit_many(
            [problems[index] for index in group], [done[index] for index in group], capacity
        )
        results.update(zip(group, fitted, strict=True))
    return [results[index] for index in range(len(problems))]


def split(count: int, bytes_each: int, memory: float | None) -> list[range]:
    """Indices of ``count`` members in groups that fit into memory, or that hold one member.

    All groups but the last have one size, because every size is compiled.
    """
    most = count if memory is None else max(int(memory // bytes_each), 1)
    size = math.ceil(count / math.ceil(count / most))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@partial(jax.jit, static_argnames=("spec",))
def draw(spec: ModelSpec, keys_S: Array) -> Any:
    """Fresh parameters of S members."""
    return jax.vmap(partial(init, spec))(keys_S)


def stack(trees: Sequence[Tree]) -> Tree:
    """One tree whose leaves have a leading axis of members."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


def stack_to(trees: Sequence[Tree], count: int) -> Tree:
    """``stack``, the last tree repeated until there are ``count``: shapes that need not be full."""
    return stack([*trees, *[trees[-1]] * (count - len(trees))])


def member(stacked: Tree, index: int) -> Tree:
    """One member of a stacked tree, as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), stacked)


def pad_heads(params: Any, num_heads: int) -> Any:
    """Parameters with heads of zeros behind their own."""

    def padded(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, num_heads - array.shape[-1])])

    return _over_heads(params, padded)


def cut_heads(params: Any, num_heads: int) -> Any:
    """The parameters of the first heads."""
    return _over_heads(params, lambda leaf: np.asarray(leaf)[..., :num_heads])


def _over_heads(params: Any, change: Any) -> Any:
    """The parameters with every leaf whose last axis is the heads changed."""

    def leaf_of(path: tuple[Any, ...], leaf: Any) -> Any:
        return np.asarray(leaf) if any(part.key == "hidden" for part in path) else change(leaf)

    return jax.tree_util.tree_map_with_path(leaf_of, params)


def spread(mesh: Mesh | None, members: Tree, rows: Rest) -> tuple[Tree, Rest]:
    """Members shared out over the devices of a mesh, rows on each of them."""
    if mesh is None:
        return members, rows
    return (
        jax.device_put(members, NamedSharding(mesh, PartitionSpec("sweep"))),
        jax.device_put(rows, NamedSharding(mesh, PartitionSpec())),
    )


def make_mesh(data_devices: int) -> Mesh | None:
    """The devices of this process as (sweep, data), None if there is only one.

    ``data_devices`` of them share every batch, the groups of them share the members. Raises
    ``ConfigError`` if they cannot be grouped so.
    """
    devices = jax.local_devices()
    require(
        len(devices) % data_devices == 0,
        "train.data_devices",
        f"a divisor of the number of devices ({len(devices)})",
        data_devices,
    )
    if len(devices) == 1:
        return None
    return Mesh(np.reshape(np.array(devices), (-1, data_devices)), ("sweep", "data"))
