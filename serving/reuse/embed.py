"""Texts into vectors. The only importer of sentence-transformers."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (rows, dim), each row of length 1, so that an inner product is a cosine


class Embedder(Protocol):
    @property
    def max_seq_length(self) -> int | None:
        """Tokens of a text that it sees; None where it sees whole texts."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors: ...

    def truncates(self, text: str) -> bool:
        """True if the embedder does not see the whole text: such texts may embed alike and differ at their ends."""
        ...


class SentenceEmbedder:
    """A local sentence-transformers folder, on the CPU: embedding is done before an engine takes the machine."""

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer
        from tokenizers import Tokenizer

        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @property
    def max_seq_length(self) -> int | None:
        limit: int | None = self._model.max_seq_length
        return limit

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = self._model.encode(list(texts), normalize_embeddings=True, batch_size=32, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def truncates(self, text: str) -> bool:
        limit = self.max_seq_length
        return limit is not None and len(self._tokenizer.encode(text).ids) > limit


class HashEmbedder:
    """The shipped double: a bag of hashed words. Deterministic, needs no model, sees whole texts."""

    max_seq_length = None

    def __init__(self, dim: int = 256) -> None:
        self._dim = dim

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split() or [""]:
                place = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")
                vectors[row, place % self._dim] += 1.0
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)

    def truncates(self, text: str) -> bool:
        return False
