"""Round to nearest: quantized without a look at any row, with compressed-tensors, in the format that vLLM runs.

For each output channel (row) w of a Linear layer's weight, INT8 is

    scale = max(|w|) / 127.5        q = clamp(round(w / scale), -128, 127)        w is read back as q * scale

so that no weight moves by more than half a scale; FP8 is the same with max(|w|) / 448 and the nearest E4M3 number.
Where activations are quantized too, vLLM does it at run time, one scale per token; nothing of that is stored.
The formulae are compressed-tensors' `calculate_qparams` for symmetric schemes (compressed_tensors/quantization/utils/
helpers.py, version 0.17).
"""

from pathlib import Path
from typing import Any

from serving.models.quantize.schemes import Scheme

KEPT = ("lm_head",)  # the one Linear that stays as it is; embeddings and norms are no Linear


def round_to_nearest(source: Path, target: Path, scheme: Scheme) -> None:
    """Write config and weights into the folder `target`."""
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from transformers import AutoModelForCausalLM

    # float32 while dividing: bfloat16's 8 bits would round w / scale to the wrong integer
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, local_files_only=True)
    _set_scales(model, scheme)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    _restore_dtype(model, source)
    model.save_pretrained(target)
    compressor.update_config(str(target))


def _set_scales(model: Any, scheme: Scheme) -> None:
    import torch
    from compressed_tensors.quantization import apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams, is_module_quantized

    apply_quantization_config(model, _config(scheme))
    for module in filter(is_module_quantized, model.modules()):
        low, high = torch.aminmax(module.weight.detach(), dim=1, keepdim=True)
        scale, _ = calculate_qparams(low, high, module.quantization_scheme.weights)
        module.weight_scale.data.copy_(scale)


def _config(scheme: Scheme) -> Any:
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        QuantizationStrategy,
        preset_name_to_scheme,
    )

    group = preset_name_to_scheme(scheme.preset, ["Linear"])
    by_channel = {"strategy": QuantizationStrategy.CHANNEL, "group_size": None}  # the preset W8A16 has groups of 128
    group.weights = group.weights.model_copy(update=by_channel)
    return QuantizationConfig(
        config_groups={"group_0": group},
        ignore=list(KEPT),
        format=scheme.format,
        quantization_status=QuantizationStatus.FROZEN,
    )


def _restore_dtype(model: Any, source: Path) -> None:
    """What was not quantized goes back to the source's dtype; scales stay float32, as vLLM keeps them."""
    import torch
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(source, local_files_only=True).dtype or model.dtype
    for name, parameter in model.named_parameters():
        wide = parameter.dtype in (torch.float32, torch.float16, torch.bfloat16)  # FP8 is a floating point dtype too
        if wide and not name.endswith("_scale"):
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
