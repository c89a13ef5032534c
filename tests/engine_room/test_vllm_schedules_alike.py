"""The planner's scheduler against vLLM's own, step by step."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.planner.schedule import schedule
from optimizer.planner.workload import KvBlocks, Requests
from serving.engine_config import Batching, EngineConfig
from serving.engines.machine import Machine
from serving.engines.vllm_environment import child_environment
from tests.engine_room.conftest import ROOT

pytestmark = pytest.mark.engines

Job = dict[str, Any]
JOBS = 80
SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "vocab_size": 512,
    "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 64, "num_hidden_layers": 1,
    "max_position_embeddings": 4096, "torch_dtype": "float32",
}  # fmt: skip


def some_job(seed: int) -> Job:
    generator = np.random.default_rng(seed)
    rows, block_tokens = int(generator.integers(1, 40)), int(generator.choice([4, 16]))
    prompts, outputs = generator.integers(2, 200, rows), generator.integers(1, 60, rows)
    largest = int((prompts + outputs - 1).max())
    seats = int(generator.integers(1, 16))
    chunked = bool(generator.random() < 0.8)
    least = -(-largest // block_tokens)
    return {
        "prompt_tokens": prompts.tolist(),
        "output_tokens": outputs.tolist(),
        "prefix_group": generator.integers(-1, 3, rows).tolist(),
        # Never to a prompt's end: there vLLM finds a second copy of the last block, and the planner does not.
        "shared_tokens": np.minimum(generator.integers(0, 120, rows), prompts - 1).tolist(),
        "max_num_seqs": seats,
        "max_num_batched_tokens": max(seats, int(generator.integers(8, 500))) if chunked else max(seats, largest + 1),
        "chunked_prefill": chunked,
        "async_scheduling": bool(generator.random() < 0.5),
        "blocks": least + int(generator.integers(0, 4 * least)),
        "block_tokens": block_tokens,
        "prefix_caching": bool(generator.random() < 0.7),
    }


def planned(job: Job) -> Job:
    requests = Requests(
        *(np.array(job[name]) for name in ("prompt_tokens", "output_tokens", "prefix_group", "shared_tokens"))
    )
    batching = Batching(
        job["max_num_seqs"], job["max_num_batched_tokens"], job["chunked_prefill"], job["async_scheduling"]
    )
    kv = KvBlocks(job["blocks"], job["block_tokens"], job["prefix_caching"])
    played = schedule(requests, batching, kv, every_step=True)
    return {
        "tokens": (played.prefill_tokens + played.decode_sequences).tolist(),
        "sequences": played.sequences.tolist(),
        "finish": played.finish_run.tolist(),
        "preemptions": played.preemptions,
    }


def test_the_planner_schedules_each_step_as_vllm_does(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    jobs = [some_job(seed) for seed in range(JOBS)]
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("schedule_with_vllm.py")],
        input=json.dumps({"model": str(tmp_path), "jobs": jobs}), cwd=ROOT, text=True, capture_output=True, timeout=300,
        env=child_environment(EngineConfig(compiled=True), machine, None),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    ours = [planned(job) for job in jobs]
    assert sum(each["preemptions"] for each in ours) > JOBS / 4  # else the jobs would say nothing about them
    differ = [seed for seed in range(JOBS) if found[seed] != ours[seed]]
    assert differ == []
