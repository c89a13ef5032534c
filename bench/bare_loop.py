"""vLLM and nothing else: all requests of a file given to an engine, which is stepped until it is done.

bare_loop.py ENGINE_ARGS_JSON PROMPTS.jsonl OUT.json
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    arguments, prompts, out = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    from vllm import EngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.llm_engine import LLMEngine

    engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
    tokenizer = engine.get_tokenizer()
    requests = []
    for line in prompts.read_text().splitlines():
        body = json.loads(line)["body"]
        rendered = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
        ids = tokenizer.encode(rendered, add_special_tokens=False)
        sampling = SamplingParams(
            max_tokens=body["max_tokens"], temperature=0.0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        requests.append(({"prompt_token_ids": ids}, sampling))
    began = time.monotonic()
    for number, (prompt, sampling) in enumerate(requests):
        engine.add_request(str(number), prompt, sampling)
    answered = 0
    while engine.has_unfinished_requests():
        answered += sum(output.finished for output in engine.step())
    out.write_text(json.dumps({"seconds": time.monotonic() - began, "answered": answered}))


if __name__ == "__main__":
    main()
