"""Seeded tables shaped like those that people feed: which tokens prompts share, and how long their answers are."""

import random
from collections.abc import Callable
from dataclasses import dataclass

VOCABULARY = 49_152
MAX_TOKENS = 768
Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in the order of arrival."""

    prompts: list[Tokens]
    systems: list[str]  # of each row, its system message
    groups: list[str]  # what its answer's length depends on
    output_tokens: list[int]


@dataclass(frozen=True, slots=True)
class Row:
    prompt: Tokens
    system: str
    group: str
    typical_tokens: int


def shared_system(draw: random.Random, rows: int) -> list[Row]:
    """Four applications, each with a system prompt of its own and unlike questions."""
    found = []
    systems = [_words(draw, draw.randint(150, 600)) for _ in range(4)]
    for _ in range(rows):
        which = draw.randrange(4)
        found.append(Row(systems[which] + _words(draw, draw.randint(20, 120)), str(which), str(which), 30 * 3**which))
    return found


def few_shot(draw: random.Random, rows: int) -> list[Row]:
    """One system message, eight tasks of a benchmark with their solved examples, one question each."""
    system = _words(draw, 30)
    tasks = [_words(draw, draw.randint(400, 900)) for _ in range(8)]
    found = []
    for _ in range(rows):
        task = draw.randrange(8)
        found.append(Row(system + tasks[task] + _words(draw, draw.randint(30, 90)), "", str(task), 10 + 25 * task))
    return found


def templated_columns(draw: random.Random, rows: int) -> list[Row]:
    """A table through a template: category, brand and product before a review that no other row has."""
    labels = [_words(draw, draw.randint(6, 12)) for _ in range(4)]
    system = _words(draw, 80)
    products = []
    for category in range(12):
        for brand in range(8):
            of_brand = _words(draw, 12)
            products += [(category, brand, of_brand, _words(draw, 70)) for _ in range(4)]
    categories = [_words(draw, 10) for _ in range(12)]
    found = []
    for _ in range(rows):
        category, _brand, of_brand, product = draw.choice(products)
        columns = (categories[category], of_brand, product, _words(draw, draw.randint(30, 80)))
        prompt = system + sum((label + column for label, column in zip(labels, columns, strict=True)), ())
        found.append(Row(prompt, "", str(category), 20 + 10 * category))
    return found


def chat_histories(draw: random.Random, rows: int) -> list[Row]:
    """Conversations cut after each turn: a row is the beginning of the next one of its conversation."""
    system = _words(draw, 60)
    found: list[Row] = []
    while len(found) < rows:
        history = system
        for _ in range(draw.randint(2, 9)):
            history += _words(draw, draw.randint(20, 140))
            found.append(Row((*history, 1, 2, 3, 4), "", "", 90))
    return found[:rows]


def rag_documents(draw: random.Random, rows: int) -> list[Row]:
    """Few questions about each of many documents."""
    system = _words(draw, 60)
    found: list[Row] = []
    while len(found) < rows:
        document = system + _words(draw, draw.randint(250, 900))
        found += [Row(document + _words(draw, draw.randint(12, 40)), "", "", 50) for _ in range(draw.randint(2, 14))]
    return found[:rows]


def repeated_samples(draw: random.Random, rows: int) -> list[Row]:
    """Every problem asked eight times, to be drawn with eight seeds, under one of two system prompts."""
    systems = [_words(draw, 200), _words(draw, 90)]
    found: list[Row] = []
    while len(found) < rows:
        which = draw.randrange(2)
        problem = systems[which] + _words(draw, draw.randint(60, 250))
        found += [Row(problem, str(which), str(which), 60 + 120 * which)] * 8
    return found[:rows]


TABLES: dict[str, Callable[[random.Random, int], list[Row]]] = {
    "shared system": shared_system,
    "few-shot": few_shot,
    "templated columns": templated_columns,
    "chat histories": chat_histories,
    "RAG documents": rag_documents,
    "repeated samples": repeated_samples,
}


def make(name: str, rows: int, seed: int = 0) -> Table:
    """The rows shuffled, with long-tailed answers: log-normal around what is typical of their group."""
    draw = random.Random(f"{name} {seed}")
    found = TABLES[name](draw, rows)
    draw.shuffle(found)
    lengths = [min(MAX_TOKENS, max(1, round(draw.lognormvariate(0, 0.9) * row.typical_tokens))) for row in found]
    prompts, systems, groups = ([getattr(row, part) for row in found] for part in ("prompt", "system", "group"))
    return Table(prompts, systems, groups, lengths)


def _words(draw: random.Random, count: int) -> Tokens:
    return tuple(draw.randrange(5, VOCABULARY) for _ in range(count))
