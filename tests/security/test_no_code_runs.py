"""Data never becomes code: not in our source, and not in a run that is watched from inside."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Place, rows

ROOT = Path(__file__).parents[2]
FOLDERS = ("flows", "optimizer", "serving", "datasets", "bench")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
TINY = ROOT / "models" / "smollm2-135m-instruct"

UNPICKLERS = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "pickletools"}
BUILT_IN = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle",
    "os.system", "os.popen", "faiss.read_index", "runpy.run_path", "runpy.run_module",
}  # fmt: skip
MUST_BE_FALSE = {"allow_pickle", "trust_remote_code", "shell", "follow_redirects", "verify", "use_unsafe"}
MAY_BE_TRUE = {"verify"}  # of which True is the safe side


def faults(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"imports {alias.name}" for alias in node.names if alias.name.split(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            yield f"imports {node.module}"
        elif isinstance(node, ast.Call):
            yield from _faults_of_call(node)


def _faults_of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    if called in BUILT_IN | CALLS:
        yield f"calls {called}"
    if called.split(".")[-1] == "import_module" and not isinstance(node.args[0], ast.Constant):
        yield "imports by a name that it computes"
    if called.split(".")[-1] == "from_pretrained" and not called.startswith("ModelCompressor"):
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if ast.unparse(given.get("local_files_only", ast.Constant(False))) != "True":
            yield f"calls {called} without local_files_only=True"
    for keyword in node.keywords:
        safe = "True" if keyword.arg in MAY_BE_TRUE else "False"
        if keyword.arg in MUST_BE_FALSE and ast.unparse(keyword.value) != safe:
            yield f"{called}({keyword.arg}={ast.unparse(keyword.value)})"
        if keyword.arg == "weights_only" and ast.unparse(keyword.value) != "True":
            yield f"{called}(weights_only={ast.unparse(keyword.value)})"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_source_file_turns_data_into_code(file: Path) -> None:
    assert list(faults(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import cloudpickle",
        "eval(text)",
        "exec(code)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
        "yaml.load(text)",
        "faiss.read_index(path)",
        "AutoModel.from_pretrained(path)",
        "AutoModel.from_pretrained(path, local_files_only=True, trust_remote_code=trusted)",
        "subprocess.run(command, shell=True)",
        "importlib.import_module(name)",
        "httpx.get(url, follow_redirects=True)",
        "httpx.get(url, verify=False)",
    ],
)
def test_the_rule_sees_what_it_is_there_for(source: str) -> None:
    assert list(faults(source)) != []


@pytest.mark.parametrize("source", ["re.compile(text)", "model.eval()", "subprocess.run(command)", "json.loads(text)"])
def test_the_rule_leaves_the_harmless_alone(source: str) -> None:
    assert list(faults(source)) == []


HOOK = """
import json, sys

root = sys.argv[1]
OURS = tuple(f"{root}/{package}/" for package in ("flows", "optimizer", "serving"))
ALWAYS = {"pickle.find_class", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "os.system",
          "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "urllib.Request"}
SOMETIMES = {"marshal.load", "marshal.loads", "exec", "compile", "subprocess.Popen"}
seen = []


def watch(event, arguments):
    if event not in ALWAYS | SOMETIMES:
        return  # sys._getframe is an event as well
    caller = sys._getframe(1).f_code.co_filename
    if event in ALWAYS:
        seen.append([event, caller])
    elif event in ("marshal.load", "marshal.loads") and not caller.startswith("<frozen "):
        seen.append([event, caller])
    elif event in ("exec", "compile") and caller.startswith(OURS):
        seen.append([event, caller])
    elif event == "subprocess.Popen":
        seen.append([event, str(arguments[0])])


sys.addaudithook(watch)
"""
WATCHED_RUN = f"""{HOOK}
from pathlib import Path
from flows.cli import main

code = main(sys.argv[3:])
Path(sys.argv[2]).write_text(json.dumps({{"code": code, "seen": seen}}))
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a whole run did that data must not be able to make it do: events of the interpreter with their origin."""
    place = Place(tmp_path_factory.mktemp("watched"))
    place.job(model=str(TINY) if TINY.exists() else "echo")
    place.prompts(rows(40))
    report = place.folder / "report.json"
    source = next(str(Path(path).parent) for path in sys.modules["flows"].__path__)
    command = [sys.executable, "-P", "-c", WATCHED_RUN, source, str(report), "run", "job.toml", "--quiet"]
    done = subprocess.run(command, cwd=place.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    assert found["code"] == 0, done.stderr
    return found


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("import pickle; pickle.loads(pickle.dumps(print))", "pickle.find_class"),
        ("import marshal; marshal.loads(marshal.dumps(1))", "marshal.loads"),
        ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", "socket.connect"),
        ("import os; os.system('true')", "os.system"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
    ],
)
def test_the_watch_sees_what_it_is_there_for(code: str, event: str) -> None:
    command = [sys.executable, "-P", "-c", f"{HOOK}\n{code}\nprint(json.dumps(seen))", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert event in [seen for seen, _ in json.loads(done.stdout)]


def test_a_run_unpickles_nothing_and_connects_to_nothing(watched: dict[str, Any]) -> None:
    """Nor does it bind, resolve a name, fork, or run source or bytecode that the import system did not load."""
    assert [event for event in watched["seen"] if event[0] != "subprocess.Popen"] == []


def test_a_run_starts_no_program_but_this_python(watched: dict[str, Any]) -> None:
    started = {program for event, program in watched["seen"] if event == "subprocess.Popen"}
    assert started <= {sys.executable, "uname"}  # uname: platform.processor() asks it for the name of the CPU


def test_prefect_is_given_no_result_to_keep() -> None:
    """Prefect keeps results as pickles by default, and a pickle that someone planted in their place would run."""
    checked = 0
    for file in (ROOT / "flows").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"flow", "task"}:
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("persist_result") == "False", f"{file.name}:{node.lineno}"
                checked += 1
            if isinstance(node, ast.FunctionDef):
                bare = {ast.unparse(decorator) for decorator in node.decorator_list}
                assert bare.isdisjoint({"flow", "task"}), f"{file.name}:{node.lineno}"
    assert checked >= 3
