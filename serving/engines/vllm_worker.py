"""vLLM, in a process of its own: JSON lines in on one descriptor, JSON lines out on another.

    vllm_worker.py SOCKET_DESCRIPTOR WHOSE

The only importer of vllm. It imports nothing of ours, so any interpreter that has vLLM can run it. It imports vLLM once
and is forked for each engine that the socket asks for (serving/engines/fork_server.py is its other end). Prompts arrive
as tokens; each finished request leaves at once, so that one slow request holds up nothing but itself.
"""

import ctypes
import gc
import json
import mmap
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

TOKENS, TOKENS_AT = struct.Struct("<QQ"), 16  # as serving/store/meter.py reads them, a pair for each process
LEAST_LOGPROB = -9999.0  # of a token that could not come, which JSON has no infinity for; as OpenAI's API says it
STEP = struct.Struct("<QII")  # as serving/engines/step_page.py reads it: steps begun, rows new in this one, rows in it
PARTS = 5  # of what a step computes, see _parts
SUMS = 1 + PARTS + PARTS * (PARTS + 1) // 2
VERSION, EVIDENCE = struct.Struct("<Q"), struct.Struct(f"<Q{SUMS}d")
UNDER_WAY_EVERY_S = 1.0
# As serving/records.py reads them, Load.
SUMMED = (
    "decode_s",
    "decode_steps",
    "decode_tokens",
    "mixed_s",
    "mixed_steps",
    "mixed_prefill",
    "mixed_decode",
    "running_s",
    "kv_s",
)
INSIDE = "GRISTMILL_INSIDE"  # the variable that tells processes that vLLM begins what is to hold in them as well
DESCRIPTORS = 6  # of an order: what becomes of the process, its log, requests, answers, the leash, the page of steps


def main() -> None:
    _die_with_parent(os.getppid())
    orders = socket.socket(fileno=int(sys.argv[1]))
    _import_vllm()
    told_of: dict[int, tuple[int, int]] = {}  # by the descriptor that sees an engine's end: its number, whom to tell
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in told_of:
                poll.unregister(ready)
                _tell_the_end(ready, *told_of.pop(ready))
                continue
            order, descriptors, _, _ = socket.recv_fds(orders, 2**20, DESCRIPTORS)
            if not order:
                return
            ended, pid = _fork(json.loads(order), descriptors, orders)
            told_of[ended] = pid, descriptors[0]
            poll.register(ended, select.POLLIN)


def _die_with_parent(parent: int) -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _import_vllm() -> None:
    """All that an engine on this machine will import, as far as vLLM tells; nothing here touches a GPU."""
    from vllm.v1.engine import llm_engine  # noqa: F401

    gc.collect()
    gc.freeze()  # so that no collection in a fork writes to, and thereby copies, what is shared


def _fork(order: dict[str, Any], descriptors: list[int], orders: socket.socket) -> tuple[int, int]:
    """Fork an engine; returns what becomes readable at its end, and its number, which it is told of as well."""
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            orders.close()
            _be_an_engine(order, descriptors, server)
            code = 0
        except BaseException:  # noqa: BLE001 (a fork never returns into the loop that made it)
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    for descriptor in descriptors[1:]:
        os.close(descriptor)
    _tell(descriptors[0], pid)
    return os.pidfd_open(pid), pid


def _tell_the_end(ended: int, pid: int, whom: int) -> None:
    _, status = os.waitpid(pid, 0)
    os.close(ended)
    _tell(whom, os.waitstatus_to_exitcode(status))
    os.close(whom)


def _tell(whom: int, number: int) -> None:
    try:
        os.write(whom, b"%d\n" % number)
    except BrokenPipeError:
        pass  # nobody wants to know any more


def _be_an_engine(order: dict[str, Any], descriptors: list[int], server: int) -> None:
    told, log, asked, out_descriptor, leash, page = descriptors
    os.close(told)
    os.setsid()
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.close(log)
    _die_with_parent(server)
    # The kernel ends this process with its parent; this small one sees the end of the leash, which whoever gave the
    # order holds, and ends the processes that vLLM has started for its ranks as well.
    subprocess.Popen(["/bin/sh", "-c", "read -r _; kill -9 0"], stdin=leash)
    os.close(leash)
    with os.fdopen(out_descriptor, "w", encoding="utf-8", buffering=1) as out:
        requests = _read(asked)
        meter, arguments = StepMeter(order["meter"], order["place"]), order["arguments"]
        inside = {
            "page": f"/proc/{os.getpid()}/fd/{page}",
            "repairs": [name for name in REPAIRS if arguments.get(name)],
        }
        os.environ[INSIDE] = json.dumps(inside)
        _prepare_inside()
        engine = _start(arguments, meter)
        _send(out, {"ready": True})
        _serve(engine, requests, meter, out)


