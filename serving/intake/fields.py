"""Names of fields: those that other servers know and that would be ignored here, and the nearest to one mistyped."""

import difflib
import functools

MAX_NAME_CHARACTERS = 40  # a longer one is no typo

# Request parameters of vLLM and of the OpenAI API. A row that has one expects it to act, so it is refused, not ignored.
# An id, a label, a source or an answer is the user's own; so these are only names that mean one thing.
IGNORED_FIELDS = frozenset({
    # how a prompt is made of messages
    "chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "add_special_tokens",
    "tokenize", "prompt_embeds", "prompt_token_ids", "truncate_prompt_tokens",
    # what else a model is shown
    "images", "image_url", "audio", "modalities", "multi_modal_data", "multi_modal_uuids", "mm_data",
    "mm_processor_kwargs", "media_io_kwargs", "encoder_prompt",
    # which model answers, and from what
    "lora", "lora_request", "lora_name", "lora_path", "prompt_adapter_request", "cache_salt",
    "kv_transfer_params", "trust_remote_code",
    # tools
    "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "web_search_options",
    # how tokens are drawn
    "logit_bias", "logits_processors", "bad_words", "allowed_token_ids", "stop_token_ids", "min_tokens", "ignore_eos",
    "include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens", "length_penalty",
    "early_stopping", "best_of", "use_beam_search", "beam_width", "top_a", "typical_p", "max_new_tokens",
    "max_output_tokens", "reasoning_effort", "include_reasoning", "thinking_token_budget",
    "vllm_xargs",
    # what the answer must look like
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend", "guided_decoding",
    "guided_whitespace_pattern", "structured_outputs", "structural_tag", "json_schema",
    # what is sent back, and how
    "stream", "stream_options", "echo", "suffix", "prompt_logprobs", "return_tokens_as_token_ids", "return_token_ids",
    "output_kind", "detokenize", "service_tier", "safety_identifier", "prompt_cache_key",
})  # fmt: skip


def nearest(name: str, known: frozenset[str], cutoff: float = 0.6) -> str | None:
    """The known name that `name` seems to mean."""
    return None if len(name) > MAX_NAME_CHARACTERS else _nearest(name, known, cutoff)


@functools.lru_cache(maxsize=4096)
def _nearest(name: str, known: frozenset[str], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=cutoff)), None)
