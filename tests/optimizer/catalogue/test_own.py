"""A user's own file of the catalogue: what is wrong in it is named, and what is right in it is used."""

from pathlib import Path

import pytest

from optimizer.catalogue.catalogue import Catalogue
from optimizer.catalogue.names import AmbiguousName, BadCatalogue, UnknownName
from optimizer.planner.job import Wish
from optimizer.planner.predict import predict
from optimizer.planner.search import search
from tests.optimizer.planner.jobs import SMALL

ROOT = Path(__file__).parents[3]
GPU = """
aliases = ["abacus"]
architecture = "Hopper"
capability = 9.0
memory_gib = 79.65
memory_gb_s = 3350
bf16_tflops = 989
fp8_tflops = 1979
int8_tops = 1979
fp4_tflops = 0
link_gb_s = 450
nvlink = true
source = "our datasheet"
"""
SHAPE = """
shape = { architecture = "LlamaForCausalLM", layers = 16, hidden = 2048, heads = 32, kv_heads = 8, head_dim = 64,\
 intermediate = 8192, vocabulary = 32000, max_model_len = 4096 }
"""
MODEL = f'source = "our config.json"\nparams_b = 1.0\n{SHAPE}'
MACHINE = """
[[machines]]
name = "house/abacus x1"
gpu = "Abacus"
gpus = 1
usd_per_hour = "0.10"
as_of = "2026-11-26"
source = "our contract"
"""
OWN = f'[gpus."House-80GB"]\n{GPU}\n[models."ours-1B"]\n{MODEL}\n{MACHINE}'
QUESTION = {
    "engine": "vLLM", "model": "Llama-3.1-8B", "gpu": "abacus", "metric": "output_throughput_total",
    "unit": "output_tok/s", "isl": "512", "osl": "128", "concurrency_or_batch": "64",
}  # fmt: skip


def load(folder: Path, text: str = OWN) -> Catalogue:
    file = folder / "own.toml"
    file.write_text(text, encoding="utf-8")
    return Catalogue.load(file)