def _read(asked: int) -> "queue.Queue[dict[str, Any] | None]":
    """Requests as they arrive; None when the parent has no more. Reading never waits for a step of the engine."""
    requests: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def read() -> None:
        with os.fdopen(asked, "rb") as lines:
            for line in lines:
                requests.put(json.loads(line))
        requests.put(None)

    threading.Thread(target=read, daemon=True).start()
    return requests


class StepMeter:
    """Sums engine time by what a step did, so that a token's cost can be told apart in prefill and decode.

    A vLLM stat logger by its methods, not by its base class: this file can be read where there is no vLLM.
    The tokens of each step are noted in the parent's meter file as well, where they outlive us both.
    """

    def __init__(self, meter_path: str, place: int) -> None:
        self._at = TOKENS_AT + place * TOKENS.size
        self._tokens = [0, 0]  # prompt tokens computed, output tokens
        self._page: mmap.mmap | None = None
        if meter_path:
            with open(meter_path, "r+b") as file:
                self._page = mmap.mmap(file.fileno(), 0)
        self.sums = dict.fromkeys(SUMMED, 0.0)
        self._prefill = self._decode = self._running = 0
        self._kv_share = 0.0

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        if iteration_stats is not None:
            self._prefill += iteration_stats.prompt_token_stats.computed
            self._decode += iteration_stats.num_generation_tokens
        if scheduler_stats is not None:
            self._running, self._kv_share = scheduler_stats.num_running_reqs, scheduler_stats.kv_cache_usage

    def add_step(self, seconds: float) -> None:
        if self._prefill == 0 and self._decode:
            self._add(decode_s=seconds, decode_steps=1, decode_tokens=self._decode)
        else:
            self._add(mixed_s=seconds, mixed_steps=1, mixed_prefill=self._prefill, mixed_decode=self._decode)
        self._add(running_s=self._running * seconds, kv_s=self._kv_share * seconds)
        if self._page is not None:
            self._tokens = [self._tokens[0] + self._prefill, self._tokens[1] + self._decode]
            TOKENS.pack_into(self._page, self._at, *self._tokens)
        self._prefill = self._decode = 0

    def _add(self, **values: float) -> None:
        for name, value in values.items():
            self.sums[name] += value

    def log(self) -> None:
        pass

    def log_engine_initialized(self) -> None:
        pass


class StepPage:
    """Notes each step in memory that the parent still reads when the step has killed us: which rows it runs, before it
    does, and afterwards, in sums, what steps took beside what they computed. Whichever process runs them writes it.

    For parts x of a step and its seconds y the sums are of y, of x, and of the products x x' / y, from which the times
    of the parts can be fitted (serving/records.py, StepEvidence).
    """

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, 0)
        self._room = (len(self._page) - STEP.size - EVIDENCE.size) // 8
        self._steps = 0
        self._sums = [0.0] * SUMS
        self._running: dict[int, tuple[float, list[int]]] = {}  # steps that are not over: when they began, their parts
        self._ended_s = 0.0

    def watch(self) -> None:
        """Every scheduler that is made from now on notes its steps: here, or in a process that is forked from here."""
        from vllm.v1.core.sched import scheduler as vllms

        kind: Any = vllms.Scheduler
        schedule, update = kind.schedule, kind.update_from_output

        def noted(scheduler: Any, *arguments: Any, **named: Any) -> Any:
            began_s = time.monotonic()
            scheduled = schedule(scheduler, *arguments, **named)
            if scheduled.total_num_scheduled_tokens:
                self._running[id(scheduled)] = began_s, _parts(scheduled, scheduler.requests)
                new = [_row(request.req_id) for request in scheduled.scheduled_new_reqs]
                others = (_row(name) for name in scheduled.num_scheduled_tokens)
                self.begin(list(dict.fromkeys([*new, *others])), len(set(new)))
            return scheduled

        def timed(scheduler: Any, scheduled: Any, *arguments: Any, **named: Any) -> Any:
            found = update(scheduler, scheduled, *arguments, **named)
            if id(scheduled) in self._running:
                self._end(*self._running.pop(id(scheduled)))
            return found

        kind.schedule, kind.update_from_output = noted, timed

    def begin(self, rows: list[int], new: int) -> None:
        self._steps += 1
        rows = rows[: self._room]
        STEP.pack_into(self._page, 0, self._steps, min(new, len(rows)), len(rows))
        struct.pack_into(f"<{len(rows)}q", self._page, STEP.size + EVIDENCE.size, *rows)

    def _end(self, began_s: float, parts: list[int]) -> None:
        """Steps that are scheduled ahead wait for those before them, which is none of their time."""
        ended_s = time.monotonic()
        seconds = ended_s - max(began_s, self._ended_s)
        self._ended_s = ended_s
        products = (part * other / seconds for place, part in enumerate(parts) for other in parts[place:])
        self._sums = [total + more for total, more in zip(self._sums, (seconds, *parts, *products), strict=True)]
        written = 2 * int(self._sums[1])
        VERSION.pack_into(self._page, STEP.size, written - 1)  # odd: what follows is being written
        EVIDENCE.pack_into(self._page, STEP.size, written - 1, *self._sums)
        VERSION.pack_into(self._page, STEP.size, written)


