"""A model's size as its config.json gives it, for every family that vLLM runs under plain names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.engine_config import ModelShape
from serving.models.folder import ModelFolder
from serving.models.json_file import read_object
from serving.models.refusal import unusable

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
MTP = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")


def shape_of(folder: ModelFolder) -> ModelShape:
    """Raises BadModelFolder where the config leaves out what an engine cannot do without."""
    config = read_object(folder.path / "config.json")
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, dict) else config
    hidden = _number(folder.path, config, "hidden_size", "n_embd")
    return ModelShape(
        architecture=folder.architecture,
        layers=_number(folder.path, config, "num_hidden_layers", "n_layer"),
        hidden=hidden,
        heads=folder.heads,
        kv_heads=folder.kv_heads,
        head_dim=_optional(config, "head_dim") or hidden // folder.heads,
        vocabulary=folder.vocab_size,
        max_model_len=folder.max_model_len,
        experts=_optional(config, *EXPERTS),
        mtp_layers=_optional(config, *MTP),
    )


def _optional(config: Mapping[str, Any], *names: str) -> int:
    return next((value for name in names if type(value := config.get(name)) is int and value > 0), 0)


def _number(path: Path, config: Mapping[str, Any], *names: str) -> int:
    if not (found := _optional(config, *names)):
        raise unusable(f"{path}/config.json: {names[0]} is missing or not a whole number above 0; get the file again")
    return found
