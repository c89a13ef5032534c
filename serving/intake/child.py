"""Admission in a process of its own: an order on stdin, JSON lines out on the descriptor named in argv.

It reads text from outside, so it is confined: what breaks it breaks nothing else. Nothing is pickled on the way.
"""

import json
import os
import sys
from functools import partial
from typing import IO

from serving.intake.confine import confine
from serving.intake.order import Order
from serving.intake.told import Found, told


def main() -> None:
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    order = Order.from_json(sys.stdin.read())
    confine(parent, len(order.files), order.decoded_bytes_at_most)
    with os.fdopen(descriptor, "w", encoding="utf-8", buffering=1) as out:
        _tell(out, told(order, partial(_admit, order, out)))


def _admit(order: Order, out: IO[str]) -> Found:
    from serving.intake.stage import admit_all  # loads all the code, under the limits

    return admit_all(order, partial(_tell, out))


def _tell(out: IO[str], found: Found) -> None:
    out.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
