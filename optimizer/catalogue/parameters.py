"""How many parameters a shape has, by the usual formulae of its parts. Biases and norms, under 0.5 %, are left out."""

from dataclasses import dataclass

from serving.engine_config import ModelShape


@dataclass(frozen=True, slots=True)
class Parameters:
    total: int
    active: int  # of a mixture: without the experts that a token does not pass


def parameters(shape: ModelShape) -> Parameters:
    """Without multi-token heads and without what sees pictures, which no batch of text touches."""
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    dense_layers = shape.dense_layers if shape.experts else shape.layers
    always = embeddings + shape.layers * attention(shape) + dense_layers * mlp(shape, shape.intermediate)
    if not shape.experts:
        return Parameters(always, always)
    mixed_layers = shape.layers - shape.dense_layers
    always += mixed_layers * (mlp(shape, shape.shared_intermediate) + shape.hidden * shape.experts)
    expert = mixed_layers * mlp(shape, shape.expert_intermediate)
    return Parameters(always + shape.experts * expert, always + shape.experts_per_token * expert)


def attention(shape: ModelShape) -> int:
    """Of one layer."""
    if shape.kv_lora_rank:
        return _latent_attention(shape)
    return 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)


def _latent_attention(shape: ModelShape) -> int:
    query = shape.heads * (shape.head_dim + shape.rope_head_dim)
    queries = shape.q_lora_rank * (shape.hidden + query) if shape.q_lora_rank else shape.hidden * query
    latent = shape.hidden * (shape.kv_lora_rank + shape.rope_head_dim)
    keys_and_values = shape.kv_lora_rank * shape.heads * (shape.head_dim + shape.value_head_dim)
    return queries + latent + keys_and_values + shape.heads * shape.value_head_dim * shape.hidden


def mlp(shape: ModelShape, width: int) -> int:
    """Of one layer, or of one expert of it."""
    return (3 if shape.gated else 2) * shape.hidden * width
