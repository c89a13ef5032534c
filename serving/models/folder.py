"""A local model folder: what is in it, whether it is safe to load, and a fingerprint of all that shapes its answers."""

import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from serving.models.contents import LOADED, checked_files, files_in
from serving.models.hashes import sha256_of_each
from serving.models.json_file import read_object
from serving.models.record import (
    RECORD,
    Calibration,
    Fidelity,
    one_word,
    read_record,
    recorded_fidelity,
    recorded_origin,
    recorded_sizes,
    write_record,
)
from serving.models.record import Origin as Origin
from serving.models.refusal import BadModelFolder as BadModelFolder
from serving.models.refusal import unusable

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
PRECISIONS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64", "F8_E4M3": "fp8", "I8": "int8"}
MOST = 2**31 - 1  # of anything that a config counts
HEADER_LIMIT_BYTES = 100_000_000  # the safetensors library's own limit


class FolderExists(FileExistsError):
    """A model was to be written where something already is."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    path: Path
    name: str
    architecture: str
    precision: str  # of the weights: "bf16", "fp32", "w8a8", ...
    size_bytes: int  # of the files that can change an answer
    max_model_len: int
    vocab_size: int
    heads: int
    kv_heads: int
    chat_template: str | None
    special_tokens: Mapping[str, str] = field(hash=False)  # under the names that chat templates use: "bos_token", ...
    origin: Origin | None = None  # None: the folder was not made here
    fidelity: Fidelity | None = None  # None: nobody has measured it against a full model

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read and check the folder at `path`; nothing in it is executed.

        Raises:
            BadModelFolder: it is missing, incomplete, damaged, or brings code along.
        """
        try:
            return cls._read(path)
        except BadModelFolder:
            raise
        except OSError as error:
            raise unusable(f"{path}: cannot be read ({error.strerror}: {error.filename})") from None
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            said = f"{type(error).__name__}: {str(error)[:200]}"
            raise unusable(f"{path}: its files are not of the form that save_pretrained writes ({said})") from None

    @classmethod
    def _read(cls, path: Path) -> Self:
        config = _checked_config(path)
        tokenizer = read_object(path / "tokenizer_config.json") if (path / "tokenizer_config.json").exists() else {}
        heads = _number(path, config, "num_attention_heads", "n_head")
        record = read_record(path)
        return cls(
            path=path,
            name=Path(os.path.abspath(path)).name,  # not resolve(): a linked folder keeps the name it was linked as
            architecture=one_word((config.get("architectures") or ["unknown"])[0]),
            precision=_precision(path, config),
            size_bytes=sum(file.stat().st_size for file in _answer_files(path).values()),
            max_model_len=_number(path, config, "max_position_embeddings", "n_positions"),
            vocab_size=_number(path, config, "vocab_size"),
            heads=heads,
            kv_heads=_number(path, config, "num_key_value_heads") if config.get("num_key_value_heads") else heads,
            chat_template=_chat_template(path, tokenizer),
            special_tokens=_special_tokens(path, tokenizer),
            origin=recorded_origin(record),
            fidelity=recorded_fidelity(record),
        )

    @property
    def tokenizer_json(self) -> Path:
        file = self.path / "tokenizer.json"
        if not file.is_file():
            raise unusable(f"{self.path}: no tokenizer.json; save the model's fast tokenizer into the folder")
        return file

    @property
    def files(self) -> dict[str, str]:
        """Relative name -> sha256, of every file that can change an answer; gristmill.json is not believed."""
        return sha256_of_each(_answer_files(self.path))

    @property
    def fingerprint(self) -> str:
        """sha256 over the names and hashes of the files that can change an answer."""
        return fingerprint_of(self.files)


