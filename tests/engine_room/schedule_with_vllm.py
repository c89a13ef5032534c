"""Run as a program, with vLLM: jobs from standard input go through its own scheduler, and what it did goes out.

No model runs: each step's tokens are made up, so that no answer begins like another.
"""

import json
import sys
from collections import deque
from typing import Any

import torch
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

LONGEST = 4096


def scheduler_of(job: dict[str, Any], model: str) -> Scheduler:
    limits = SchedulerConfig(
        max_num_seqs=job["max_num_seqs"],
        max_num_batched_tokens=job["max_num_batched_tokens"],
        max_model_len=LONGEST if job["chunked_prefill"] else job["max_num_batched_tokens"],
        enable_chunked_prefill=job["chunked_prefill"],
        async_scheduling=job["async_scheduling"],
        is_encoder_decoder=False,
    )
    cache = CacheConfig(block_size=job["block_tokens"], enable_prefix_caching=job["prefix_caching"])
    config = VllmConfig(
        model_config=ModelConfig(model=model, skip_tokenizer_init=True, dtype="float32", max_model_len=LONGEST),
        scheduler_config=limits,
        cache_config=cache,
    )
    cache.block_size = job["block_tokens"]  # a CPU's attention would want more
    blocks = job["blocks"] + 1  # one is never handed out
    cache.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=job["block_tokens"], num_kv_heads=1, head_size=1, dtype=torch.float32)
    made = AsyncScheduler if job["async_scheduling"] else Scheduler
    return made(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
        structured_output_manager=StructuredOutputManager(config),
        block_size=job["block_tokens"],
        log_stats=True,
    )


def requests_of(job: dict[str, Any]) -> list[Request]:
    hasher = get_request_block_hasher(job["block_tokens"], sha256)
    rows = zip(job["prompt_tokens"], job["output_tokens"], job["prefix_group"], job["shared_tokens"], strict=True)
    return [
        Request(
            str(row),
            [10 + group] * (shared if group >= 0 else 0) + [1000 + row] * (prompt - (shared if group >= 0 else 0)),
            SamplingParams(max_tokens=outputs, ignore_eos=True),
            None,
            block_hasher=hasher,
        )
        for row, (prompt, outputs, group, shared) in enumerate(rows)
    ]


def computed(drawn: dict[str, bool]) -> ModelRunnerOutput:
    tokens = [[1000 + int(name)] if any_drawn else [] for name, any_drawn in drawn.items()]
    return ModelRunnerOutput(list(drawn), {name: place for place, name in enumerate(drawn)}, tokens)


def play(job: dict[str, Any], model: str) -> dict[str, Any]:
    scheduler, requests = scheduler_of(job, model), requests_of(job)
    by_name = {request.request_id: request for request in requests}
    for request in requests:
        scheduler.add_request(request)
    steps: list[dict[str, int]] = []
    finish = [-1] * len(requests)
    queue: deque[tuple[SchedulerOutput, dict[str, bool], int]] = deque()
    depth = 2 if job["async_scheduling"] else 1
    preemptions = 0
    while scheduler.has_requests() or queue:
        if scheduler.has_requests():
            step = scheduler.schedule()
            preemptions += len(step.preempted_req_ids or ())
            scheduled = dict(step.num_scheduled_tokens)
            # A chunk that does not reach the end of what is known draws no token.
            drawn = {name: not by_name[name].is_prefill_chunk for name in scheduled}
            if scheduled:
                steps.append(scheduled)
            queue.appendleft((step, drawn, len(steps) - 1))
            if len(queue) < depth:
                continue
        step, drawn, number = queue.pop()
        for outputs in scheduler.update_from_output(step, computed(drawn)).values():
            for output in outputs.outputs:
                if output.finish_reason is not None:
                    finish[int(output.request_id)] = number
    assert all(request.num_output_tokens == request.max_tokens for request in requests)
    return {
        "tokens": [sum(step.values()) for step in steps],
        "sequences": [len(step) for step in steps],
        "finish": finish,
        "preemptions": preemptions,
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    init_none_hash(sha256)
    sys.stdout.write(json.dumps([play(job, asked["model"]) for job in asked["jobs"]]) + "\n")
