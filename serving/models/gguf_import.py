"""One GGUF file turned into the safetensors folder that vLLM reads.

transformers reads the config, the weights and the tokenizer out of the GGUF file; the weights equal what the gguf
package's own dequantisation gives, bit for bit, with llama.cpp's order of rows in the query and key weights of a Llama
undone. What transformers would leave out without a word is refused here before it starts. Most of the time goes into
parsing the file's 100,000 metadata strings, about 2 s each time and done for config, weights, tokenizer and its type in
turn, and into tensor names.
"""

from pathlib import Path
from typing import Any, Literal

from serving.digest import sha256_of
from serving.models.folder import Origin, new_model_folder
from serving.models.gguf_file import GgufFile, checked
from serving.models.quietly import quietly
from serving.models.record import one_word
from serving.models.refusal import listed, unusable

Dtype = Literal["bfloat16", "float32"]

# llama.cpp's vocabulary types that cut every digit off on its own before the GPT-2 split. transformers does not know
# them and would fall back to the GPT-2 split alone, which tokenises "a  2" or "10²" otherwise than the model learned.
DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell"})


def import_file(file: Path, target: Path) -> None:
    """A user's own file, as a model folder with its record.

    Raises:
        BadModelFolder: not a GGUF file, or one whose model would not come out whole.
        FolderExists: something is at `target` already.
    """
    gguf = checked(file)
    origin = Origin(f"{file.name} (sha256 {sha256_of(file)})", "GGUF to bfloat16", gguf.licence or "not stated")
    with new_model_folder(target, origin) as new:
        _import(file, gguf, new, "bfloat16")


def import_gguf(file: Path, target: Path, dtype: Dtype = "bfloat16") -> None:
    """Write config, weights, tokenizer and chat template into the folder `target`.

    Raises:
        BadModelFolder: not a GGUF file, or one whose model would not come out whole.
    """
    _import(file, checked(file), target, dtype)


def _import(file: Path, gguf: GgufFile, target: Path, dtype: Dtype) -> None:
    with quietly():
        try:
            model = _load_model(file, dtype)
            tokenizer = _load_tokenizer(file, gguf)
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            raise unusable(f"{file}: its parts do not fit together ({one_word(error)}); get it again") from None
        _refuse_other_shapes(file, model)
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _load_model(file: Path, dtype: Dtype) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig

    dense = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.absolute().parent, gguf_file=file.name, dtype=dtype, quantization_config=dense, local_files_only=True
    )
    # the weights are plain now; with these two in place save_pretrained refuses, or marks them as quantised
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def _refuse_other_shapes(file: Path, model: Any) -> None:
    """transformers puts a tensor of any shape in its place."""
    import torch

    with torch.device("meta"):
        expected = type(model)(model.config).state_dict()
    found = model.state_dict()
    if others := [name for name, tensor in expected.items() if found[name].shape != tensor.shape]:
        raise unusable(f"{file}: {listed(others)} have other shapes than its metadata says; get it again")


def _load_tokenizer(file: Path, gguf: GgufFile) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.absolute().parent, gguf_file=file.name, local_files_only=True)
    if gguf.vocabulary_type in DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer
