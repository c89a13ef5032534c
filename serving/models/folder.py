"""A local model folder: what is in it, whether it is safe to load, and a fingerprint of all that shapes its answers."""

import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from serving.digest import sha256_of

RECORD = "gristmill.json"
CODE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".py"})
ANSWER_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model"})
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
PRECISIONS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64", "F8_E4M3": "fp8", "I8": "int8"}
HEADER_LIMIT_BYTES = 100_000_000  # the safetensors library's own limit


class BadModelFolder(ValueError):
    """A folder that is not a complete, code-free safetensors model."""


class FolderExists(FileExistsError):
    """A model was to be written where something already is."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model came from; free of dates, so that the same build writes the same record."""

    source: str
    method: str
    licence: str


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

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read and check the folder at `path`; nothing in it is executed.

        Raises:
            BadModelFolder: it is missing, incomplete, damaged, or brings code along.
        """
        config = _checked_config(path)
        tokenizer = _read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").exists() else {}
        _refuse_auto_map(path / "tokenizer_config.json", tokenizer)
        heads = _number(path, config, "num_attention_heads", "n_head")
        return cls(
            path=path,
            name=Path(os.path.abspath(path)).name,  # not resolve(): a linked folder keeps the name it was linked as
            architecture=str((config.get("architectures") or ["unknown"])[0]),
            precision=_precision(path, config),
            size_bytes=sum(file.stat().st_size for file in _answer_files(path).values()),
            max_model_len=_number(path, config, "max_position_embeddings", "n_positions"),
            vocab_size=_number(path, config, "vocab_size"),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            chat_template=_chat_template(path, tokenizer),
            special_tokens=_special_tokens(path, tokenizer),
            origin=_origin(path),
        )

    @property
    def tokenizer_json(self) -> Path:
        file = self.path / "tokenizer.json"
        if not file.is_file():
            raise BadModelFolder(f"{self.path}: no tokenizer.json; save the model's fast tokenizer into the folder")
        return file

    def kv_bytes_per_token(self, bytes_per_number: int) -> int:
        """What one token keeps in the KV cache: a key and a value for each layer and KV head."""
        config = _read_json(self.path / "config.json")
        layers = _number(self.path, config, "num_hidden_layers", "n_layer")
        head_dim = int(config.get("head_dim") or _number(self.path, config, "hidden_size", "n_embd") // self.heads)
        return 2 * layers * self.kv_heads * head_dim * bytes_per_number

    @property
    def fingerprint(self) -> str:
        """sha256 over the names and hashes of the files that can change an answer.

        A hash recorded in gristmill.json counts while the file's size and time of change are the recorded ones;
        without a record each call reads every file.
        """
        return _fingerprint(self.path)


@contextmanager
def new_model_folder(target: Path, origin: Origin) -> Iterator[Path]:
    """An empty `<target>.partial` to fill; it becomes `target`, record written last, only if the block succeeds.

    Raises:
        FolderExists: something is at `target` already.
    """
    if target.exists():
        raise FolderExists(f"{target} already exists; delete or move it first, or choose another name")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _write_record(partial, origin)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_complete(path: Path) -> bool:
    """True if `path` was made here, finished, and still has every file at its recorded size."""
    record = _read_record(path)
    sizes = {name: entry["size_bytes"] for name, entry in record.get("files", {}).items()}
    return bool(sizes) and all(_size(path / name) == size for name, size in sizes.items())


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _checked_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise BadModelFolder(f"model folder {path}: not there; give a local folder, or run `gristmill models prepare`")
    if not (path / "config.json").is_file():
        raise BadModelFolder(f"{path}: no config.json; give a folder as Hugging Face's save_pretrained writes it")
    if not any(path.glob("*.safetensors")):
        raise BadModelFolder(f"{path}: no *.safetensors file; convert the weights to safetensors first")
    code = sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.suffix.lower() in CODE_SUFFIXES)
    if code:
        raise BadModelFolder(f"{path}: has {', '.join(code)}, which can run code when loaded; delete or move them out")
    config = _read_json(path / "config.json")
    _refuse_auto_map(path / "config.json", config)
    return config


def _refuse_auto_map(file: Path, content: Mapping[str, Any]) -> None:
    if "auto_map" in content:
        raise BadModelFolder(
            f"{file}: auto_map is {content['auto_map']!r}, which asks for the model's own code to be run; "
            "use a model of a built-in architecture, or remove the entry if the built-in class fits"
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise BadModelFolder(f"{file}: not valid JSON ({error}); get the file again") from error
    if not isinstance(content, dict):
        raise BadModelFolder(f"{file}: a JSON {type(content).__name__}, not an object; get the file again")
    return content


def _number(path: Path, config: Mapping[str, Any], *names: str) -> int:
    found = next((config[name] for name in names if name in config), None)
    if not isinstance(found, int) or found < 1:
        raise BadModelFolder(f"{path}/config.json: {names[0]} is {found!r}; set it to the model's whole number")
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
            raise BadModelFolder(f"{file}: {size} bytes that are not a safetensors file; get the file again")
        tensors = _parsed_header(file, stream.read(length))
    expected = 8 + length + max((end for _, _, end in tensors), default=0)
    if size != expected:
        raise BadModelFolder(f"{file}: {size} bytes, its header promises {expected}; get the file again")
    return tensors


def _parsed_header(file: Path, header: bytes) -> list[tuple[str, int, int]]:
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        return [(e["dtype"], int(e["data_offsets"][0]), int(e["data_offsets"][1])) for e in entries]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadModelFolder(f"{file}: its safetensors header is damaged ({error}); get the file again") from error


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
    given = (_read_json(file) if file.is_file() else {}) | {k: v for k, v in tokenizer.items() if v is not None}
    texts = {name: given[name] for name in SPECIAL_TOKENS if name in given}
    return {name: str(text["content"] if isinstance(text, dict) else text) for name, text in texts.items()}


def _answer_files(path: Path) -> dict[str, Path]:
    """Relative name -> file, of every file that can change an answer."""
    files = (file for file in path.rglob("*") if file.suffix in ANSWER_SUFFIXES and file.is_file())
    named = {file.relative_to(path).as_posix(): file for file in files}
    named.pop(RECORD, None)
    return dict(sorted(named.items()))


def _fingerprint(path: Path) -> str:
    recorded = _read_record(path).get("files", {})
    digest = sha256()
    for name, file in _answer_files(path).items():
        digest.update(f"{name}\0{_sha256(file, recorded.get(name, {}))}\n".encode())
    return digest.hexdigest()


def _sha256(file: Path, recorded: Mapping[str, Any]) -> str:
    stat = file.stat()
    if (recorded.get("size_bytes"), recorded.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns):
        return str(recorded["sha256"])
    return sha256_of(file)


def _write_record(path: Path, origin: Origin) -> None:
    files = {}
    for name, file in _answer_files(path).items():
        file.chmod(0o644)  # safetensors writes 0600, which a server under another user cannot read
        stat = file.stat()
        files[name] = {"size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256_of(file)}
    (path / RECORD).write_text(json.dumps({"origin": asdict(origin), "files": files}, indent=2) + "\n")


def _read_record(path: Path) -> dict[str, Any]:
    file = path / RECORD
    return _read_json(file) if file.is_file() else {}


def _origin(path: Path) -> Origin | None:
    origin = _read_record(path).get("origin")
    return Origin(**origin) if origin else None
