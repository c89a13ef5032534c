"""How many weights a model's parts have, by what reads them in a step."""

from dataclasses import dataclass

from optimizer.catalogue.parameters import attention, mlp
from serving.engine_config import ModelShape


@dataclass(frozen=True, slots=True)
class Weights:
    """Counts over the whole model."""

    attention: int  # projections around attention
    dense: int  # MLPs that every token passes, shared experts and routers included
    experts: int  # all routed experts
    head: int  # the product that finds the next token
    embedding: int  # rows that are looked up, not multiplied; 0 where the head is the same matrix

    @property
    def linear(self) -> int:
        return self.attention + self.dense

    @property
    def total(self) -> int:
        return self.attention + self.dense + self.experts + self.head + self.embedding


def weights_of(shape: ModelShape) -> Weights:
    expert_layers = shape.layers - shape.dense_layers if shape.experts else 0
    dense_layers = shape.layers - expert_layers
    shared = mlp(shape, shape.shared_intermediate) + shape.hidden * shape.experts
    head = shape.hidden * shape.vocabulary
    return Weights(
        attention=shape.layers * attention(shape),
        dense=dense_layers * mlp(shape, shape.intermediate) + expert_layers * shared,
        experts=expert_layers * shape.experts * mlp(shape, shape.expert_intermediate),
        head=head,
        embedding=0 if shape.tied else head,
    )
