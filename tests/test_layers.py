"""Who may import whom: the arrows of the architecture, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import heliograph

ROOT = Path(heliograph.__file__).parent
HELIOS_OF_DIFFUSERS = {
    "HeliosPipeline",
    "HeliosPyramidPipeline",
    "HeliosScheduler",
    "HeliosDMDScheduler",
    "HeliosTransformer3DModel",
}

ONLY = {
    "errors": set(),
    "shapes": {"errors"},
    "config": {"errors", "shapes"},
    "flow": {"flow", "config", "shapes", "errors"},
}
"""Parts that may import nothing of ours but these."""

NEVER = {
    "memory": {"model", "sample", "rollout", "vae", "text", "engine", "serve", "train", "media"},
    "model": {"sample", "rollout", "engine", "serve", "train", "vae", "text", "media"},
    "sample": {"model", "vae", "text", "rollout", "engine", "serve", "train", "media"},
    "rollout": {"model", "vae", "text", "engine", "serve", "train", "media"},
    "media": {"model", "flow", "sample", "rollout", "engine", "serve", "train"},
    "vae": {"model", "flow", "sample", "rollout", "engine", "serve", "train"},
    "text": {"model", "flow", "sample", "rollout", "engine", "serve", "train"},
    "train": {"engine", "serve", "bench"},
    "engine": {"serve", "train", "evaluate", "bench", "cli"},
    "data": {"engine", "serve", "evaluate", "cli"},
}
"""Parts that may not import these."""

NO_TORCH = ("errors", "shapes", "config")
HEAVY = {"torch", "diffusers", "transformers", "numpy", "jaxtyping"}


def module_of(path: Path) -> str:
    """Dotted name of a file under the package."""
    parts = ("heliograph", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, str]:
    """Source of every module of the package."""
    return {module_of(path): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}


@cache
def parsed(source: str) -> ast.Module:
    """The syntax tree of a source."""
    return ast.parse(source)


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Dotted names that a module imports, wherever in its text: `from a import b` is a.b."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def imports_of(module: str) -> set[str]:
    """Dotted names that a module of the package imports."""
    path = ROOT.joinpath(*module.split(".")[1:])
    return set(imported(sources()[module], module, is_package=path.is_dir()))


def own(name: str) -> str | None:
    """The module of ours that an imported name lies in."""
    while name and name not in sources():
        name = name.rpartition(".")[0]
    return name or None


@cache
def arrows() -> dict[str, set[str]]:
    """Which modules of ours each module imports."""
    return {module: {o for name in imports_of(module) if (o := own(name))} - {module} for module in sources()}


def part(module: str) -> str:
    """The part of the package that a module belongs to: a folder, or a file of its own."""
    return [*module.split("."), ""][1]


def modules_of(name: str) -> list[str]:
    """The modules of a part; empty while there is none."""
    return [module for module in sources() if part(module) == name]


# The reader itself


def test_the_reader_sees_every_way_to_import() -> None:
    source = """
import torch
import os.path as p
from heliograph.flow import path
from . import memo
from ..memory import Tiers
def late():
    from heliograph.sample import Denoiser
"""
    assert set(imported(source, "heliograph.model.block")) == {
        *("torch", "os.path", "heliograph.flow.path", "heliograph.model.memo"),
        *("heliograph.memory.Tiers", "heliograph.sample.Denoiser"),
    }
    assert set(imported("from . import path", "heliograph.flow", is_package=True)) == {"heliograph.flow.path"}


def test_the_reader_finds_known_arrows() -> None:
    assert {"heliograph.flow.path", "heliograph.flow.schedule"} <= arrows()["heliograph.flow.solvers"]
    assert "heliograph.sample" in arrows()["heliograph.rollout"]
    assert own("heliograph.memory.History") == "heliograph.memory"
    assert own("torch.nn") is None


# Arrows


@pytest.mark.parametrize("name", ONLY)
def test_the_ground_floor_imports_nothing_above_it(name: str) -> None:
    assert modules_of(name)
    wrong = {m: bad for m in modules_of(name) if (bad := {t for t in arrows()[m] if part(t) not in ONLY[name]})}
    assert not wrong


@pytest.mark.parametrize("name", NEVER)
def test_a_part_knows_nothing_of_its_neighbours_job(name: str) -> None:
    wrong = {m: bad for m in modules_of(name) if (bad := {t for t in arrows()[m] if part(t) in NEVER[name]})}
    assert not wrong


def test_nothing_imports_the_command_line() -> None:
    wrong = {m for m, targets in arrows().items() if "heliograph.cli" in targets and part(m) != "__main__"}
    assert not wrong


def test_only_the_command_line_imports_the_server() -> None:
    wrong = {
        m
        for m, targets in arrows().items()
        if part(m) not in ("serve", "cli") and any(part(t) == "serve" for t in targets)
    }
    assert not wrong


def test_a_request_can_be_checked_without_torch() -> None:
    # In a process of its own: the package's own file runs first, and may load things only when asked for.
    names = ", ".join(f"heliograph.{name}" for name in NO_TORCH)
    code = f"import sys, {names}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stdout.split())


def test_an_engine_is_loaded_without_the_library_s_autoencoders() -> None:
    code = "import sys, heliograph.engine.engine; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "diffusers.models.modeling_utils" in loaded
    assert "diffusers.models.autoencoders" not in loaded, "half a second more than a start from text needs"


def test_the_import_graph_has_no_cycles() -> None:
    ahead = {module: set(targets) for module, targets in arrows().items()}
    while free := {module for module, targets in ahead.items() if not targets}:
        ahead = {module: targets - free for module, targets in ahead.items() if module not in free}
    assert not ahead, "modules on or above a cycle"


# Habits


def test_the_helios_classes_of_diffusers_are_only_used_to_be_measured() -> None:
    wrong = []
    for module in set(sources()) - {"heliograph.bench.theirs"}:
        names = {i for i in imports_of(module) if i.split(".")[0] == "diffusers"}
        wrong += [f"{module} imports {i}" for i in names if i.rpartition(".")[2] in HELIOS_OF_DIFFUSERS]
        wrong += [
            f"{module} reads diffusers.{node.attr}"
            for node in ast.walk(parsed(sources()[module]))
            if isinstance(node, ast.Attribute)
            and node.attr in HELIOS_OF_DIFFUSERS
            and isinstance(node.value, ast.Name)
            and node.value.id == "diffusers"
        ]
    assert not wrong


def reads_environment(source: str) -> bool:
    """Whether a source reads environment variables."""
    words = {"environ", "environb", "getenv", "getenvb"}
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Attribute) and node.attr in words:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os" and words & {a.name for a in node.names}:
            return True
    return False


def test_only_the_command_line_reads_the_environment() -> None:
    assert reads_environment("import os\nx = os.environ.get('HOME')")
    assert reads_environment("from os import getenv")
    assert not reads_environment("import os\nx = os.getpid()")
    assert not {module for module, text in sources().items() if reads_environment(text)} - {"heliograph.cli"}


def test_torchvision_is_never_imported() -> None:
    assert not {m for m in sources() if any(i.split(".")[0] == "torchvision" for i in imports_of(m))}
