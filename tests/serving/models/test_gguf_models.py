"""A random Llama and Qwen2 written as llama.cpp writes them come out of the import with the logits they had."""

from pathlib import Path
from typing import Any

import pytest

from serving.models.folder import BadModelFolder, FolderExists, ModelFolder
from serving.models.gguf_import import import_file, import_gguf
from tests.serving.models.tiny import CONTROL, TEMPLATE, prompts, save_model, vocabulary

gguf = pytest.importorskip("gguf")
np = pytest.importorskip("numpy")

NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def name_in_gguf(name: str) -> str:
    """Of model.layers.1.self_attn.q_proj.bias blk.1.attn_q.bias."""
    stem, _, suffix = name.removeprefix("model.").rpartition(".")
    if not stem.startswith("layers."):
        return f"{NAMES[stem]}.{suffix}"
    _, block, part = stem.split(".", 2)
    return f"blk.{block}.{NAMES[part]}.{suffix}"


def rows_as_llama_cpp(weight: Any, heads: int) -> Any:
    """Its converter turns the two halves of each head, which rotate together, into pairs of neighbours."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def gguf_weights(model: Any, kind: str) -> dict[str, Any]:
    found = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        weight = tensor.float().numpy()
        if kind == "llama" and ".q_proj" in name:
            weight = rows_as_llama_cpp(weight, model.config.num_attention_heads)
        if kind == "llama" and ".k_proj" in name:
            weight = rows_as_llama_cpp(weight, model.config.num_key_value_heads)
        found[name_in_gguf(name)] = weight
    return found


def write(
    file: Path, model: Any, kind: str, weights: dict[str, Any], types: dict[str, Any] | None = None, more: Any = None
) -> Path:
    config, types = model.config, types or {}
    writer = gguf.GGUFWriter(file, kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if kind == "llama":
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_license("cc0-1.0")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary())
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(vocabulary()) - len(CONTROL)))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    if more is not None:
        more(writer)
    for name, values in weights.items():
        writer.add_tensor(name, values, raw_dtype=types.get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def source(folder: Path, kind: str, **changes: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(save_model(folder, kind, "float32", **changes)).eval()


def imported(file: Path, target: Path) -> Any:
    from transformers import AutoModelForCausalLM

    import_gguf(file, target, "float32")
    return AutoModelForCausalLM.from_pretrained(target).eval()


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return torch.cat([model(input_ids=torch.tensor([row.token_ids])).logits[0] for row in prompts(3)])


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_logits_are_the_originals(tmp_path: Path, kind: str, tied: bool) -> None:
    """Four heads on two KV heads; Qwen2 with random biases; an unusual rotary base."""
    theta = {"rope_theta": 5000.0, "rope_type": "default"}
    model = source(tmp_path / "source", kind, tie_word_embeddings=tied, rope_parameters=theta)
    weights = gguf_weights(model, kind)
    assert ("output.weight" in weights) is not tied
    assert ("blk.0.attn_q.bias" in weights) is (kind == "qwen2")

    found = imported(write(tmp_path / "model.gguf", model, kind, weights), tmp_path / "made")

    assert found.config.tie_word_embeddings is tied
    assert np.allclose(logits(found), logits(model), atol=1e-4)


def test_a_llama_whose_rows_were_left_as_llama_cpp_has_them_would_show() -> None:
    """Else the test above could not fail where it matters."""
    weight = np.arange(32 * 3).reshape(32, 3)
    assert not (rows_as_llama_cpp(weight, 2) == weight).all()


def quantizable() -> list[Any]:
    kinds = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
    return [gguf.GGMLQuantizationType[kind] for kind in kinds]


@pytest.mark.parametrize("kind", quantizable(), ids=lambda kind: kind.name)
def test_a_quantized_file_gives_the_logits_of_its_dequantized_weights(tmp_path: Path, kind: Any) -> None:
    model = source(tmp_path / "source", "llama")
    weights = gguf_weights(model, "llama")
    matrices = [name for name in weights if name.startswith("blk.") and weights[name].ndim == 2]
    stored = weights | {name: gguf.quantize(weights[name], kind) for name in matrices}
    file = write(tmp_path / "model.gguf", model, "llama", stored, dict.fromkeys(matrices, kind))

    back = weights | {name: gguf.dequantize(stored[name], kind) for name in matrices}
    plain = write(tmp_path / "plain.gguf", model, "llama", back)

    assert np.allclose(logits(imported(file, tmp_path / "a")), logits(imported(plain, tmp_path / "b")), atol=1e-5)


def test_every_type_that_the_gguf_package_reads_comes_out_as_it_reads_it(tmp_path: Path) -> None:
    """One block for each type, of random bytes wherever those are numbers; most types have no writer to test with."""
    from safetensors.numpy import load_file

    width = 256  # the largest block of any type
    kinds = [kind for kind in gguf.GGMLQuantizationType if readable(kind, width)]
    assert len(kinds) >= 24
    model = source(tmp_path / "source", "llama", hidden_size=width, intermediate_size=32, num_hidden_layers=len(kinds))
    weights, types, expected = gguf_weights(model, "llama"), {}, {}
    for block, kind in enumerate(kinds):
        name = f"blk.{block}.ffn_gate.weight"
        weights[name], types[name] = random_rows(kind, 32, width), kind
        expected[f"model.layers.{block}.mlp.gate_proj.weight"] = gguf.dequantize(weights[name], kind)

    import_gguf(write(tmp_path / "model.gguf", model, "llama", weights, types), tmp_path / "made", "float32")

    found = load_file(tmp_path / "made" / "model.safetensors")
    assert [name for name in expected if not np.array_equal(found[name], expected[name])] == []


def readable(kind: Any, width: int) -> bool:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros((1, width // block * size), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def random_rows(kind: Any, rows: int, width: int) -> Any:
    """Rows of random bytes that are finite numbers; a row of which one is not is drawn again."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    draw, found = np.random.default_rng(0), []
    while len(found) < rows:
        row = draw.integers(0, 256, (1, width // block * size), dtype=np.uint8)
        with np.errstate(all="ignore"):
            if np.isfinite(gguf.dequantize(row, kind)).all():
                found.append(row)
    return np.concatenate(found)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("gguf")
    return folder, source(folder / "source", "llama")


def refused(plain: tuple[Path, Any], kind: str, weights: dict[str, Any], more: Any = None) -> str:
    folder, model = plain
    file = write(folder / "model.gguf", model, kind, weights, more=more)
    with pytest.raises(BadModelFolder) as error:
        import_file(file, folder / "made")
    assert not (folder / "made").exists()
    return str(error.value)


def test_another_architecture_is_refused_by_its_name_with_those_that_are_known(plain: tuple[Path, Any]) -> None:
    said = refused(plain, "gemma2", gguf_weights(plain[1], "llama"))
    assert "architecture 'gemma2'; llama and qwen2 are known" in said


def test_rotary_factors_which_would_be_left_out_are_refused(plain: tuple[Path, Any]) -> None:
    """Llama 3.1 and later; without them it answers otherwise beyond some length, and nothing would say so."""
    weights = gguf_weights(plain[1], "llama") | {"rope_freqs.weight": np.ones(8, np.float32)}
    assert "has rope_freqs.weight, which a plain llama has no place for" in refused(plain, "llama", weights)


def test_scaled_positions_which_would_be_left_out_are_refused(plain: tuple[Path, Any]) -> None:
    def scaled(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)

    assert "rope scaling 'yarn'" in refused(plain, "llama", gguf_weights(plain[1], "llama"), scaled)


def test_biases_that_a_llama_has_no_place_for_are_refused(plain: tuple[Path, Any]) -> None:
    weights = gguf_weights(plain[1], "llama") | {"blk.1.attn_q.bias": np.ones(64, np.float32)}
    assert "has blk.1.attn_q.bias" in refused(plain, "llama", weights)


def test_a_missing_tensor_is_refused_by_its_name(plain: tuple[Path, Any]) -> None:
    weights = gguf_weights(plain[1], "llama")
    del weights["blk.1.ffn_up.weight"]
    assert "lacks blk.1.ffn_up.weight" in refused(plain, "llama", weights)


def test_a_tensor_of_another_shape_is_refused(plain: tuple[Path, Any]) -> None:
    weights = gguf_weights(plain[1], "llama")
    weights["blk.1.ffn_up.weight"] = weights["blk.1.ffn_up.weight"][:64]
    said = refused(plain, "llama", weights)
    assert "model.layers.1.mlp.up_proj.weight have other shapes than its metadata says" in said


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, but long enough to look at" * 9])
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(BadModelFolder, match="not a sound GGUF file"):
        import_file(tmp_path / "model.gguf", tmp_path / "made")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModelFolder, match="no such file"):
        import_file(tmp_path / "model.gguf", tmp_path / "made")


def test_an_imported_file_is_a_model_with_a_record(plain: tuple[Path, Any], tmp_path: Path) -> None:
    model = plain[1]
    file = write(tmp_path / "tiny.gguf", model, "llama", gguf_weights(model, "llama"))
    import_file(file, tmp_path / "made")

    found = ModelFolder.open(tmp_path / "made")

    assert (found.architecture, found.precision, found.kv_heads) == ("LlamaForCausalLM", "bf16", 2)
    assert found.origin is not None
    assert found.origin.source.startswith("tiny.gguf (sha256 ")
    assert found.origin.licence == "cc0-1.0"
    with pytest.raises(FolderExists):
        import_file(file, tmp_path / "made")
