"""Answers that mean the same, as far as an embedder can tell."""

from collections.abc import Sequence

import numpy as np

from serving.records import Comparison
from serving.reuse.embed import Embedder


class EmbeddingJudge:
    """Two answers agree if their cosine reaches `min_similarity`.

    One that the embedder does not see whole agrees with its equal alone: what it does not see may differ.
    """

    def __init__(self, embedder: Embedder, min_similarity: float) -> None:
        self._embedder = embedder
        self._min_similarity = min_similarity

    def agree(self, comparisons: Sequence[Comparison]) -> list[bool]:
        agrees = [compared.answer == compared.reference for compared in comparisons]
        whole = self._whole([comparisons[place] for place, same in enumerate(agrees) if not same])
        places = [
            place for place, compared in enumerate(comparisons) if whole.keys() >= {compared.answer, compared.reference}
        ]
        if not places:
            return agrees
        vectors = self._embedder.embed(list(whole))
        answers, references = (
            vectors[[whole[getattr(comparisons[place], name)] for place in places]] for name in ("answer", "reference")
        )
        for place, cosine in zip(places, np.einsum("ij,ij->i", answers, references), strict=True):
            agrees[place] = agrees[place] or bool(cosine >= self._min_similarity)
        return agrees

    def _whole(self, comparisons: Sequence[Comparison]) -> dict[str, int]:
        """The different texts that the embedder sees whole, each with its place among them."""
        texts = {text for compared in comparisons for text in (compared.answer, compared.reference)}
        seen = sorted(text for text in texts if not self._embedder.truncates(text))
        return {text: place for place, text in enumerate(seen)}
