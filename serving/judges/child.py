"""The process that a judging command is run in: it takes from itself what a test of answers has no need of, and becomes
the command.

The command is the user's own. What it may come to run is not: where answers are programs, a model wrote them.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

from serving.intake.confine import CLONE_NEWNET, end_with, limit

MEMORY_BYTES = 4 * 2**30  # that can be written to; of mere addresses some programs reserve more than a machine has
FILE_BYTES = 256 * 2**20
PASSED_ON = ("PATH", "LANG")  # of the environment

PR_SET_NO_NEW_PRIVS, CLONE_NEWUSER = 38, 0x10000000


def main() -> None:
    order = json.loads(sys.argv[1])
    _leave_network()
    end_with(order["parent"])
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o077)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, FILE_BYTES)
    limit(resource.RLIMIT_DATA, MEMORY_BYTES)
    os.chdir(order["folder"])
    words = order["words"]
    try:
        os.execve(words[0], words, order["environment"])
    except OSError as error:
        sys.exit(f"{words[0]} cannot be run: {error.strerror}")


def _leave_network() -> None:
    """Where the system gives out network namespaces: to who is privileged, or to anyone within a user namespace."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None)
    if libc.unshare(CLONE_NEWNET) == 0 or libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            Path("/proc/self", name).write_text(text, encoding="ascii")
        except OSError:
            return  # it is nobody then, and can still do what its user can


if __name__ == "__main__":
    main()
