"""INT8 W8A8 copies of a model, in the compressed-tensors format that vLLM runs.

Round to nearest, no calibration data. For each output channel (row) w of a Linear layer's weight:

    scale = max(|w|) / 127.5        q = clamp(round(w / scale), -128, 127)        w is read back as q * scale

so that no weight moves by more than half a scale. Activations are rounded by vLLM at run time, one scale per token
(max(|x|) / 127); nothing of that is stored.
The formula is compressed-tensors' `calculate_qparams` for symmetric INT8 (compressed_tensors/quantization/utils/
helpers.py, version 0.17); scheme and format are its preset "W8A8" and "int-quantized".
"""

import shutil
from pathlib import Path
from typing import Any

from serving.models.folder import BadModelFolder, ModelFolder, Origin, new_model_folder
from serving.models.quietly import quietly

KEPT = ("lm_head",)  # the one Linear that stays as it is; embeddings and norms are no Linear
WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json")
WRITTEN_ANEW = frozenset({"config.json", "generation_config.json", "gristmill.json"})
METHOD = "INT8 W8A8, round to nearest: weights symmetric per output channel, activations dynamic per token"


def quantize_w8a8(source: Path, target: Path) -> None:
    """Write an INT8 W8A8 copy of the model in `source` to `target`.

    Raises:
        BadModelFolder: `source` is no plain causal language model.
        FolderExists: something is at `target` already.
    """
    folder = ModelFolder.open(source)
    _refuse_unfit(folder)
    licence = folder.origin.licence if folder.origin else "that of the source"
    with new_model_folder(target, Origin(f"{folder.name}, fingerprint {folder.fingerprint}", METHOD, licence)) as new:
        with quietly():
            _write_quantized(source, new)
        _copy_tokenizer(source, new)


def _refuse_unfit(folder: ModelFolder) -> None:
    if folder.precision not in ("bf16", "fp16", "fp32"):
        raise BadModelFolder(f"{folder.path}: weights are {folder.precision} already; give the unquantised model")
    if not folder.architecture.endswith("ForCausalLM"):
        raise BadModelFolder(f"{folder.path}: a {folder.architecture}, no text generator; give a ...ForCausalLM model")


def _write_quantized(source: Path, target: Path) -> None:
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from transformers import AutoModelForCausalLM

    # float32 while dividing: bfloat16's 8 bits would round w / scale to the wrong integer
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, local_files_only=True)
    _set_scales(model)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    _restore_dtype(model, source)
    model.save_pretrained(target)
    compressor.update_config(str(target))


def _set_scales(model: Any) -> None:
    import torch
    from compressed_tensors.quantization import apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams, is_module_quantized

    apply_quantization_config(model, _scheme())
    for module in filter(is_module_quantized, model.modules()):
        low, high = torch.aminmax(module.weight.detach(), dim=1, keepdim=True)
        scale, _ = calculate_qparams(low, high, module.quantization_scheme.weights)
        module.weight_scale.data.copy_(scale)


def _scheme() -> Any:
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, preset_name_to_scheme

    group = preset_name_to_scheme("W8A8", ["Linear"])
    return QuantizationConfig(
        config_groups={"group_0": group},
        ignore=list(KEPT),
        format="int-quantized",
        quantization_status=QuantizationStatus.FROZEN,
    )


def _restore_dtype(model: Any, source: Path) -> None:
    """What was not quantised goes back to the source's dtype; scales stay float32, as vLLM keeps them."""
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(source, local_files_only=True).dtype or model.dtype
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not name.endswith("_scale"):
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def _copy_tokenizer(source: Path, target: Path) -> None:
    for file in source.iterdir():
        if file.is_file() and file.name not in WRITTEN_ANEW and not file.name.endswith(WEIGHT_SUFFIXES):
            shutil.copyfile(file, target / file.name)
