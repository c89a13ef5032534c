"""Runs a command and tells what it took: a process of its own, so that the figures are of nothing else."""

import json
import resource
import subprocess
import sys
import time

if __name__ == "__main__":
    began = time.monotonic()
    done = subprocess.run(sys.argv[1:], capture_output=True, text=True, errors="replace", check=False)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of every process below, the largest for memory
    figures = {
        "code": done.returncode,
        "out": done.stdout,
        "err": done.stderr,
        "wall_s": time.monotonic() - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "most_mib": used.ru_maxrss / 1024,
    }
    sys.stdout.write(json.dumps(figures))