WRONG = {
    "unknown table": ("[gpu.x]\n", "unknown table 'gpu'; did you mean 'gpus'?"),
    "not a table": ("gpus = 3\n", "gpus = 3: must be a table, such as [gpus]"),
    "row is no table": ("[gpus]\nx = 3\n", "[gpus] x = 3: must be a table, [gpus.'x']"),
    "not TOML": ("[gpus", "not TOML"),
    "deep": ("x = " + "[" * 5000, "not TOML"),
    "missing key": ("[gpus.x]\nsource = 'a'\n", "[gpus.'x']: architecture is missing; give it text, such as"),
    "unknown key": (f"[gpus.x]\n{GPU}\nmemory_gb = 3\n", "[gpus.'x']: unknown key 'memory_gb'; did you mean 'memory_g"),
    "no rate": (f"[gpus.x]\n{GPU}".replace("3350", "0"), "[gpus.'x'] memory_gb_s = 0: must be a number above 0"),
    "endless": (f"[gpus.x]\n{GPU}".replace("989", "inf"), "[gpus.'x'] bf16_tflops = inf: must be a number above 0"),
    "text": (f"[gpus.x]\n{GPU}".replace("989", "'fast'"), "[gpus.'x'] bf16_tflops = 'fast': must be a number above 0"),
    "truth": (f"[gpus.x]\n{GPU}".replace("nvlink = true", "nvlink = 1"), "nvlink = 1: must be true or false"),
    "aliases": (f"[gpus.x]\n{GPU}".replace('["abacus"]', '"abacus"'), "aliases = 'abacus': must be a list of names"),
    "no shape": ("[models.x]\nsource = 'a'\nparams_b = 1\n", "[models.'x']: shape is missing; give it a table"),
    "half a shape": ("[models.x]\nsource='a'\nparams_b=1\nshape={layers=2}\n", "shape: architecture is missing"),
    "heads": (f"[models.x]\n{MODEL}".replace("kv_heads = 8", "kv_heads = 5"), "kv_heads = 5: must divide heads = 32"),
    "experts": (f"[models.x]\n{MODEL}".replace("layers = 16", "layers = 16, experts = 8"), "experts_per_token = 0"),
    "no width": (f"[models.x]\n{MODEL}".replace(" intermediate = 8192,", ""), "intermediate is missing"),
    "a float price": (MACHINE.replace('"0.10"', "0.10"), "usd_per_hour = 0.1: must be an amount"),
    "free": (MACHINE.replace('"0.10"', '"0"'), "usd_per_hour = '0': must be an amount above 0 as text"),
    "no number": (MACHINE.replace('"0.10"', '"cheap"'), "usd_per_hour = 'cheap': must be an amount above 0 as text"),
    "no date": (MACHINE.replace("2026-11-26", "26 Nov"), "as_of = '26 Nov': must be a day or a year as text"),
    "no day": (MACHINE.replace("2026-11-26", "2026-13-26"), "as_of = '2026-13-26': must be a day or a year as text"),
    "no GPUs": (MACHINE.replace("gpus = 1", "gpus = 0"), "gpus = 0: goes with gpu; give both"),
    "unknown GPU": (MACHINE, "machines, row 1 ('house/abacus x1'): GPU 'Abacus' is not in the catalogue; nearest"),
    "one machine": (MACHINE.replace("[[machines]]", "[machines]"), "machines is one table; write [[machines]]"),
    "sources": ("[sources]\nus = 3\n", "[sources] us = 3: must be text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_file_row_value_and_way_out(name: str, tmp_path: Path) -> None:
    text, complaint = WRONG[name]
    with pytest.raises(BadCatalogue) as error:
        load(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'own.toml'}: ")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadCatalogue, match=r"none\.toml: cannot be read \(No such file"):
        Catalogue.load(tmp_path / "none.toml")
    with pytest.raises(BadCatalogue, match="not a file"):
        Catalogue.load(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadCatalogue, match=r"binary\.toml: not UTF-8 at byte 0"):
        Catalogue.load(tmp_path / "binary.toml")


def test_two_rows_of_a_file_by_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AmbiguousName, match=r"own\.toml: .*both go by 'abacus'"):
        load(tmp_path, f"[gpus.x]\n{GPU}\n[gpus.y]\n{GPU}")


def test_a_name_of_ours_in_another_spelling_takes_the_place_of_ours(tmp_path: Path) -> None:
    own = load(tmp_path, f'[gpus."h100 sxm 80gb"]\n{GPU}'.replace("3350", "1234"))
    for name in ("H100-SXM-80GB", "h100", "NVIDIA H100 80GB HBM3", "abacus"):
        assert (own.gpu(name).name, own.gpu(name).memory_gb_s) == ("H100-SXM-80GB", 1234)


def test_a_machine_may_call_its_gpu_by_any_of_its_names(tmp_path: Path) -> None:
    own = load(tmp_path)
    assert {machine.gpu for machine in own.machines() if machine.provider == "house"} == {"House-80GB"}


def test_a_gpu_and_its_price_that_a_user_adds_can_be_what_the_search_chooses(tmp_path: Path) -> None:
    own = load(tmp_path)
    shape = own.model("ours-1B").shape
    chosen = search(shape, SMALL, Wish(), own.machines(), own.gpu).chosen
    assert chosen is not None
    assert (chosen.plan.machine.name, chosen.plan.machine.gpu) == ("house/abacus x1", "House-80GB")
    assert chosen.prediction.cost_usd.value < 0.05


def test_a_machine_of_ours_that_a_user_prices_anew_costs_what_he_says(tmp_path: Path) -> None:
    contract = 'name = "aws/g6.xlarge"\ngpu = "L4"\ngpus = 1\nregion = "us-east-1"\nusd_per_hour = "0.01"'
    own = load(tmp_path, f'[[machines]]\n{contract}\nas_of = "2024"\nsource = "our contract"\n')
    chosen = search(own.model("Llama-3.2-1B").shape, SMALL, Wish(), own.machines(), own.gpu).chosen
    assert chosen is not None
    assert (chosen.plan.machine.name, chosen.plan.machine.source) == ("aws/g6.xlarge", "our contract")


def test_a_gpu_that_a_user_adds_is_predicted_by_its_own_rates(tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        Catalogue.load().gpu("abacus")
    assert predict(QUESTION).predicted is None
    fast, slow = (predict(QUESTION, catalogue=load(tmp_path, OWN.replace("3350", rate))) for rate in ("3350", "300"))
    assert fast.predicted is not None
    assert slow.predicted is not None
    assert fast.predicted > 1.5 * slow.predicted


def test_the_example_of_the_docs_is_right(tmp_path: Path) -> None:
    example = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    own = load(tmp_path, example)
    assert own.gpu("our h100").memory_gib == 93.1
    assert own.price_of_hardware("rack-7/h100 x2").source == "our contract"
