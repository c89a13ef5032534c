"""One GGUF file turned into the safetensors folder that vLLM reads.

transformers reads the config, the weights and the tokenizer out of the GGUF file; the weights equal what the gguf
package's own dequantisation gives, bit for bit. Most of the time goes into parsing the file's 100,000 metadata
strings, about 2 s each time and done for config, weights, tokenizer and its type in turn, and into tensor names.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from serving.models.quietly import quietly

Dtype = Literal["bfloat16", "float32"]

# llama.cpp's vocabulary types that cut every digit off on its own before the GPT-2 split. transformers does not know
# them and would fall back to the GPT-2 split alone, which tokenises "a  2" or "10²" otherwise than the model learned.
DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell"})


def import_gguf(gguf: bytes, target: Path, dtype: Dtype = "bfloat16") -> None:
    """Write config, weights, tokenizer and chat template of `gguf` into the folder `target`."""
    target.mkdir(parents=True, exist_ok=True)
    with quietly(), TemporaryDirectory(dir=target) as scratch:
        file = Path(scratch) / "model.gguf"
        file.write_bytes(gguf)
        model = _load_model(file, dtype)
        tokenizer = _load_tokenizer(file)
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _load_model(file: Path, dtype: Dtype) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig

    dense = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=dtype, quantization_config=dense, local_files_only=True
    )
    # the weights are plain now; with these two in place save_pretrained refuses, or marks them as quantised
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def _load_tokenizer(file: Path) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    if _vocabulary_type(file) in DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


def _vocabulary_type(file: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    return None if field is None else str(field.contents())