def _parts(scheduled: Any, requests: Any) -> list[int]:
    """What a step computes: itself, tokens of prompts, the tokens that these look at, sequences that decode, the tokens
    that those look at."""
    cached = scheduled.scheduled_cached_reqs
    computed = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    computed.update((request.req_id, request.num_computed_tokens) for request in scheduled.scheduled_new_reqs)
    prefill = attended = sequences = context = 0
    for name, tokens in scheduled.num_scheduled_tokens.items():
        before = computed[name]
        seen = tokens * before + tokens * (tokens + 1) // 2
        if before < requests[name].num_prompt_tokens:
            prefill, attended = prefill + tokens, attended + seen
        else:
            sequences, context = sequences + tokens, context + seen
    return [1, prefill, attended, sequences, context]


def _row(request_id: str) -> int:
    """Of "17", and of what vLLM makes of it: "1_17-a0b1c2d3" for the second choice of row 17."""
    return int(request_id.split("-")[0].rsplit("_")[-1])


def _start(settings: dict[str, Any], meter: Any) -> Any:
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":
        _look_at_models_here()
    return LLMEngine.from_engine_args(
        EngineArgs(**settings, disable_log_stats=False), stat_loggers=[lambda config, index: meter]
    )


def _look_at_models_here() -> None:
    """vLLM looks at a model's class in a process of its own, since looking may touch a GPU before ranks are forked.
    Here nothing is forked, and importing all of vLLM a second time takes 16 s of a first start."""
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda fn: fn()


def _repair_expand_kernel() -> None:
    """vLLM 0.32's stand-in for this kernel on CPUs writes into an integer copy that nobody reads, so that in a batch
    that is not all greedy every guessed token is judged at a temperature that was never set."""
    import torch
    from vllm.utils import cpu_triton_utils

    def expand(
        output: Any, values: Any, ends: Any, replace_from: int, replace_to: int, MAX_NUM_TOKENS: Any = None
    ) -> None:
        counts = torch.diff(ends, prepend=ends.new_zeros(1))
        replaced = torch.where(values == replace_from, replace_to, values)
        output.copy_(torch.repeat_interleave(replaced, counts))

    cpu_triton_utils._expand_kernel_impl = expand


