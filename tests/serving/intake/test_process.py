"""Admission in a child: what it may do, how it ends, and what its parent makes of that."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from serving.intake import confine
from serving.intake.admit import Admission, Admitted, Form
from serving.intake.files import BadInput, open_inputs
from serving.intake.judging import columns_of
from serving.intake.order import ModelText, Order
from serving.intake.process import AskedToStop, admit_apart
from serving.intake.render import PlainRenderer
from serving.intake.template import Template
from serving.records import Sampling
from serving.store.durable import DiskFault
from serving.store.parts import read_manifest
from serving.store.schemas import REFUSED, REQUESTS, requests_from
from tests.serving.intake.reading import NoIds, opened
from tests.serving.intake.tiny import tiny_model

MakeOrder = Callable[..., Order]


@pytest.fixture
def order(tmp_path: Path) -> MakeOrder:
    """An order to admit these lines."""

    def make(*lines: str | bytes, model: ModelText | None = None, stop: bool = False, **form: Any) -> Order:
        content = b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
        (tmp_path / "in.jsonl").write_bytes(content)
        files = open_inputs("in.jsonl", tmp_path)
        return Order(files, tmp_path / "admitted", Form(Sampling(), "scope", **form), model, stop)

    return make


def admitted(order: Order) -> int:
    return admit_apart(order, lambda: False, lambda rows: None)


def test_rows_are_admitted_and_refused_into_the_stages_parts(order: MakeOrder, tmp_path: Path) -> None:
    assert admitted(order('{"id": "a", "prompt": "x"}', "{", '{"id": "b", "prompt": "y"}')) == 3
    manifest = read_manifest(tmp_path / "admitted" / "admit.json")
    assert manifest is not None
    assert manifest.figures == {"rows": 3}
    assert manifest.read("requests", REQUESTS)["custom_id"].to_pylist() == ["a", "b"]
    assert manifest.read("refusals", REFUSED)["code"].to_pylist() == ["E_JSON"]


def test_an_order_arrives_as_it_was_sent(order: MakeOrder, tmp_path: Path) -> None:
    model = ModelText(tmp_path / "tokenizer.json", "{{ x }}", {"bos_token": "<s>"})
    form = {"prompt": Template("{{a}}"), "system": Template("s", False), "id_column": "a", "max_model_len": 9}
    sent = order("{}", model=model, stop=True, **form)
    assert Order.from_json(sent.to_json()) == sent


def test_a_request_comes_back_from_the_columns_that_are_made_of_it(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "a", "prompt": "é", "stop": ["x"], "temperature": 0.5}\n')
    [row] = Admission(Form(Sampling(), "scope"), PlainRenderer(), NoIds()).read(opened(tmp_path / "in.jsonl"))
    assert isinstance(row, Admitted)
    table = pa.Table.from_pylist([columns_of(row)], REQUESTS)
    assert list(requests_from(table)) == [row.request]
    compared = ("key", "frame", "text", "file", "line")
    assert [table[name].to_pylist() for name in compared] == [[getattr(row, name)] for name in compared]


def test_a_model_renders_in_the_child(order: MakeOrder, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    text = "{% for m in messages %}{{ m.role }} {{ m.content }}{% endfor %}"
    admitted(order('{"id": "a", "prompt": "hello"}', model=ModelText(folder / "tokenizer.json", text, {})))
    manifest = read_manifest(tmp_path / "admitted" / "admit.json")
    assert manifest is not None
    assert manifest.read("requests", REQUESTS)["prompt_token_ids"].to_pylist() == [[2, 1]]


def test_with_stop_the_first_bad_row_refuses_the_job_by_its_code_and_place(order: MakeOrder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^E_NUMBER .*in\.jsonl:2: NaN is not .*on_bad_row") as refused:
        admitted(order('{"id": "a", "prompt": "x"}', '{"n": NaN}', "{", stop=True))
    assert refused.value.code == "E_NUMBER"
    assert not (tmp_path / "admitted" / "admit.json").exists()


def test_an_input_without_a_row_is_refused(order: MakeOrder) -> None:
    with pytest.raises(BadInput, match=r"^E_EMPTY .*in\.jsonl: no rows"):
        admitted(order("", "  "))


def test_twins_are_refused_before_a_manifest_is_written(order: MakeOrder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^E_DUPID id 'a' stands twice, at .*in\.jsonl:1 and .*in\.jsonl:2"):
        admitted(order('{"id": "a", "prompt": "x"}', '{"id": "a", "prompt": "y"}'))
    assert not (tmp_path / "admitted" / "admit.json").exists()


def many(count: int) -> list[str]:
    return [json.dumps({"id": str(number), "prompt": "x"}) for number in range(count)]


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_a_stop_ends_the_child_at_once(order: MakeOrder) -> None:
    long = order(*many(200_000))
    began_s = time.monotonic()
    with pytest.raises(AskedToStop):
        admit_apart(long, lambda: time.monotonic() - began_s > 0.5, lambda rows: None)
    assert children() == []


@pytest.mark.parametrize(("number", "said"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
def test_a_child_that_is_killed_is_a_refusal_that_says_by_what(
    order: MakeOrder, number: signal.Signals, said: str
) -> None:
    long = order(*many(200_000))

    def kill() -> bool:
        for child in children():
            os.kill(child, number)
        return False

    with pytest.raises(BadInput, match=f"E_LIMIT .*by {said}; it is damaged, or needs more than"):
        admit_apart(long, kill, lambda rows: None)


def test_a_line_of_very_many_values_is_a_row_or_a_refusal_and_the_next_is_read(order: MakeOrder) -> None:
    """8 MiB of the smallest objects there are come to some 300 MB: it depends on the Python whether that fits."""
    line = b'{"id": "a", "prompt": "x", "a": [' + b'{"":0},' * 1_100_000 + b"{}]}"
    assert admitted(order(line, '{"id": "b", "prompt": "y"}')) == 2


def test_a_disk_that_is_full_is_a_fault_of_the_disk_not_of_the_input(order: MakeOrder, tmp_path: Path) -> None:
    (tmp_path / "admitted").write_text("a file where the folder must be")
    with pytest.raises(OSError, match="admitted") as failed:
        admitted(order('{"id": "a", "prompt": "x"}'))
    assert failed.value.errno


def test_a_failed_disk_comes_over_with_its_number_and_its_words() -> None:
    from serving.intake.process import _raise

    with pytest.raises(DiskFault, match="no room") as failed:
        _raise({"disk": [28, "/runs/x: no room"]})
    assert failed.value.errno == 28


def in_a_confined_process(code: str) -> str:
    """What the code prints in a process that has confined itself."""
    program = (
        f"import os; from serving.intake import confine; confine.confine({os.getpid()}, 1, 1000); "
        f"confine.limit_memory(); {code}"
    )
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, env=confine.environment(), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_no_secret_reaches_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN", "DATABASE_URL", "HOME"):
        monkeypatch.setenv(name, "canary")
    assert "canary" not in in_a_confined_process("print(dict(os.environ))")


def test_the_child_has_a_limit_of_everything() -> None:
    names = ("AS", "CORE", "CPU", "FSIZE", "NOFILE")
    told = in_a_confined_process(
        f"import resource as r; print(*(r.getrlimit(getattr(r, 'RLIMIT_' + n))[0] for n in {names}))"
    )
    memory, core, cpu_s, file_bytes, files = map(int, told.split())
    assert memory < 2**30
    assert (core, cpu_s, file_bytes, files) == (0, confine.CPU_AT_LEAST_S, confine.FILE_BYTES, confine.OPEN_FILES + 1)


def test_what_the_child_writes_is_its_owners_alone(tmp_path: Path) -> None:
    in_a_confined_process(f"open({str(tmp_path / 'x')!r}, 'w').close()")
    assert (tmp_path / "x").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own needs privileges")
def test_the_child_has_no_network() -> None:
    found = in_a_confined_process("print(open('/proc/net/dev').read())")
    assert [line.split(":")[0].strip() for line in found.splitlines()[2:]] == ["lo"]


def test_the_child_dies_with_its_parent(order: MakeOrder, tmp_path: Path) -> None:
    long = order(*many(200_000))
    (tmp_path / "order.json").write_text(long.to_json())
    program = (
        "import sys; from pathlib import Path; from serving.intake.files import InputFile, open_inputs; "
        "from serving.intake.order import Order; from serving.intake.process import admit_apart; "
        f"order = Order.from_json(Path({str(tmp_path / 'order.json')!r}).read_text()); "
        f"order = Order(open_inputs('in.jsonl', Path({str(tmp_path)!r})), order.folder, order.form, None, False); "
        "admit_apart(order, lambda: print(flush=True), lambda rows: None)"
    )
    parent = subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()  # by now it waits for its child
    [child] = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    give_up_s = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < give_up_s:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists()


def test_a_bug_in_the_child_shows_in_the_parent() -> None:
    from serving.intake.process import _raise

    with pytest.raises(RuntimeError, match="admission failed:\nTraceback"):
        _raise({"bug": "Traceback ..."})
