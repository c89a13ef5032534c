"""From messages to tokens: the model's own chat template, in a sandbox, and its tokenizer."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from serving.intake.bad_row import BadRow
from serving.intake.files import BadInput
from serving.intake.render import MAX_RENDERED_CHARACTERS, ModelRenderer, PlainRenderer
from serving.records import Endpoint, Message

CHAT, COMPLETION = Endpoint.CHAT, Endpoint.COMPLETION
VOCABULARY = {"<unk>": 0, "<s>": 1, "user": 2, "hello": 3, "world": 4, ":": 5}
TEMPLATE = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }}\n{% endfor %}"
HELLO = (Message("user", "hello world"),)


@pytest.fixture
def renderer(tmp_path: Path) -> Callable[[str | None], ModelRenderer]:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return lambda template: ModelRenderer(tmp_path / "tokenizer.json", template, {"bos_token": "<s>"})


def refusal(render: ModelRenderer, *messages: Message) -> BadRow:
    with pytest.raises(BadRow) as refused:
        render.render(CHAT, messages or HELLO)
    return refused.value


def test_a_chat_is_what_the_template_makes_of_it(renderer: Callable[[str | None], ModelRenderer]) -> None:
    # user : hello world -> 2 5 3 4, and no <s> beside what the template writes
    assert renderer(TEMPLATE).render(CHAT, HELLO) == ("user : hello world\n", (2, 5, 3, 4))


def test_a_bare_prompt_gets_the_tokenizers_own_beginning(renderer: Callable[[str | None], ModelRenderer]) -> None:
    assert renderer(TEMPLATE).render(COMPLETION, HELLO) == ("hello world", (1, 3, 4))


def test_a_bare_prompt_needs_no_chat_template(renderer: Callable[[str | None], ModelRenderer]) -> None:
    assert renderer(None).render(COMPLETION, HELLO)[1] == (1, 3, 4)


def test_a_chat_needs_a_chat_template(renderer: Callable[[str | None], ModelRenderer]) -> None:
    fault = refusal(renderer(None))
    assert fault.code == "E_TEMPLATE"
    assert str(fault) == "this model has no chat template; send its rows to /v1/completions"


def test_a_template_knows_the_special_tokens_and_asks_for_an_answer(
    renderer: Callable[[str | None], ModelRenderer],
) -> None:
    asks = "{{ bos_token }}{% if add_generation_prompt %} user{% endif %}"
    assert renderer(asks).render(CHAT, HELLO) == ("<s> user", (1, 2))


def test_a_template_may_break_out_of_a_loop(renderer: Callable[[str | None], ModelRenderer]) -> None:
    assert renderer("{% for m in messages %}hello{% break %}{% endfor %}").render(CHAT, HELLO * 3)[0] == "hello"


def test_text_is_written_as_it_is_in_json(renderer: Callable[[str | None], ModelRenderer]) -> None:
    assert renderer("{{ messages[0].content | tojson }}").render(CHAT, (Message("user", "<é>"),))[0] == '"<é>"'


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[5].content }}",
        "{{ nothing.at_all }}",
        "{{ messages + 1 }}",
    ],
)
def test_a_template_that_raises_refuses_the_row(renderer: Callable[[str | None], ModelRenderer], template: str) -> None:
    fault = refusal(renderer(template))
    assert fault.code == "E_TEMPLATE"
    assert "the chat template refused these messages" in str(fault)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages[0].content.index('zzz') }}"])
def test_a_template_that_fails_in_any_way_refuses_the_row(
    renderer: Callable[[str | None], ModelRenderer], template: str
) -> None:
    assert refusal(renderer(template)).code == "E_TEMPLATE"


def test_the_reason_is_the_templates_own(renderer: Callable[[str | None], ModelRenderer]) -> None:
    assert "roles must alternate" in str(refusal(renderer("{{ raise_exception('roles must alternate') }}")))


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__ }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ messages.append(1) }}",  # the sandbox is one in which nothing can be changed
        "{{ raise_exception.__globals__['json'] }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for x in range(10000000) %}x{% endfor %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_reach_out_of_its_sandbox(
    renderer: Callable[[str | None], ModelRenderer], template: str
) -> None:
    assert refusal(renderer(template)).code == "E_TEMPLATE"


def test_a_format_text_cannot_reach_out_of_the_sandbox(renderer: Callable[[str | None], ModelRenderer]) -> None:
    fault = refusal(renderer("{{ '{0.__class__}'.format(messages) }}"))
    assert (fault.code, "__class__ of a list is out of bounds" in str(fault)) == ("E_TEMPLATE", True)


@pytest.mark.parametrize("content", ["{{ 7 * 7 }}", "{% raw %}", "{# x #}"])
def test_what_a_message_says_is_never_read_as_a_template(
    renderer: Callable[[str | None], ModelRenderer], content: str
) -> None:
    assert renderer(TEMPLATE).render(CHAT, (Message("user", content),))[0] == f"user : {content}\n"


def test_a_template_that_writes_without_end_refuses_the_row(renderer: Callable[[str | None], ModelRenderer]) -> None:
    fault = refusal(renderer("{{ 'x' * " + str(MAX_RENDERED_CHARACTERS + 1) + " }}"))
    assert fault.code == "E_TOO_LONG"


def test_a_template_that_writes_nothing_refuses_the_row(renderer: Callable[[str | None], ModelRenderer]) -> None:
    assert "comes to no tokens at all" in str(refusal(renderer("{# nothing #}")))


@pytest.mark.parametrize("template", ["{% for %}", "{{ x", "{% if true %}" * 200 + "{% endif %}" * 200, "{{ [" * 3000])
def test_a_template_that_cannot_be_compiled_refuses_the_job(
    renderer: Callable[[str | None], ModelRenderer], template: str
) -> None:
    with pytest.raises(BadInput, match=r"E_TEMPLATE the model's chat template cannot be used: .*; mend chat_template"):
        renderer(template)


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("template", [ENDLESS, "{{ messages[0].content.count('') ** (9 ** 9) }}"])
def test_a_template_that_goes_on_is_stopped_and_after_a_few_rows_refused_for_all(
    renderer: Callable[[str | None], ModelRenderer], template: str
) -> None:
    endless = renderer(template)
    began_s = time.process_time()
    for _ in range(2):
        assert "took over 1 s" in str(refusal(endless))
    with pytest.raises(BadInput, match="E_TEMPLATE the model's chat template took"):
        endless.render(CHAT, HELLO)
    assert time.process_time() - began_s < 4


def test_a_constant_that_takes_for_ever_is_stopped_when_it_is_compiled(
    renderer: Callable[[str | None], ModelRenderer],
) -> None:
    with pytest.raises(BadInput, match="takes over 1 s to compile"):
        renderer("{{ 9 ** (9 ** 9) }}")


def test_of_a_prompt_that_is_far_too_long_only_the_beginning_is_tokenized(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    short = ModelRenderer(tmp_path / "tokenizer.json", TEMPLATE, {}, most_tokens=1000)
    long = (Message("user", "hello " * 500_000),)
    # A piece of 65,536 characters has some 10,900 words, which is over 2 x 1000; no second one is looked at.
    assert "over 109" in str(refusal(short, *long))
    assert len(short.render(COMPLETION, (Message("user", " " * 70_000 + "hello"),))[1]) == 1


def test_a_tokenizer_that_is_none_refuses_the_job(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"E_MODEL .*no tokenizer"):
        ModelRenderer(tmp_path / "tokenizer.json", None, {})


def test_a_remote_models_prompt_is_its_messages() -> None:
    text, tokens = PlainRenderer().render(CHAT, HELLO)
    assert (text, tokens) == ('[{"role":"user","content":"hello world"}]', None)
