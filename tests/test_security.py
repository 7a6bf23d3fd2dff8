"""What the package never does: run what it reads. Its syntax trees are searched."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from micro_rm.tests.test_layering import PARTS

ROOT = Path(__file__).resolve().parent.parent
# Modules whose reading runs what a file says.
NEVER_IMPORTED = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
NEVER_CALLED = {"eval", "exec", "compile", "__import__", "execfile"}
UNSAFE_YAML = {"load", "load_all", "full_load", "unsafe_load", "unsafe_load_all", "full_load_all"}
UNPACKERS = {"extract", "extractall", "unpack_archive"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a name or an attribute, ``?.c`` of a result's, nothing of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value) or '?'}.{node.attr}"
    return ""


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def problems(tree: ast.AST) -> Iterator[str]:
    """Every place of a syntax tree that may run what was read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = {name.split(".")[0] for name in names} & NEVER_IMPORTED
            if found:
                yield f"line {node.lineno}: imports {', '.join(found)}"
        remote = isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
        if remote and not is_constant(node.value, False):
            yield f"line {node.value.lineno}: trust_remote_code that is not False"
        if isinstance(node, ast.Constant) and node.value == "trust_remote_code":
            yield f"line {node.lineno}: trust_remote_code in a mapping"
        if isinstance(node, ast.Call):
            reason = wrong_call(node)
            if reason:
                yield f"line {node.lineno}: {reason}"


def wrong_call(node: ast.Call) -> str | None:
    name = dotted(node.func)
    owner, _, last = name.rpartition(".")
    options = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in NEVER_CALLED or name in SHELLS:
        return f"calls {name}"
    if name.startswith("torch.") and last in ("load", "jit.load"):
        return f"calls {name}: safetensors only"
    if name in ("np.load", "numpy.load") and not is_constant(options.get("allow_pickle"), False):
        return "calls np.load without allow_pickle=False"
    if owner == "yaml" and last in UNSAFE_YAML:
        return f"calls {name}"
    if "shell" in options and not is_constant(options["shell"], False):
        return f"calls {name} with a shell"
    if last in UNPACKERS:
        return f"calls {name}: archives are not unpacked"
    if last in ("safe", "Markup") and node.args and isinstance(node.args[0], ast.JoinedStr):
        return f"calls {name} on a text with values in it"
    return None


def sources() -> list[Path]:
    files = [ROOT / "__init__.py", ROOT / "pipeline.py"]
    return files + sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))


def test_nothing_that_is_read_is_run() -> None:
    found = [
        f"{path.relative_to(ROOT)}, {problem}"
        for path in sources()
        for problem in problems(ast.parse(path.read_text("utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "load_dataset(name, trust_remote_code=config.trust)",
        "load_dataset(name, **{'trust_remote_code': True})",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "tarfile.open(path).extractall(place)",
        "Markup(f'<b>{name}</b>')",
    ],
)
def test_the_search_finds_what_it_is_for(line: str) -> None:
    assert list(problems(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "re.compile(pattern)",
        "model.eval()",
        "np.load(path, allow_pickle=False)",
        "load(path, trust_remote_code=False)",
        "subprocess.run(command, shell=False)",
        "yaml.parse(text)",
    ],
)
def test_the_search_leaves_the_rest_alone(line: str) -> None:
    assert not list(problems(ast.parse(line)))


def test_templates_trust_no_text() -> None:
    """Figures come in as ``Markup`` from the code; a template itself never lifts the escaping."""
    templates = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.j2"))
    assert len(templates) >= 5
    for path in templates:
        text = path.read_text("utf-8")
        for word in ("|safe", "| safe", "autoescape", "<script", "javascript:", "http:", "https:"):
            assert word not in text, f"{path}: {word}"
