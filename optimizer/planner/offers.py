"""What can be rented, and what of a machine's time is paid beside answers."""

from collections.abc import Iterable
from dataclasses import dataclass

from optimizer.catalogue.machines import PricedMachine
from optimizer.planner.job import Wish

HOUR_S = 3600.0  # by which machines are priced


@dataclass(frozen=True, slots=True)
class Overheads:
    """Assumed until runs have measured them; all of it is billed."""

    boot_s: float = 180.0  # from the order of a machine until its first program
    load_gb_s: float = 1.0  # at which one machine reads weights from storage; its engines share what was read
    engine_s: float = 90.0  # an engine's start: libraries, compilation, CUDA graphs, the look at its memory
    billed_step_s: float = 1.0
    least_billed_s: float = 60.0
    spot_loss_per_hour: float = 0.1  # how often a spot machine is taken away

    def start_s(self, weights_gb: float) -> float:
        return self.boot_s + self.engine_s + weights_gb / self.load_gb_s


USUAL = Overheads()


def cheapest(machines: Iterable[PricedMachine], wish: Wish) -> tuple[PricedMachine, ...]:
    """One for each GPU, number of them, and kind: others like it cost as much or more. By price for each GPU."""
    best: dict[tuple[str, int, bool], PricedMachine] = {}
    for machine in sorted(machines, key=lambda one: (one.usd_per_hour, one.hardware)):
        if machine.gpu is not None and (wish.spot if machine.spot else wish.on_demand):
            best.setdefault((machine.gpu, machine.gpus, machine.spot), machine)
    return tuple(sorted(best.values(), key=lambda one: (one.usd_per_hour / one.gpus, one.hardware)))
