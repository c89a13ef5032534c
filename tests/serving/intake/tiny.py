"""A model folder with all that admission looks at: a config, a tokenizer of a few words, weights of four bytes."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

CONFIG = {"max_position_embeddings": 4096, "vocab_size": 3, "num_attention_heads": 1}


def tiny_model(folder: Path) -> Path:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "hello": 1, "user": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
