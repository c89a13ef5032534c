"""vLLM alone, with a watch on each part of a decode step: JSON in on stdin, JSON out on stdout's last line.

In: {"arguments": vLLM's, "prompts": {batch: [[token, ...], ...]}, "steps": n}. Out: {"start_s": s, "parts": {batch:
{part: ms a step}}}. Parts within parts are taken off the outer one, so that all of them add up to "step".
"""

import json
import sys
import time
from collections import defaultdict
from typing import Any


class Watch:
    """Seconds by part, each without those of the parts that ran inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def on(self, owner: Any, name: str, part: str) -> None:
        call = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            self._inner.append(0.0)
            try:
                return call(*arguments, **named)
            finally:
                whole_s = time.perf_counter() - began
                self.seconds[part] += whole_s - self._inner.pop()
                self._inner[-1] += whole_s

        setattr(owner, name, watched)


def main() -> None:
    order = json.load(sys.stdin)
    began = time.monotonic()
    from vllm import EngineArgs, SamplingParams
    from vllm.v1.engine.llm_engine import LLMEngine

    engine = LLMEngine.from_engine_args(EngineArgs(**order["arguments"]))
    start_s = time.monotonic() - began
    watch = Watch()
    core = engine.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner
    watch.on(engine, "step", "rest")
    watch.on(core.scheduler, "schedule", "scheduling")
    watch.on(core.scheduler, "update_from_output", "scheduling")
    watch.on(core.model_executor, "execute_model", "preparing")
    watch.on(core.model_executor, "sample_tokens", "bookkeeping")
    watch.on(runner.model, "forward", "layers")
    watch.on(runner.model, "compute_logits", "head")
    watch.on(runner.sampler, "forward", "sampling")
    watch.on(engine.output_processor, "process_outputs", "output")
    if order["arguments"].get("enforce_eager"):  # what is compiled is one piece
        for module in runner.model.modules():
            if hasattr(module, "impl") and hasattr(module.impl, "forward"):
                watch.on(module.impl, "forward", "attention")
    parts = {}
    for batch, prompts in order["prompts"].items():
        sampling = SamplingParams(max_tokens=order["steps"] + 8, temperature=0.0, ignore_eos=True)
        for place, tokens in enumerate(prompts):
            engine.add_request(f"{batch}-{place}", {"prompt_token_ids": tokens}, sampling)
        for _ in range(6):  # prefill, and the first steps, which are slower
            engine.step()
        watch.seconds.clear()
        for _ in range(order["steps"]):
            engine.step()
        parts[batch] = {part: 1000 * seconds / order["steps"] for part, seconds in watch.seconds.items()}
        while engine.has_unfinished_requests():
            engine.step()
    print(json.dumps({"start_s": start_s, "parts": parts}))


if __name__ == "__main__":
    main()
