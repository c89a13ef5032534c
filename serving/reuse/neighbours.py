"""Which vectors lie near each other, exactly. The only importer of faiss."""

import numpy as np

from serving.reuse.embed import Vectors

BLOCK_ROWS = 1024  # faiss multiplies matrices only from some 334 queries at once; below, a query costs ten times more


def near_pairs(vectors: Vectors, groups: list[str], min_similarity: float) -> list[tuple[int, int, float]]:
    """Every pair (i, j, cosine), i < j, of one group and at least `min_similarity`. Exact: a flat index, no training.

    `vectors` is (rows, dim) float32 of unit length; `groups` names the group of each row, and no pair crosses two.
    """
    import faiss

    by_group: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        by_group.setdefault(group, []).append(row)
    found: list[tuple[int, int, float]] = []
    for rows in by_group.values():
        if len(rows) < 2:
            continue
        members = np.ascontiguousarray(vectors[rows])
        index = faiss.IndexFlatIP(members.shape[1])
        index.add(members)
        for start in range(0, len(rows), BLOCK_ROWS):
            # range_search keeps what is strictly above its radius; a hair lower makes the threshold itself count.
            limits, similarity, place = index.range_search(members[start : start + BLOCK_ROWS], min_similarity - 1e-6)
            for query in range(len(limits) - 1):
                left = rows[start + query]
                for hit in range(limits[query], limits[query + 1]):
                    if left < rows[place[hit]]:
                        found.append((left, rows[place[hit]], float(min(1.0, similarity[hit]))))
    return sorted(found)
