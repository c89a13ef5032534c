"""A model's size as its config.json gives it, for every family that vLLM runs under plain names."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.engine_config import ModelShape
from serving.models.folder import ModelFolder
from serving.models.json_file import read_object
from serving.models.refusal import unusable

Config = Mapping[str, Any]

KV_HEADS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num")
INTERMEDIATE = ("intermediate_size_mlp", "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k", "moe_k")
SHARED_INTERMEDIATE = ("shared_expert_intermediate_size", "shared_intermediate_size")
MTP = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "num_mtp_modules")

# Families by how their architecture begins, for what a config leaves to its class in transformers.
FALCON = ("FalconForCausalLM", "RWForCausalLM")
MULTI_QUERY = (*FALCON, "GPTBigCode")  # one KV head, unless the config says otherwise
FOURFOLD = (*FALCON, "GPT2", "GPTJ", "GPTBigCode", "Bloom")  # an MLP as wide as 4 times the model
PLAIN_MLP = (*FOURFOLD, "OPT", "GPTNeoX", "PhiForCausalLM", "Starcoder2", "NemotronForCausalLM", "Persimmon", "Apertus")
TIED = (*FALCON, "Gemma", "OPT", "GPT2", "GPTBigCode", "Bloom", "Starcoder2", "Cohere", "SmolLM3")
WHOLE_EVERY = {"Gemma2": 2, "Gemma3": 6, "Cohere2": 4, "GptOss": 2}  # of so many layers, the last sees everything


def shape_of(folder: ModelFolder) -> ModelShape:
    """Raises BadModelFolder where the config leaves out what an engine cannot do without."""
    config = read_object(folder.path / "config.json")
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, dict) else config
    hidden = _number(folder.path, config, "hidden_size", "n_embd", "n_embed", "d_model")
    whole = ModelShape(
        architecture=folder.architecture,
        layers=_number(folder.path, config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        hidden=hidden,
        heads=folder.heads,
        kv_heads=_kv_heads(folder, config),
        head_dim=_optional(config, "head_dim", "kv_channels") or hidden // folder.heads,
        vocabulary=folder.vocab_size,
        max_model_len=folder.max_model_len,
        intermediate=_optional(config, *INTERMEDIATE) or (4 * hidden if _is(folder.architecture, FOURFOLD) else 0),
        gated=not _is(folder.architecture, PLAIN_MLP) and config.get("hidden_act") != "relu2",
        tied=bool(config.get("tie_word_embeddings", _is(folder.architecture, TIED))),
        mtp_layers=_optional(config, *MTP),
    )
    return _with_window(_with_experts(_with_latent(whole, config), config), config)


def _kv_heads(folder: ModelFolder, config: Config) -> int:
    if per_layer := config.get("num_key_value_heads_per_layer"):
        return int(max(per_layer))  # vLLM makes all layers alike
    many = config.get("new_decoder_architecture") or not config.get("multi_query", True)
    if _is(folder.architecture, MULTI_QUERY) and not many:
        return 1
    return _optional(config, *KV_HEADS) or folder.kv_heads


def _with_latent(shape: ModelShape, config: Config) -> ModelShape:
    """Multi-head latent attention, where it has any."""
    if not (rank := _optional(config, "kv_lora_rank")):
        return shape
    return replace(
        shape,
        head_dim=_optional(config, "qk_nope_head_dim") or shape.head_dim,
        kv_lora_rank=rank,
        q_lora_rank=_optional(config, "q_lora_rank"),
        rope_head_dim=_optional(config, "qk_rope_head_dim"),
        value_head_dim=_optional(config, "v_head_dim"),
    )


def _with_experts(shape: ModelShape, config: Config) -> ModelShape:
    if not (experts := _optional(config, *EXPERTS)):
        return shape
    width = _optional(config, "moe_intermediate_size", "intermediate_size")
    # Llama 4 has one shared expert, as wide as the others, and does not say so.
    shared = 1 if _is(shape.architecture, ("Llama4",)) else _optional(config, "n_shared_experts", "num_shared_experts")
    return replace(
        shape,
        experts=experts,
        experts_per_token=_optional(config, *EXPERTS_PER_TOKEN),
        expert_intermediate=width,
        shared_intermediate=_optional(config, *SHARED_INTERMEDIATE) or shared * width,
        dense_layers=sum(not _is_mixed(layer, config) for layer in range(shape.layers)),
    )


def _is_mixed(layer: int, config: Config) -> bool:
    """True if that layer of a mixture has experts."""
    if types := config.get("mlp_layer_types"):
        return bool(types[layer] != "dense")
    if (mixed := config.get("moe_layers")) is not None:
        return layer in mixed
    step = _optional(config, "decoder_sparse_step", "interleave_moe_layer_step") or 1
    dense = config.get("mlp_only_layers") or ()
    return layer >= _optional(config, "first_k_dense_replace") and layer not in dense and (layer + 1) % step == 0


def _with_window(shape: ModelShape, config: Config) -> ModelShape:
    """A window as long as the model's own limit is none."""
    window = _optional(config, "sliding_window", "attention_chunk_size")
    layers = _windowed_layers(shape, config) if 0 < window < shape.max_model_len else 0
    return replace(shape, window=window, windowed_layers=layers) if layers > 0 else shape


def _windowed_layers(shape: ModelShape, config: Config) -> int:
    qwen = _is(shape.architecture, ("Qwen",))
    if not config.get("use_sliding_window", not qwen):
        return 0
    if types := config.get("layer_types"):
        return sum(kind in ("sliding_attention", "chunked_attention") for kind in types)
    if _is(shape.architecture, ("Llama4",)):  # layers without positions see everything, one of 4
        return sum(config.get("no_rope_layers") or (place % 4 != 3 for place in range(shape.layers)))
    if isinstance(pattern := config.get("sliding_window_pattern"), str):  # "LLLG"
        return sum(pattern[place % len(pattern)] == "L" for place in range(shape.layers))
    families = (every for family, every in WHOLE_EVERY.items() if _is(shape.architecture, (family,)))
    if every := _optional(config, "sliding_window_pattern") or next(families, 0):
        return shape.layers - shape.layers // every
    return shape.layers - (_optional(config, "max_window_layers") if qwen else 0)


def _is(architecture: str, families: tuple[str, ...]) -> bool:
    return architecture.startswith(families)


def _optional(config: Config, *names: str) -> int:
    return next((value for name in names if type(value := config.get(name)) is int and value > 0), 0)


def _number(path: Path, config: Config, *names: str) -> int:
    if not (found := _optional(config, *names)):
        raise unusable(f"{path}/config.json: {names[0]} is missing or not a whole number above 0; get the file again")
    return found
