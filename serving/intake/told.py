"""What came of admission, as the process that admits tells it: JSON, in which nothing is pickled."""

import traceback
from collections.abc import Callable
from typing import Any

from serving.intake.confine import MEMORY_BYTES
from serving.intake.files import BadInput
from serving.intake.order import Order
from serving.store.durable import DiskFault

Found = dict[str, Any]


def told(order: Order, work: Callable[[], Found]) -> Found:
    """What `work` finds, or what stopped it, as it is told to the other side."""
    try:
        return work()
    except BadInput as fault:
        return {"refused": [fault.code, fault.reason]}
    except MemoryError:
        reason = f"the input needs more than the {MEMORY_BYTES >> 20} MiB that admission may use; write smaller rows"
        return {"refused": ["E_LIMIT", reason]}
    except DiskFault as fault:
        return {"disk": [fault.errno, str(fault)]}
    except OSError as fault:
        return {"failed": [fault.errno, fault.strerror, str(fault.filename or order.folder)]}
    except Exception:  # noqa: BLE001 (the other side raises it; here nobody would see it)
        return {"bug": traceback.format_exc()}
