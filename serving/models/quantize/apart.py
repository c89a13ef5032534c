"""llmcompressor in an environment of its own: paths in, a folder of config and weights out.

Every release of it pins another compressed-tensors than vLLM does, so the two cannot be installed together.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from serving.environment import for_a_child
from serving.last_words import last_words
from serving.models.quantize.schemes import BadScheme, Scheme

PYTHON = Path(".venv-quantize/bin/python")
CHILD = Path(__file__).with_name("child.py")
# GPTQ goes column by column, in operations so short that waiting threads that spin cost more than the work: on two busy
# cores a layer of 576 x 1,536 takes 13.9 s with them and 1.05 s without.
PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


class QuantizationFailed(RuntimeError):
    """The child ended without a model."""


def check_environment(scheme: Scheme, python: Path) -> None:
    if not python.is_file():
        way = (
            "run `make quantize-env` (some 1.5 GB on disk), or name an interpreter that has llmcompressor with --python"
        )
        raise BadScheme(f"{scheme.name} with rows is made by llmcompressor, and {python} is not there; {way}")


def calibrate(
    source: Path,
    target: Path,
    scheme: Scheme,
    group_size: int | None,
    prompts: Sequence[tuple[int, ...]],
    python: Path,
    log: Path,
) -> None:
    """Write config and weights into the folder `target`. The token ids of `prompts` are all that the child is shown.

    Raises:
        QuantizationFailed: with the last words of the child, and where the others are.
    """
    with TemporaryDirectory(prefix="gristmill-") as scratch:
        rows = Path(scratch, "rows.json")
        rows.write_text(json.dumps(list(prompts)), encoding="utf-8")
        order = {
            "source": str(source.resolve()),
            "target": str(target.resolve()),
            "rows": str(rows),
            "preset": scheme.preset,
            "steps": scheme.calibrated_by,
            "group_size": group_size,
        }
        environment = for_a_child("OMP_NUM_THREADS") | PATIENT_THREADS
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as told:
            command = [str(python.absolute()), "-P", str(CHILD), json.dumps(order)]
            done = subprocess.run(
                command, cwd=scratch, stdin=subprocess.DEVNULL, stdout=told, stderr=told, env=environment
            )
    if done.returncode:
        raise QuantizationFailed(f"llmcompressor ended with {done.returncode}: {last_words(log)}")
