"""A quantized copy of a model folder: checked first, made by whichever way its scheme takes, whole or not there."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.models.folder import BadModelFolder, ModelFolder, Origin, new_model_folder
from serving.models.quantize.apart import PYTHON, calibrate, check_environment
from serving.models.quantize.round_to_nearest import KEPT, round_to_nearest
from serving.models.quantize.schemes import Scheme, check_rows, group_size
from serving.models.quietly import quietly
from serving.models.record import RECORD, Calibration

WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json")
WRITTEN_ANEW = frozenset({"config.json", "generation_config.json", RECORD})


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """What a calibrated scheme looks at, and where that came from."""

    prompts: tuple[tuple[int, ...], ...]  # token ids
    record: Calibration


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is to be quantized, found fit for it."""

    source: ModelFolder
    scheme: Scheme
    group_size: int | None  # None: one scale for each output channel
    calibrated: bool
    python: Path
    widest: int = 0  # inputs of the widest layer, where the scheme has to know them

    @property
    def method(self) -> str:
        per_group = f" by groups of {self.group_size}" if self.group_size else " by output channel"
        how = self.scheme.calibrated_by if self.calibrated else "round to nearest"
        return f"{self.scheme.name}: {self.scheme.stores}{per_group if self.scheme.grouped else ''}; {how}"


def fit(
    source: ModelFolder, scheme: Scheme, calibrated: bool, wanted_group: int | None, python: Path = PYTHON
) -> Recipe:
    """Everything that can be wrong before work begins.

    Raises:
        BadModelFolder: `source` is no plain causal language model.
        BadScheme: the scheme does not go with the model, or with having (no) rows.
    """
    _refuse_unfit(source)
    check_rows(scheme, calibrated)
    if calibrated:
        check_environment(scheme, python)
    widths = input_widths(source.path) if scheme.grouped or calibrated else set()
    size = group_size(scheme, widths, wanted_group)
    return Recipe(source, scheme, size, calibrated, python, max(widths, default=0))


def quantize(recipe: Recipe, target: Path, rows: CalibrationRows | None = None, log: Path | None = None) -> None:
    """Write the copy to `target`.

    Raises:
        FolderExists: something is at `target` already.
        QuantizationFailed: the process that calibrates ended without a model.
    """
    source = recipe.source
    licence = source.origin.licence if source.origin else "that of the source"
    origin = Origin(f"{source.name}, fingerprint {source.fingerprint}", recipe.method, licence)
    with new_model_folder(target, origin, None if rows is None else rows.record) as new:
        if rows is None:
            with quietly():
                round_to_nearest(source.path, new, recipe.scheme)
        else:
            log = log or target.with_name(f"{target.name}.log")
            calibrate(source.path, new, recipe.scheme, recipe.group_size, rows.prompts, recipe.python, log)
        _copy_tokenizer(source.path, new)


def _refuse_unfit(folder: ModelFolder) -> None:
    if folder.precision not in ("bf16", "fp16", "fp32"):
        raise BadModelFolder(f"{folder.path}: weights are {folder.precision} already; give the unquantized model")
    if not folder.architecture.endswith("ForCausalLM"):
        raise BadModelFolder(f"{folder.path}: a {folder.architecture}, no text generator; give a ...ForCausalLM model")


def input_widths(source: Path) -> set[int]:
    """Of the layers that a scheme quantizes; no weight is read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with quietly(), torch.device("meta"):
        config: Any = AutoConfig.from_pretrained(source, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return {module.in_features for name, module in layers if name not in KEPT}


def _copy_tokenizer(source: Path, target: Path) -> None:
    for file in source.iterdir():
        if file.is_file() and file.name not in WRITTEN_ANEW and not file.name.endswith(WEIGHT_SUFFIXES):
            shutil.copyfile(file, target / file.name)
