"""What a GGUF file says it holds, and whether transformers makes that very model of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.models.record import one_word
from serving.models.refusal import listed, unusable

# The tensors of a decoder block, by llama.cpp's names. A file has to have them all and no other.
BLOCK = (
    "attn_norm.weight",
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "ffn_norm.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
)
BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias")
BLOCK_OF = {"llama": BLOCK, "qwen2": (*BLOCK, *BIASES)}
OUTSIDE = ("token_embd.weight", "output_norm.weight")
HEAD = "output.weight"  # absent where the head is the embedding


@dataclass(frozen=True, slots=True)
class GgufFile:
    architecture: str
    blocks: int
    vocabulary_type: str | None
    licence: str | None


def checked(file: Path) -> GgufFile:
    """Its metadata; no weight is read.

    Raises:
        BadModelFolder: not a GGUF file, of another architecture, or with something in it that would be left out.
    """
    reader = _reader(file)
    architecture = str(_value(reader, "general.architecture"))
    if architecture not in BLOCK_OF:
        known = " and ".join(BLOCK_OF)
        raise unusable(
            f"{file}: architecture {one_word(architecture)!r}; {known} are known, so give its safetensors folder"
        )
    blocks = _value(reader, f"{architecture}.block_count")
    if not isinstance(blocks, int):
        raise unusable(f"{file}: no {architecture}.block_count; get the file again")
    _refuse_scaled_positions(file, reader, architecture)
    _refuse_other_tensors(file, {str(tensor.name) for tensor in reader.tensors}, architecture, blocks)
    _refuse_unreadable_types(file, reader)
    licence, vocabulary = _value(reader, "general.license"), _value(reader, "tokenizer.ggml.pre")
    return GgufFile(architecture, blocks, vocabulary and str(vocabulary), licence and one_word(licence))


def _reader(file: Path) -> Any:
    from gguf import GGUFReader

    if not file.is_file():
        raise unusable(f"{file}: no such file; name a .gguf file")
    try:
        return GGUFReader(file)
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise unusable(f"{file}: not a sound GGUF file ({str(error)[:200]}); get it again") from None


def _value(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _refuse_scaled_positions(file: Path, reader: Any, architecture: str) -> None:
    kind = _value(reader, f"{architecture}.rope.scaling.type")
    factor = _value(reader, f"{architecture}.rope.scaling.factor") or _value(
        reader, f"{architecture}.rope.scale_linear"
    )
    if kind not in (None, "none") or factor not in (None, 1.0):
        scaling = f"rope scaling {one_word(kind or 'linear')!r}"
        raise unusable(f"{file}: has {scaling}, which does not come along; give the model's safetensors folder")


def _refuse_other_tensors(file: Path, found: set[str], architecture: str, blocks: int) -> None:
    expected = {*OUTSIDE, *_block_tensors(architecture, blocks)}
    if missing := expected - found:
        raise unusable(f"{file}: lacks {listed(list(missing))}; get the whole file (parts are joined with gguf-split)")
    if others := found - expected - {HEAD}:
        what = f"has {listed([one_word(name) for name in others])}, which a plain {architecture} has no place for"
        raise unusable(f"{file}: {what}; give the model's safetensors folder")


def _block_tensors(architecture: str, blocks: int) -> Iterator[str]:
    return (f"blk.{block}.{name}" for block in range(blocks) for name in BLOCK_OF[architecture])


def _refuse_unreadable_types(file: Path, reader: Any) -> None:
    from gguf import dequantize

    for kind, tensor in {tensor.tensor_type: tensor for tensor in reader.tensors}.items():
        try:
            dequantize(tensor.data[:1], kind)
        except NotImplementedError:
            raise unusable(f"{file}: weights of type {kind.name} cannot be read; quantize it to another type") from None
