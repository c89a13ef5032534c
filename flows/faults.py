"""Which fault ends a command with which exit code. Whatever is not here is a bug, and shows its traceback."""

from flows.drift import Drift
from flows.room import NoRoom
from flows.schedule import NoServer
from optimizer.catalogue.names import BadCatalogue, UnknownName
from serving.config import BadJob
from serving.engines.http import BadKey, ServerRefuses
from serving.engines.machine import CannotRun
from serving.intake.files import BadInput
from serving.models.folder import BadModelFolder, FolderExists
from serving.models.quantize.apart import QuantizationFailed
from serving.models.quantize.schemes import BadScheme
from serving.models.wheels import WheelMismatch
from serving.records import EngineDied
from serving.store.ledger import BadQuery
from serving.store.run import RunHeld, UnknownRun
from serving.store.sealed import Corrupt
from serving.store.writer import Superseded

WRONG_INPUT, CORRUPT, FAILED, SUPERSEDED = 2, 4, 5, 6

EXIT_CODE_OF_FAULT: dict[type[BaseException], int] = {
    BadCatalogue: WRONG_INPUT,
    BadInput: WRONG_INPUT,
    BadJob: WRONG_INPUT,
    BadModelFolder: WRONG_INPUT,
    BadQuery: WRONG_INPUT,
    BadScheme: WRONG_INPUT,
    CannotRun: WRONG_INPUT,
    NoRoom: WRONG_INPUT,
    Drift: WRONG_INPUT,
    FolderExists: WRONG_INPUT,
    BadKey: WRONG_INPUT,
    RunHeld: WRONG_INPUT,
    ServerRefuses: WRONG_INPUT,
    UnknownName: WRONG_INPUT,
    UnknownRun: WRONG_INPUT,
    WheelMismatch: WRONG_INPUT,
    Corrupt: CORRUPT,
    EngineDied: FAILED,
    NoServer: FAILED,
    OSError: FAILED,
    QuantizationFailed: FAILED,
    Superseded: SUPERSEDED,
}


def exit_code_of(fault: BaseException) -> int | None:
    """None for a bug."""
    return next((code for kind, code in EXIT_CODE_OF_FAULT.items() if isinstance(fault, kind)), None)
