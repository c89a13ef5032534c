"""The parts of the vllm engine that need no vLLM: its arguments, its environment, its arithmetic."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from serving.engine_config import EngineConfig, PagedCache, Parallelism
from serving.engines import fork_server
from serving.engines.gpus import Gpu
from serving.engines.machine import GIB, Machine, settled
from serving.engines.vllm_arguments import vllm_arguments
from serving.engines.vllm_engine import VllmEngine, parts_of, rates_from_steps
from serving.engines.vllm_environment import child_environment
from serving.environment import STATE
from serving.records import Endpoint, Message, Rates, Request, Sampling

CPU = Machine("a CPU", (0, 1, 2, 3), frozenset(), 16 * GIB, 8 * GIB, ())
GPU = replace(CPU, gpus=(Gpu("a GPU", 24 * GIB, 8.9),))
CONFIG = settled(EngineConfig(), CPU)
MODEL = Path("models/tiny")


def test_arguments_on_a_cpu() -> None:
    assert vllm_arguments(MODEL, CONFIG) == {
        "model": "models/tiny",
        "dtype": "float32",
        "block_size": 32,
        "kv_cache_dtype": "auto",
        "enable_prefix_caching": True,
        "prefix_caching_hash_algo": "sha256",
        "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
        "tensor_parallel_size": 1,
        "distributed_executor_backend": "uni",
        "enforce_eager": True,
        "enable_chunked_prefill": True,
        "pipeline_parallel_size": 1,
        "enable_expert_parallel": False,
        "load_format": "safetensors",
        "trust_remote_code": False,
        "kv_cache_memory_bytes": 2147483648,  # a quarter of 8 GiB free = 2 * 2**30
    }


@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
def test_a_models_own_code_and_pickles_are_never_run(machine: Machine) -> None:
    arguments = vllm_arguments(MODEL, settled(EngineConfig(), machine))
    assert (arguments["trust_remote_code"], arguments["load_format"]) == (False, "safetensors")


def test_what_is_left_to_vllm_is_not_named() -> None:
    arguments = vllm_arguments(MODEL, settled(EngineConfig(), GPU))
    assert arguments.keys().isdisjoint({"block_size", "max_model_len", "kv_cache_memory_bytes"})


def test_several_ranks_run_in_several_processes() -> None:
    arguments = vllm_arguments(MODEL, replace(CONFIG, parallelism=Parallelism(2)))
    assert (arguments["tensor_parallel_size"], arguments["distributed_executor_backend"]) == (2, "mp")


def test_settings_of_the_cache_reach_vllm() -> None:
    arguments = vllm_arguments(MODEL, replace(CONFIG, cache=PagedCache(16, "fp8", 0.5, prefix_caching=False)))
    names = ("block_size", "kv_cache_dtype", "kv_cache_memory_bytes", "enable_prefix_caching")
    assert [arguments[name] for name in names] == [16, "fp8", 536870912, False]  # 0.5 * 2**30


# Steps that only decoded: 4 tokens in 0.2 s, so 0.05 s a token. A mixed one: 10 prefill and 2 decode tokens in 0.3 s;
# decoding took 2 * 0.05 = 0.1 s; the 10 prefill tokens took the other 0.2 s, so 0.02 s each.
STEPS = {"decode_s": 0.2, "decode_tokens": 4.0, "mixed_s": 0.3, "mixed_prefill": 10.0, "mixed_decode": 2.0}


def test_rates_tell_prefill_from_decode() -> None:
    rates = rates_from_steps(STEPS)
    assert rates is not None
    assert (rates.prefill_s_per_token, rates.decode_s_per_token) == (pytest.approx(0.02), pytest.approx(0.05))


def test_without_a_step_that_only_decoded_a_token_is_a_token() -> None:
    # 0.3 s over 10 + 2 tokens
    assert rates_from_steps({**STEPS, "decode_s": 0.0, "decode_tokens": 0.0}) == Rates(0.3 / 12, 0.3 / 12)


def test_without_prefill_a_token_is_a_token() -> None:
    # 0.2 s over 4 tokens
    only_decode = dict.fromkeys(STEPS, 0.0) | {"decode_s": 0.2, "decode_tokens": 4.0}
    assert rates_from_steps(only_decode) == Rates(0.05, 0.05)


def test_before_the_first_token_there_are_no_rates() -> None:
    assert rates_from_steps(dict.fromkeys(STEPS, 0.0)) is None


def test_prefill_never_has_a_negative_rate() -> None:
    # 2 decode tokens at 0.05 s would have taken 0.1 s, longer than the whole mixed step of 0.05 s.
    rates = rates_from_steps({**STEPS, "mixed_s": 0.05})
    assert rates is not None
    assert rates.prefill_s_per_token == 0.0


SECRETS = ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "STUB_KEY", "PREFECT_API_KEY", "GITHUB_TOKEN", "DATABASE_URL")
TOKENS_OF_HUGGING_FACE = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@pytest.mark.parametrize("name", [*SECRETS, *TOKENS_OF_HUGGING_FACE])
def test_the_engines_process_gets_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "a-secret")
    assert "a-secret" not in child_environment(CONFIG, CPU, None).values()


def test_the_engines_process_stays_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert child_environment(CONFIG, CPU, None)["HF_HUB_OFFLINE"] == "1"


def test_a_variable_that_makes_python_run_code_does_not_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONOPTIMIZE", "PYTHONINSPECT", "LD_PRELOAD", "VLLM_PLUGINS"):
        monkeypatch.setenv(name, "/somewhere/else")
    assert "/somewhere/else" not in child_environment(CONFIG, GPU, None).values()


def test_the_engine_never_takes_objects_from_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    assert "VLLM_ALLOW_INSECURE_SERIALIZATION" not in child_environment(CONFIG, CPU, None)


def test_the_engine_is_told_to_listen_on_loopback_alone() -> None:
    assert child_environment(CONFIG, CPU, None)["VLLM_HOST_IP"] == "127.0.0.1"


def test_a_cache_that_could_collide_is_never_asked_for() -> None:
    """vLLM also knows xxhash, which is faster and can be made to collide."""
    assert vllm_arguments(MODEL, CONFIG)["prefix_caching_hash_algo"] == "sha256"


def test_compiled_code_is_kept_where_nobody_else_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE, str(tmp_path / "state"))
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/tmp/of-everyone")
    environment = child_environment(CONFIG, CPU, None)
    for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert Path(environment[name]).is_relative_to(tmp_path / "state" / "vllm")
    assert (tmp_path / "state" / "vllm").stat().st_mode & 0o777 == 0o700


STAND_IN = f"""
import importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location("vllm_worker", {str(fork_server.WORKER)!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

def engine(order, descriptors, server):
    seen = json.dumps(order) + " ".join(sys.argv)
    out = os.fdopen(descriptors[3], "w", buffering=1)
    print(json.dumps({{"ready": True}}), file=out)
    for line in os.fdopen(descriptors[2]):
        asked = json.loads(line)
        reason = f"{{asked['cache_salt']}}, in arguments: {{asked['cache_salt'] in seen}}"
        print(json.dumps({{"failed": {{"row": asked["row"], "code": "E_SEEN", "reason": reason}}}}), file=out)

worker._import_vllm = lambda: None
worker._be_an_engine = engine
worker.main()
"""


def test_the_salt_travels_with_every_prompt_and_stands_in_no_list_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(STAND_IN)
    monkeypatch.setattr(fork_server, "WORKER", worker)
    engine = VllmEngine(MODEL, CONFIG, CPU, tmp_path / "log", lambda: False, None, cache_salt="ab12")
    request = Request(7, "id", Endpoint.CHAT, (Message("user", "x"),), Sampling(), prompt_token_ids=(1, 2))
    with engine:
        (done,) = engine.run(iter([request]))
    assert done.failure is not None
    assert done.failure.reason == "ab12, in arguments: False"


def test_one_rank_gets_every_core() -> None:
    assert child_environment(CONFIG, CPU, None)["VLLM_CPU_OMP_THREADS_BIND"] == "0,1,2,3"


def test_ranks_share_the_cores_out() -> None:
    environment = child_environment(replace(CONFIG, parallelism=Parallelism(2)), CPU, None)
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "0,2|1,3"


def test_a_gpu_needs_no_cores_bound() -> None:
    assert "VLLM_CPU_OMP_THREADS_BIND" not in child_environment(CONFIG, GPU, None)


def test_an_engine_gets_the_gpus_of_its_part_by_the_drivers_numbers() -> None:
    gpus = tuple(replace(GPU.gpus[0], number=number) for number in ("3", "5", "6", "7"))
    parts = parts_of(replace(GPU, gpus=gpus), 2)
    seen = [child_environment(CONFIG, part, None) for part in parts]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["3,6", "5,7"]
    assert {one["CUDA_DEVICE_ORDER"] for one in seen} == {"PCI_BUS_ID"}


def test_a_gpu_does_not_wait_for_rows_to_be_read_and_told() -> None:
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in child_environment(CONFIG, GPU, None)
    assert child_environment(CONFIG, CPU, None)["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_intels_openmp_is_taken_from_the_interpreter_that_runs_the_engine(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libiomp5.so").touch()
    environment = child_environment(CONFIG, CPU, str(tmp_path / "bin" / "python"))
    assert environment["LD_PRELOAD"] == str(tmp_path / "lib" / "libiomp5.so")


def test_without_intels_openmp_nothing_is_preloaded(tmp_path: Path) -> None:
    assert "LD_PRELOAD" not in child_environment(CONFIG, CPU, str(tmp_path / "bin" / "python"))


def test_importing_the_engine_does_not_import_vllm() -> None:
    code = "import sys; import serving.engines.vllm_engine; print('vllm' in sys.modules)"
    told = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
