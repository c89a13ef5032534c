"""vLLM's own offline loop and nothing else: `LLM.generate` on each load of random tokens in turn.

gpu_bare.py ENGINE_ARGS_JSON MODEL LOADS_JSON OUT.json
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from random_models import random_prompts


def main() -> None:
    arguments, model, loads, out = json.loads(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4])
    from vllm import LLM, SamplingParams

    began = time.monotonic()
    engine = LLM(**{name: value for name, value in arguments.items() if name != "distributed_executor_backend"})
    start_s = time.monotonic() - began
    seconds = []
    for input_tokens, output_tokens, requests, seed in loads:
        prompts = [{"prompt_token_ids": list(tokens)} for tokens in random_prompts(model, input_tokens, requests, seed)]
        sampling = SamplingParams(temperature=0.0, max_tokens=output_tokens)
        began = time.monotonic()
        done = engine.generate(prompts, sampling, use_tqdm=False)
        seconds.append(time.monotonic() - began)
        assert all(len(one.outputs[0].token_ids) == output_tokens for one in done)
    out.write_text(json.dumps({"start_s": start_s, "seconds": seconds}))


if __name__ == "__main__":
    main()
