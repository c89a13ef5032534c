"""Nobody outside this machine can reach a run: while it goes on, no process of it listens but on loopback."""

import ipaddress
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import LIMIT_S, Place, rows
from tests.serving.engines.openai_stub import OpenAIStub

LISTENS = "0A"  # the state of a TCP socket that waits for connections, in /proc/net/tcp
ROWS = 60


def tree(root: int) -> set[int]:
    """The process and all that it started."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
    found, grown = {root}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return found


def sockets_of(processes: set[int]) -> set[str]:
    """The inodes of the sockets that these processes hold."""
    inodes = set()
    for process in processes:
        try:
            links = [os.readlink(f"/proc/{process}/fd/{entry}") for entry in os.listdir(f"/proc/{process}/fd")]
        except OSError:
            continue  # it has ended, or closed one meanwhile
        inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    return inodes


def reachable(inodes: set[str]) -> Iterator[str]:
    """Those sockets that anyone could send to: TCP that listens, UDP that is bound to no peer."""
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path("/proc/net", kind).read_text().splitlines()[1:]:
            _, local, remote, state, *rest = line.split()
            waits = state == LISTENS if kind.startswith("tcp") else int(remote.split(":")[0], 16) == 0
            if rest[5] in inodes and waits:
                address, port = local.split(":")
                yield f"{kind} {_address(address)} {int(port, 16)}"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel writes each 32-bit word in the machine's byte order."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    return ipaddress.ip_address(b"".join(words))


def is_loopback(found: str) -> bool:
    address = ipaddress.ip_address(found.split()[1])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def watch(process: "subprocess.Popen[str]") -> tuple[set[str], int]:
    """What was reachable at any look while the process lived, and how many looks there were."""
    found, looks = set[str](), 0
    give_up = time.monotonic() + LIMIT_S
    while process.poll() is None:
        assert time.monotonic() < give_up, "it does not end"
        found |= set(reachable(sockets_of(tree(process.pid))))
        looks += 1
        time.sleep(0.03)
    return found, looks


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.job()
    found.prompts(rows(ROWS))
    return found


def test_a_run_with_the_echo_engine_listens_nowhere(place: Place) -> None:
    process = place.start("--quiet", "--set", "engine.echo_s=0.01")
    found, looks = watch(process)
    assert process.wait() == 0, process.communicate()
    process.communicate()
    assert looks >= 5
    assert found == set()


def test_a_run_over_http_listens_nowhere(place: Place) -> None:
    with OpenAIStub(takes_s=lambda asked: 0.02) as stub:
        place.job(engine=f'kind = "http"\nbase_url = "{stub.base_url}"\nconcurrency = 2')
        process = place.start("--quiet")
        found, looks = watch(process)
    assert process.wait() == 0, process.communicate()
    process.communicate()
    assert len(stub.served) == ROWS
    assert looks >= 5
    assert found == set()


@pytest.mark.parametrize(("address", "loopback"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_the_look_finds_what_a_child_listens_on(address: str, loopback: bool) -> None:
    """Else the tests above would see nothing whatever happened."""
    code = f"import socket; s = socket.create_server(('{address}', 0)); print(flush=True); input()"
    shell = ["/bin/sh", "-c", f'"$0" -c "{code}"; true', os.sys.executable]  # type: ignore[attr-defined]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = list(reachable(sockets_of(tree(process.pid))))
        process.communicate("\n")
    assert [is_loopback(one) for one in found] == [loopback]
