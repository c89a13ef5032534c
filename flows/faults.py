"""Which fault ends a command with which exit code. Whatever is not here is a bug, and shows its traceback."""

from flows.schedule import NoServer
from optimizer.prices import UnknownPrice
from serving.config import BadJob
from serving.engines.http import BadKey, ServerRefuses
from serving.engines.machine import CannotRun
from serving.intake.files import BadInput
from serving.models.folder import BadModelFolder, FolderExists
from serving.models.wheels import WheelMismatch
from serving.records import EngineDied
from serving.store.ledger import BadQuery
from serving.store.parts import Corrupt
from serving.store.run import RunHeld, UnknownRun

WRONG_INPUT, CORRUPT, ENGINE_FAILED = 2, 4, 5

EXIT_CODE_OF_FAULT: dict[type[BaseException], int] = {
    BadInput: WRONG_INPUT,
    BadJob: WRONG_INPUT,
    BadModelFolder: WRONG_INPUT,
    BadQuery: WRONG_INPUT,
    CannotRun: WRONG_INPUT,
    FolderExists: WRONG_INPUT,
    BadKey: WRONG_INPUT,
    RunHeld: WRONG_INPUT,
    ServerRefuses: WRONG_INPUT,
    UnknownPrice: WRONG_INPUT,
    UnknownRun: WRONG_INPUT,
    WheelMismatch: WRONG_INPUT,
    Corrupt: CORRUPT,
    EngineDied: ENGINE_FAILED,
    NoServer: ENGINE_FAILED,
    OSError: ENGINE_FAILED,
}
