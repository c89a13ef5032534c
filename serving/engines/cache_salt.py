"""A tenant's salt for a prefix cache: what one tenant's prompts left there is neither found nor timed by another's.

It is made of a key that only this installation has, never of text from outside, and has the form of 32 hex digits.
"""

import hmac
import os
import stat
from pathlib import Path

from serving.engines.machine import CannotRun
from serving.environment import own_folder

KEY_FILE = "install.key"
KEY_BYTES = 32
SALT_DIGITS = 32


def cache_salt(tenant: str) -> str:
    """The same for a tenant at every run here, another one at every other installation.

    Raises:
        CannotRun: the key is not this user's alone, or not a key.
    """
    return hmac.new(_install_key(), tenant.encode(), "sha256").hexdigest()[:SALT_DIGITS]


def _install_key() -> bytes:
    """Made once; before `settle` has said where, it lives as long as the process."""
    folder = own_folder()
    if folder is None:
        return _KEY_OF_THIS_PROCESS
    file = folder / KEY_FILE
    if not os.path.lexists(file):
        _make_key(file)
    return _read_key(file)


_KEY_OF_THIS_PROCESS = os.urandom(KEY_BYTES)


def _make_key(file: Path) -> None:
    """Written aside and linked: of two processes that make it at once, both read the first's."""
    aside = file.with_name(f".{KEY_FILE}.{os.getpid()}.writing")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, os.urandom(KEY_BYTES))
        os.fsync(descriptor)
        os.link(aside, file)
    except FileExistsError:
        pass
    finally:
        os.close(descriptor)
        aside.unlink()


def _read_key(file: Path) -> bytes:
    if not file.is_file() or file.is_symlink():
        raise CannotRun(f"{file}: not a plain file; delete it, and a new key is made")
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        seen = os.fstat(descriptor)
        if seen.st_uid != os.geteuid() or stat.S_IMODE(seen.st_mode) & 0o077:
            raise CannotRun(f"{file}: others can read or own it; delete it, and a new key is made")
        key = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != KEY_BYTES:
        raise CannotRun(f"{file}: {seen.st_size} bytes, a key has {KEY_BYTES}; delete it, and a new one is made")
    return key