@contextmanager
def new_model_folder(target: Path, origin: Origin, calibration: Calibration | None = None) -> Iterator[Path]:
    """An empty `<target>.partial` to fill; it becomes `target`, record written last, only if the block succeeds.

    Raises:
        FolderExists: something is at `target` already.
    """
    if target.exists():
        raise FolderExists(f"{target} already exists; delete or move it first, or choose another name")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if not target.parent.exists():
        target.parent.mkdir(parents=True)
        target.parent.chmod(0o755)
    partial.mkdir()
    try:
        yield partial
        write_record(partial, _answer_files(partial), origin, calibration)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_complete(path: Path) -> bool:
    """True if `path` was made here, finished, and still has every file at its recorded size."""
    try:
        sizes = recorded_sizes(read_record(path))
    except (BadModelFolder, LookupError, TypeError, AttributeError):
        return False
    return bool(sizes) and all(_size(path / name) == size for name, size in sizes)


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _checked_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise unusable(f"model folder {path}: not there; give a local folder, or run `gristmill models prepare`")
    files = checked_files(path)
    if "config.json" not in files:
        raise unusable(f"{path}: no config.json; give a folder as Hugging Face's save_pretrained writes it")
    if not any("/" not in name and name.endswith(".safetensors") for name in files):
        raise unusable(f"{path}: no *.safetensors file; convert the weights to safetensors first")
    return read_object(path / "config.json")


def _number(path: Path, config: Mapping[str, Any], *names: str) -> int:
    found = next((config[name] for name in names if name in config), None)
    if type(found) is not int or not 1 <= found <= MOST:
        raise unusable(f"{path}/config.json: {names[0]} is {str(found)[:80]!r}; set it to the model's whole number")
    return found


def _precision(path: Path, config: Mapping[str, Any]) -> str:
    stored = _stored_dtype(path)
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict):
        return stored
    for group in (quantization.get("config_groups") or {}).values():
        return _scheme(group)
    return str(quantization.get("quant_method", stored))


def _scheme(group: Mapping[str, Any]) -> str:
    weights, activations = group.get("weights") or {}, group.get("input_activations") or {}
    if weights.get("type") == "float" and weights.get("num_bits") == 8:
        return "fp8"
    return f"w{weights.get('num_bits', 16)}a{activations.get('num_bits', 16)}"


def _stored_dtype(path: Path) -> str:
    """The dtype of most of the weights' bytes, which a config may leave out or have wrong."""
    bytes_of: Counter[str] = Counter()
    for file in path.glob("*.safetensors"):
        for dtype, begin, end in _tensors(file):
            bytes_of[dtype] += end - begin
    most = max(bytes_of, key=bytes_of.__getitem__, default="no tensors")
    return PRECISIONS.get(most, most.lower())


def _tensors(file: Path) -> list[tuple[str, int, int]]:
    """(dtype, begin, end) from a safetensors file, which is a u64 length, a JSON header and the tensors' bytes."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, HEADER_LIMIT_BYTES):
            raise unusable(f"{file}: {size} bytes that are not a safetensors file; get the file again")
        tensors = _parsed_header(file, stream.read(length))
    expected = 8 + length + max((end for _, _, end in tensors), default=0)
    if size != expected:
        raise unusable(f"{file}: {size} bytes, its header promises {expected}; get the file again")
    return tensors


def _parsed_header(file: Path, header: bytes) -> list[tuple[str, int, int]]:
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        return [(e["dtype"], int(e["data_offsets"][0]), int(e["data_offsets"][1])) for e in entries]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise unusable(f"{file}: its safetensors header is damaged ({str(error)[:80]}); get the file again") from None


def _chat_template(path: Path, tokenizer: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    inline = tokenizer.get("chat_template")
    if isinstance(inline, list):
        inline = next((entry["template"] for entry in inline if entry.get("name") == "default"), None)
    return inline if isinstance(inline, str) else None


def _special_tokens(path: Path, tokenizer: Mapping[str, Any]) -> dict[str, str]:
    file = path / "special_tokens_map.json"
    given = (read_object(file) if file.is_file() else {}) | {k: v for k, v in tokenizer.items() if v is not None}
    texts = {name: given[name] for name in SPECIAL_TOKENS if name in given}
    return {name: str(text["content"] if isinstance(text, dict) else text) for name, text in texts.items()}


def _answer_files(path: Path) -> dict[str, Path]:
    """Relative name -> file, of every file that can change an answer."""
    files = {name: file for name, file in files_in(path).items() if file.suffix.lower() in LOADED}
    files.pop(RECORD, None)
    return files


def fingerprint_of(files: Mapping[str, str]) -> str:
    """One hash for a list of names and hashes."""
    return sha256("".join(f"{name}\0{digest}\n" for name, digest in files.items()).encode()).hexdigest()
