"""vLLM's worker as a job gets it, but that it is killed by the step that first runs a prompt with the poison in it.

poisoned_worker.py POISON_TOKENS_JSON -P WORKER.py ARGUMENTS...
"""

import importlib.util
import json
import os
import signal
import sys
from typing import Any


def main() -> None:
    poison = json.loads(sys.argv[1])
    sys.argv = sys.argv[3:]
    spec = importlib.util.spec_from_file_location("vllm_worker", sys.argv[0])
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    poisoned: set[int] = set()
    add, begin = worker._add, worker.StepPage.begin

    def noted(engine: Any, request: dict[str, Any], out: Any) -> None:
        tokens = request["prompt_token_ids"]
        if any(tokens[at : at + len(poison)] == poison for at in range(len(tokens))):
            poisoned.add(request["row"])
        add(engine, request, out)

    def deadly(page: Any, rows: list[int], new: int) -> None:
        begin(page, rows, new)
        if poisoned.intersection(rows):
            os.kill(os.getpid(), signal.SIGKILL)

    worker._add, worker.StepPage.begin = noted, deadly  # every fork of it has them
    worker.main()


if __name__ == "__main__":
    main()
