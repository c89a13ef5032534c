"""A tenant's salt: the same at every run here, nobody else's, and made of no text from outside."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving.engines.cache_salt import KEY_FILE, cache_salt
from serving.engines.machine import CannotRun
from serving.environment import STATE

ROOT = Path(__file__).parents[3]
HOSTILE = ["", "a b", "../../x", "\x00", "\U0001f600", "x" * 10_000]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE, str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize("tenant", ["default", "acme", *HOSTILE], ids=lambda tenant: repr(tenant)[:20])
def test_a_salt_has_one_form_whatever_the_tenant_is_called(state: Path, tenant: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", cache_salt(tenant))


def test_a_tenant_keeps_its_salt_and_shares_it_with_nobody(state: Path) -> None:
    assert cache_salt("a") == cache_salt("a")
    assert len({cache_salt(tenant) for tenant in ["default", "a", "b", *HOSTILE]}) == 9


def test_another_installation_has_other_salts(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cache_salt("a")
    monkeypatch.setenv(STATE, str(tmp_path / "other"))
    assert cache_salt("a") != here


def test_the_key_is_random_and_its_owners_alone(state: Path) -> None:
    cache_salt("a")
    assert (state / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert len((state / KEY_FILE).read_bytes()) == 32
    assert [file.name for file in state.iterdir()] == [KEY_FILE]


def test_the_key_is_not_in_the_salt(state: Path) -> None:
    salt = cache_salt("a")
    assert (state / KEY_FILE).read_bytes().hex()[:8] not in salt


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(state: Path, mode: int) -> None:
    cache_salt("a")
    (state / KEY_FILE).chmod(mode)
    with pytest.raises(CannotRun, match=r"install\.key: others can read.*delete it"):
        cache_salt("a")


def test_a_key_cut_short_is_refused(state: Path) -> None:
    state.mkdir()
    (state / KEY_FILE).write_bytes(b"short")
    (state / KEY_FILE).chmod(0o600)
    with pytest.raises(CannotRun, match="5 bytes, a key has 32"):
        cache_salt("a")


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_a_key_that_is_no_plain_file_is_refused_and_nothing_hangs(state: Path, kind: str) -> None:
    state.mkdir()
    file = state / KEY_FILE
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/etc/hostname" if kind == "link" else "/nowhere")
    with pytest.raises(CannotRun, match="not a plain file"):
        cache_salt("a")


def test_processes_that_make_the_key_at_once_agree(state: Path) -> None:
    code = "from serving.engines.cache_salt import cache_salt; print(cache_salt('a'))"
    at_once = [
        subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(6)
    ]
    assert len({process.communicate(timeout=30)[0] for process in at_once}) == 1