def _repair_rows_without_adapter() -> None:
    """vLLM 0.32 marks a row that names no adapter with -1, which its operators for CPUs read as the last slot: beside
    rows that name one, it would be answered by whichever adapter lies there."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    def only_adapted(operator: Any) -> Any:
        def masked(inputs: Any, weights: Any, output: Any, slots: Any, *rest: Any, **named: Any) -> Any:
            adapted = inputs.masked_fill((slots < 0).unsqueeze(1), 0)
            return operator(adapted, weights, output, slots, *rest, **named)

        return masked

    for name in ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice"):
        masked = only_adapted(getattr(lora_ops, name))
        setattr(lora_ops, name, masked)  # where the operators for prompts find it
        setattr(punica_cpu, name, masked)


REPAIRS = {  # by the argument that asks for what is broken
    "speculative_config": _repair_expand_kernel,
    "enable_lora": _repair_rows_without_adapter,
}


def _prepare_inside() -> None:
    """What is to hold in every process that runs a part of this engine, and was not forked from one where it does."""
    from vllm.platforms import current_platform

    inside = json.loads(os.environ[INSIDE])
    StepPage(os.open(inside["page"], os.O_RDWR)).watch()
    if current_platform.is_cpu():
        for name in inside["repairs"]:
            REPAIRS[name]()


def _serve(engine: Any, requests: "queue.Queue[dict[str, Any] | None]", meter: StepMeter, out: Any) -> None:
    more, told_s = True, time.monotonic()
    while more or engine.has_unfinished_requests():
        while more and (not requests.empty() or not engine.has_unfinished_requests()):
            request = requests.get()
            more = request is not None
            if request is not None:
                _add(engine, request, out)
        if engine.has_unfinished_requests():
            began = time.monotonic()
            outputs = engine.step()
            meter.add_step(time.monotonic() - began)
            for output in outputs:
                if output.finished:
                    _send(out, {"done": _result(output), "steps": meter.sums})
            if time.monotonic() - told_s >= UNDER_WAY_EVERY_S:
                told_s = time.monotonic()
                _send(out, {"under_way": _under_way(engine)})


def _add(engine: Any, request: dict[str, Any], out: Any) -> None:
    """Hand one request to the engine; one that vLLM refuses fails alone."""
    try:
        prompt = {name: request[name] for name in ("prompt_token_ids", "cache_salt") if name in request}
        parameters = _sampling_params(request["sampling"])
        engine.add_request(str(request["row"]), prompt, parameters, lora_request=_adapter(request))
    except (ValueError, TypeError, RuntimeError) as error:
        _send(out, {"failed": {"row": request["row"], "code": "E_ENGINE_REFUSED", "reason": str(error)[:300]}})


def _under_way(engine: Any) -> list[list[int]]:
    """Of each choice of a row that is not finished, the row and the tokens put out so far."""
    states = engine.output_processor.request_states
    return [[_row(name), state.detokenizer.num_output_tokens()] for name, state in states.items()]


def _sampling_params(sampling: dict[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    fields = dict(sampling)
    schema = fields.pop("json_schema")
    structured = StructuredOutputsParams(json=schema) if schema is not None else None
    return SamplingParams(**fields, structured_outputs=structured, output_kind=RequestOutputKind.FINAL_ONLY)


def _adapter(request: dict[str, Any]) -> Any:
    if "adapter" not in request:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(**request["adapter"])


def _result(output: Any) -> dict[str, Any]:
    metrics = output.metrics
    timed = metrics is not None and metrics.first_token_ts and metrics.scheduled_ts
    return {
        "row": int(output.request_id),
        "choices": [_choice(choice) for choice in sorted(output.outputs, key=lambda choice: choice.index)],
        "prompt_tokens": len(output.prompt_token_ids),
        "completion_tokens": sum(len(choice.token_ids) for choice in output.outputs),
        "cached_tokens": output.num_cached_tokens or 0,
        **_speculated(output.outputs),
        "queue_s": metrics.scheduled_ts - metrics.queued_ts if timed else None,
        "prefill_s": metrics.first_token_ts - metrics.scheduled_ts if timed else None,
        "decode_s": metrics.last_token_ts - metrics.first_token_ts if timed else None,
    }


def _speculated(choices: Any) -> dict[str, int]:
    each = (getattr(choice, "spec_decode_metrics", None) for choice in choices)  # no attribute before vLLM 0.32
    told = [metrics for metrics in each if metrics is not None]
    accepted = sum(tokens * steps for metrics in told for tokens, steps in enumerate(metrics.histogram))
    return {"drafted_tokens": sum(metrics.num_draft_tokens for metrics in told), "accepted_tokens": accepted}


def _choice(choice: Any) -> dict[str, Any]:
    logprobs = None
    if choice.logprobs is not None:
        logprobs = [
            _token_logprobs(token, at) for token, at in zip(choice.token_ids, choice.logprobs, strict=True) if at
        ]
    return {"text": choice.text, "finish_reason": choice.finish_reason or "stop", "logprobs": logprobs}


def _token_logprobs(token: int, alternatives: Any) -> dict[str, Any]:
    chosen = alternatives[token]
    ranked = sorted(alternatives.values(), key=lambda one: -one.logprob)
    return {
        "token": chosen.decoded_token,
        "logprob": max(chosen.logprob, LEAST_LOGPROB),
        "top_logprobs": [{"token": one.decoded_token, "logprob": max(one.logprob, LEAST_LOGPROB)} for one in ranked],
    }


def _send(out: Any, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__" and INSIDE in os.environ:  # a process that vLLM began anew, not by a fork of this one
    _prepare_inside()
