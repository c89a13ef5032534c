"""The house: imports point one way, each heavy library has one home, and no folder of ours hides a library."""

import ast
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("flows", "optimizer", "serving")
OURS = {*PACKAGES, "datasets", "tests"}
VOCABULARY = {"serving.records", "serving.engine_config", "serving.config"}
HEAVY = {"torch", "transformers", "vllm", "prefect", "duckdb", "faiss", "pyarrow", "sentence_transformers", "numpy"}
HEAVY.add("matplotlib")
# Which files may import a library, as paths below the root; a folder stands for all that is in it.
HOMES = {
    "prefect": "flows/",
    "ray": "flows/",
    "vllm": "serving/engines/vllm_worker.py",
    "faiss": "serving/reuse/",
    "sentence_transformers": "serving/reuse/",
    "duckdb": "serving/store/ledger.py",
    "matplotlib": "flows/pictures/",
}
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imported(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it, but for what only type checkers see."""
    return set(_imports(ast.parse(file.read_text(encoding="utf-8"))))


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for other in node.orelse:
            yield from _imports(other)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield node.module or ""
        # `from serving import records` imports a module as well as a name.
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif _is_import_call(node):
        yield node.args[0].value  # type: ignore[attr-defined]
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


def _is_import_call(node: ast.AST) -> bool:
    """import_module("x") and __import__("x")."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return False
    return ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}


def ours(file: Path) -> set[str]:
    return {module for module in imported(file) if module.split(".")[0] in OURS}


def among(modules: set[str], allowed: set[str]) -> bool:
    """True if each module is an allowed one, or a package that an allowed one is in, or a name of one."""
    return all(any(module == one or module.startswith(f"{one}.") for one in allowed) for module in modules)


@pytest.mark.parametrize("file", sorted((ROOT / "optimizer").rglob("*.py")), ids=name_of)
def test_the_optimizer_knows_only_the_vocabulary(file: Path) -> None:
    assert among(ours(file), {"optimizer", "serving.records", "serving.engine_config"})


@pytest.mark.parametrize("file", sorted((ROOT / "serving").rglob("*.py")), ids=name_of)
def test_serving_knows_neither_the_optimizer_nor_the_flows(file: Path) -> None:
    assert among(ours(file), {"serving"})


def test_the_vocabulary_knows_nothing_of_ours_but_itself() -> None:
    assert ours(ROOT / "serving/records.py") == set()
    assert ours(ROOT / "serving/engine_config.py") == set()
    assert among(ours(ROOT / "serving/config.py"), VOCABULARY)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_package_imports_the_datasets_or_the_tests(file: Path) -> None:
    assert not {module.split(".")[0] for module in imported(file)} & {"datasets", "tests"}


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_has_one_home(library: str) -> None:
    users = [name_of(file) for file in FILES if library in {module.split(".")[0] for module in imported(file)}]
    assert [user for user in users if not user.startswith(HOMES[library])] == []


@pytest.mark.parametrize("library", sorted(HOMES.keys() - {"ray"}))
def test_a_home_is_lived_in(library: str) -> None:
    """Else a renamed file would leave the test above with nothing to look at."""
    assert any(library in {module.split(".")[0] for module in imported(file)} for file in FILES)


def test_datasets_is_a_folder_not_a_package() -> None:
    """A regular package here would hide Hugging Face `datasets` from the libraries that import it."""
    assert (ROOT / "datasets").is_dir()
    assert not list((ROOT / "datasets").rglob("__init__.py"))


def test_the_three_packages_alone_are_installed() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert sorted(pattern.rstrip("*") for pattern in built["packages"]["find"]["include"]) == sorted(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_a_package_is_a_package(package: str) -> None:
    """setuptools' find passes over a folder without __init__.py, and an installed gristmill would lack it."""
    folders = {file.parent for file in (ROOT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def python(code: str) -> str:
    """What an installed process says, started at the root as `make` does."""
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_an_installed_process_does_not_see_our_datasets_folder() -> None:
    assert str(ROOT / "datasets") not in python("from importlib.util import find_spec; print(find_spec('datasets'))")


def test_an_installed_process_sees_our_packages() -> None:
    assert python("import flows, optimizer, serving; print('seen')") == "seen\n"


def test_the_command_line_loads_nothing_heavy() -> None:
    loaded = python("import sys, flows.cli; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert set(loaded) & HEAVY == set()


def test_help_answers_in_under_half_a_second_of_cpu_time() -> None:
    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([Path(sys.executable).parent / "gristmill", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # The first may have to compile; a machine that is busy with others makes some slower, none faster.
    assert min(cpu_s() for _ in range(3)) < 0.5
