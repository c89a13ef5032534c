"""A LoRA adapter's folder, as PEFT writes it: low-rank changes to a model's weights, and nothing that can run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from serving.models.contents import checked_files
from serving.models.hashes import sha256_of_each
from serving.models.json_file import read_object
from serving.models.refusal import unusable

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM reserves room for


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    path: Path
    rank: int

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises BadModelFolder: it is missing, is no LoRA that vLLM runs, or brings code along."""
        if not path.is_dir():
            raise unusable(f"adapter {path}: not there; give the local folder that PEFT's save_pretrained wrote")
        files = checked_files(path)
        if missing := [name for name in (CONFIG, WEIGHTS) if name not in files]:
            raise unusable(f"adapter {path}: no {missing[0]}; give the folder that PEFT's save_pretrained wrote")
        config = read_object(path / CONFIG)
        if config.get("peft_type") != "LORA":
            raise unusable(f"adapter {path}: peft_type is {str(config.get('peft_type'))[:40]!r}, only LORA is run")
        for name in ("modules_to_save", "use_dora", "auto_mapping"):
            if config.get(name):
                raise unusable(f"adapter {path}: {name} is set, which vLLM does not run; train it without")
        rank = config.get("r")
        if type(rank) is not int or not 1 <= rank <= RANKS[-1]:
            raise unusable(f"adapter {path}: r is {str(rank)[:40]}; vLLM runs ranks from 1 to {RANKS[-1]}")
        return cls(path, rank)

    @property
    def files(self) -> dict[str, str]:
        """Relative name -> sha256, of every file that can change an answer."""
        return sha256_of_each({name: self.path / name for name in (CONFIG, WEIGHTS)})


def reserved_rank(folders: list[AdapterFolder]) -> int:
    """The smallest that vLLM offers and that is enough for all of them."""
    largest = max(folder.rank for folder in folders)
    return next(rank for rank in RANKS if rank >= largest)
