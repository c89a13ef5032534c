"""What a process takes from itself before it looks at text from outside: memory, time, files, the network."""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

MEMORY_BYTES = 360 * 2**20  # beside its own code: with that under 512 MiB, whatever it reads
LOADING_BYTES = 2 * 2**30  # while it loads its own code and a tokenizer
FILE_BYTES = 4 * 2**30
OPEN_FILES = 64  # beside those of the input
CPU_AT_LEAST_S, CPU_S_PER_MB = 60, 4

PR_SET_PDEATHSIG, CLONE_NEWNET = 1, 0x40000000
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_IO_THREADS", "RAYON_NUM_THREADS")
# Without a word about the user: no key, no token, no home.
PASSED_ON = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH")


def environment() -> dict[str, str]:
    """Of the process that is to be confined."""
    kept = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    # The system's allocator gives memory back, and maps no more than it uses; the others reserve in advance.
    one_by_one = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**kept, **dict.fromkeys(THREADS, "1"), **one_by_one}


def cpu_limit_s(input_bytes: int) -> int:
    return CPU_AT_LEAST_S + CPU_S_PER_MB * (input_bytes // 10**6)


def confine(parent: int, input_files: int, input_bytes: int) -> None:
    """At the start; `limit_memory` follows when all code is loaded."""
    end_with(parent)
    ctypes.CDLL(None).unshare(CLONE_NEWNET)  # where this is not permitted, nothing here opens a connection all the same
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o077)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, FILE_BYTES)
    limit(resource.RLIMIT_NOFILE, OPEN_FILES + input_files)
    limit(resource.RLIMIT_CPU, cpu_limit_s(input_bytes))
    limit(resource.RLIMIT_AS, LOADING_BYTES)


def end_with(parent: int) -> None:
    """The kernel ends this process when its parent is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def limit_memory() -> None:
    """From now on to MEMORY_BYTES more than is mapped."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY_BYTES)


def limit(what: int, most: int) -> None:
    """Of a resource.RLIMIT_*, for this process and what it starts."""
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))
