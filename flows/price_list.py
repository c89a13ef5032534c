"""The catalogue's machines as a table of the ledger, so that a run can be asked about at other prices."""

from optimizer.catalogue.catalogue import shipped
from serving.store.ledger import ListedPrice


def listed_prices() -> list[ListedPrice]:
    """What machines cost, as the shipped catalogue has it."""
    return [
        ListedPrice(
            one.hardware, one.provider, one.gpu, one.gpus, one.spot, one.region, one.usd_per_hour, one.as_of, one.source
        )
        for one in shipped().machines()
    ]
