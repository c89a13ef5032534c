"""Which scheme goes with which rows and which sizes of group; every refusal says what would go."""

import pytest

from serving.models.quantize.schemes import SCHEMES, BadScheme, Scheme, check_rows, group_size

SMOLLM2_INPUTS = (576, 1536)  # 9 * 64 and 24 * 64
GPTQ = SCHEMES["w4a16-gptq"]


def test_the_largest_group_that_divides_every_layer_is_taken() -> None:
    assert group_size(GPTQ, SMOLLM2_INPUTS, None) == 64
    assert group_size(GPTQ, (1024, 4096), None) == 128
    assert group_size(GPTQ, (96,), None) == 32


def test_where_no_group_fits_a_whole_channel_shares_a_scale() -> None:
    assert group_size(GPTQ, (100,), None) is None


def test_zero_asks_for_a_whole_channel() -> None:
    assert group_size(GPTQ, SMOLLM2_INPUTS, 0) is None


def test_a_group_that_does_not_divide_is_refused_with_the_widths_and_the_sizes_that_fit() -> None:
    with pytest.raises(BadScheme) as refused:
        group_size(GPTQ, SMOLLM2_INPUTS, 128)
    said = "--group-size 128: the model's layers have 576, 1536 inputs; 64 and 32 fit, as does 0 for a whole channel"
    assert str(refused.value) == said


@pytest.mark.parametrize("wanted", [16, 48, -1])
def test_a_group_that_divides_but_that_vllm_does_not_run_is_refused(wanted: int) -> None:
    with pytest.raises(BadScheme, match="64 and 32 fit"):
        group_size(GPTQ, SMOLLM2_INPUTS, wanted)


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES.values() if not scheme.grouped], ids=lambda s: s.name)
def test_a_scheme_without_groups_takes_no_group_size(scheme: Scheme) -> None:
    assert group_size(scheme, (), None) is None
    with pytest.raises(BadScheme, match="one scale for each output channel"):
        group_size(scheme, (), 64)


@pytest.mark.parametrize("name", ["w4a16-gptq", "w4a16-awq"])
def test_a_scheme_that_needs_rows_says_how_to_name_them(name: str) -> None:
    check_rows(SCHEMES[name], has_rows=True)
    with pytest.raises(BadScheme, match=r"--calibrate JOB\.toml"):
        check_rows(SCHEMES[name], has_rows=False)


@pytest.mark.parametrize("name", ["w8a16", "fp8"])
def test_a_scheme_that_looks_at_no_rows_does_not_pretend_to(name: str) -> None:
    check_rows(SCHEMES[name], has_rows=False)
    with pytest.raises(BadScheme, match=r"looks at no rows; leave --calibrate out \(--measure JOB\.toml"):
        check_rows(SCHEMES[name], has_rows=True)


def test_int8_goes_both_ways() -> None:
    check_rows(SCHEMES["w8a8"], has_rows=True)
    check_rows(SCHEMES["w8a8"], has_rows=False)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_every_preset_is_one_of_compressed_tensors_and_has_the_bits_of_its_name(scheme: Scheme) -> None:
    quantization = pytest.importorskip("compressed_tensors.quantization")
    found = quantization.preset_name_to_scheme(scheme.preset, ["Linear"])

    activations = found.input_activations
    bits = (
        "fp8"
        if found.weights.type == "float"
        else f"w{found.weights.num_bits}a{activations.num_bits if activations else 16}"
    )
    assert scheme.name.startswith(bits)
