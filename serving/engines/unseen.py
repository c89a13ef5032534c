"""What an engine tells of its steps that shows none of them: a server's, or the double."""

from collections.abc import Mapping

from serving.records import Load, Rates, StepEvidence


class Unseen:
    @property
    def rates(self) -> Rates | None:
        return None

    @property
    def load(self) -> Load | None:
        return None

    @property
    def under_way(self) -> Mapping[int, int]:
        return {}

    @property
    def evidence(self) -> StepEvidence | None:
        return None
