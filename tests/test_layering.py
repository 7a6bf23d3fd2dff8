"""The arrows between the packages, the lazy surface and the package list, enforced."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from micro_rm.heads.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
# From the ground up: a part imports those before it. embed and heads do not know each other.
PARTS = (
    *("common", "configs", "cache", "embed", "heads", "run_dir", "display", "serve", "api"),
    "commands",
)
STRANGERS = {"embed": {"heads"}, "heads": {"embed"}, "cache": {"configs"}}
MAY_IMPORT = {
    part: set(PARTS[: number + 1]) - STRANGERS.get(part, set()) for number, part in enumerate(PARTS)
}
# mrm.embed(...) calls the package: its face reaches up to the function of that name.
FACE = ("embed/__init__.py", "micro_rm.api.embedding.embed")
TORCH, JAX = {"torch", "transformers", "datasets"}, {"jax", "flax", "optax"}
NEVER = {
    "api": TORCH | JAX | {"h5py"},
    "cache": TORCH | JAX,
    "commands": TORCH | JAX | {"numpy", "h5py"},
    "common": TORCH | JAX | {"numpy", "h5py"},
    "configs": TORCH | JAX | {"numpy", "h5py"},
    "display": TORCH | {"h5py"},
    "embed": JAX | {"rich", "matplotlib"},
    "heads": TORCH | {"h5py", "rich", "jinja2", "matplotlib"},
    "run_dir": TORCH | JAX | {"h5py"},
    "serve": {"flax", "optax", "datasets", "h5py"},
}
HEAVY = TORCH | JAX | {"numpy", "h5py", "rich"}


def source_files(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    """Dotted names that a file imports; relative ones resolved to micro_rm.<part>..."""
    package = ("micro_rm", *path.relative_to(ROOT).parts[:-1])
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("part", PARTS)
def test_imports_follow_the_arrows(part: str) -> None:
    for path in source_files(part):
        for name in imported(path):
            head, _, rest = name.partition(".")
            if head == "micro_rm":
                target = rest.split(".")[0]
                allowed = target not in (*PARTS, "pipeline") or target in MAY_IMPORT[part]
                allowed |= (str(path.relative_to(ROOT)), name) == FACE
                assert allowed, f"{path} imports {name}"
            assert head not in NEVER[part], f"{path} imports {name}"
            assert head not in PARTS, f"{path} imports {name}: write micro_rm.{name}"


def module_graph() -> dict[str, set[str]]:
    """Every module of the package with those it imports: lazily, for types, or by a registry."""
    top = [ROOT / "__init__.py", ROOT / "pipeline.py"]
    paths = [*top, *(path for part in PARTS for path in source_files(part))]
    names = {path: ".".join(("micro_rm", *parts_of(path))) for path in paths}
    modules = set(names.values())
    graph = {}
    for path, name in names.items():
        found = {
            target if target in modules else target.rpartition(".")[0] for target in imported(path)
        }
        graph[name] = (found & modules) - {name}
    registry = "micro_rm.heads.methods"
    graph[registry] |= {f"{registry}.{module}" for module, _ in METHODS.values()}
    return graph


def parts_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def test_no_import_leads_back_to_where_it_came_from() -> None:
    graph = module_graph()
    assert "micro_rm.heads.training" in graph["micro_rm.heads.methods.mixture"]
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_command_line_imports_nothing_heavy_at_module_level() -> None:
    paths = [ROOT / "pipeline.py", *source_files("commands")]
    names = {name for path in paths for name in imported(path, top_level=True)}
    assert not {name.partition(".")[0] for name in names} & HEAVY
    parts = {name.split(".")[1] for name in names if name.startswith("micro_rm.")}
    assert parts <= {"api", "commands", "common", "configs", "run_dir"}


def test_every_sub_package_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    found = {"micro_rm"} | {
        ".".join(("micro_rm", *path.parent.relative_to(ROOT).parts))
        for part in PARTS
        for path in (ROOT / part).rglob("__init__.py")
    }
    assert set(listed["packages"]) == found


def loaded_modules(code: str) -> set[str]:
    """Top-level modules in memory after running some code in a fresh interpreter."""
    script = (
        f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_none_of_the_heavy_libraries() -> None:
    for command in ("['--help']", "['run', '--help']"):
        code = (
            "from micro_rm.pipeline import main\n"
            f"try:\n    main({command})\nexcept SystemExit as done:\n    assert done.code == 0"
        )
        assert not loaded_modules(code) & (TORCH | {"jax", "numpy"})


@pytest.mark.long
def test_training_loads_no_torch_and_embedding_no_jax() -> None:
    assert "torch" not in loaded_modules("import micro_rm.heads.stages")
    assert "jax" not in loaded_modules("import micro_rm.embed.stage, micro_rm.embed.recheck")


def test_reading_data_needs_no_model() -> None:
    """micro-rm check takes seconds otherwise."""
    code = "import micro_rm.display.embedding, micro_rm.embed.sources.check"
    assert not loaded_modules(code) & (TORCH | {"jax"})


def test_importing_the_package_loads_only_itself() -> None:
    assert not loaded_modules("import micro_rm") & HEAVY
