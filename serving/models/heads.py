"""Heads that guess tokens ahead of a model (EAGLE, Medusa): a folder of weights without a tokenizer of its own."""

from pathlib import Path

from serving.models.contents import checked_files
from serving.models.json_file import read_object
from serving.models.refusal import unusable


def heads_in(path: Path) -> str:
    """What kind of heads a folder holds, as its config names them; nothing in it is executed.

    Raises:
        BadModelFolder: it is missing or damaged, or brings code along.
    """
    if not path.is_dir():
        raise unusable(f"heads {path}: not there; give a local folder")
    if "config.json" not in checked_files(path):
        raise unusable(f"{path}: no config.json; get the folder again")
    config = read_object(path / "config.json")
    named = [*(config.get("architectures") or []), config.get("model_type", "")]
    return " ".join(str(name)[:100] for name in named if str(name).isprintable()).strip()
