"""Runs under the interpreter that has llmcompressor, and imports nothing of ours: an order as JSON in argv."""

import ctypes
import json
import signal
import sys
from pathlib import Path
from typing import Any

KEPT = ["lm_head"]
PR_SET_PDEATHSIG = 1
PACKED_TOKENS = 1024


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it works for its parent, and ends with it
    order = json.loads(sys.argv[1])
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForCausalLM

    if not torch.accelerator.is_available():
        # AWQ pins memory for copies to an accelerator; llmcompressor 0.14 does so without one too, which torch refuses.
        IntermediatesCache.pin_memory = lambda *arguments: None
    torch.manual_seed(0)
    # float32, as GPTQ's Cholesky factors want
    model = AutoModelForCausalLM.from_pretrained(order["source"], dtype=torch.float32, local_files_only=True)
    most = min(PACKED_TOKENS, model.config.max_position_embeddings)
    batches = packed(json.loads(Path(order["rows"]).read_text(encoding="utf-8")), most)
    oneshot(
        model=model,
        dataset=_loader(batches),
        recipe=recipe(order["steps"], scheme(order["preset"], order["group_size"])),
        num_calibration_samples=len(batches),
        shuffle_calibration_samples=False,
    )
    ModelCompressor.from_pretrained_model(model).compress_model(model)
    _restore_dtype(model, order["source"])
    model.save_pretrained(order["target"], save_compressed=True)


def packed(rows: list[list[int]], most: int) -> list[list[int]]:
    """Whole rows one after another, up to `most` tokens: some ten times faster than each alone, and nothing is padding.

    A single longer row is cut.
    """
    batches: list[list[int]] = []
    for row in rows:
        if batches and len(batches[-1]) + len(row) <= most:
            batches[-1].extend(row)
        else:
            batches.append(row[:most])
    return batches


def _loader(batches: list[list[int]]) -> Any:
    import torch
    from torch.utils.data import DataLoader

    examples = [
        {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        for ids in batches
    ]
    return DataLoader(examples, batch_size=None)  # type: ignore[arg-type]


def _restore_dtype(model: Any, source: str) -> None:
    """After compression: before it, bfloat16's 8 bits would move an INT8 weight off its integer.

    With INT8 activations vLLM keeps the scales in float32; those of 4-bit weights it reads in the model's dtype.
    """
    import torch
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(source, local_files_only=True).dtype or model.dtype
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        exact = {"weight_scale"} if scheme is not None and scheme.input_activations is not None else set()
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dtype == torch.float32 and name not in exact:
                parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def scheme(preset: str, group_size: int | None) -> Any:
    from compressed_tensors.quantization import QuantizationStrategy, preset_name_to_scheme

    found = preset_name_to_scheme(preset, ["Linear"])
    weights = found.weights
    if weights.strategy == QuantizationStrategy.GROUP:
        update = (
            {"group_size": group_size} if group_size else {"group_size": None, "strategy": QuantizationStrategy.CHANNEL}
        )
        found.weights = weights.model_copy(update=update)
    return found


def recipe(steps: str, scheme: Any) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    groups = {"group_0": scheme}
    match steps:
        case "GPTQ":
            return [GPTQModifier(config_groups=groups, ignore=KEPT)]
        case "AWQ":
            return [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=KEPT)]
        case "SmoothQuant, then GPTQ":
            return [SmoothQuantModifier(smoothing_strength=0.5), GPTQModifier(config_groups=groups, ignore=KEPT)]
    raise ValueError(f"unknown steps {steps!r}")


if __name__ == "__main__":
    main()
