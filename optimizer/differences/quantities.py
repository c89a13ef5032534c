"""The quantities that a text names: numbers as values, whichever way they are written, each with its unit."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import lru_cache

from optimizer.differences.words import KEPT_TEXTS, words

ONES = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
TENS = {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
TIMES = {"dozen": 12, "hundred": 100}  # stand within a group of three digits, or after one
POWERS = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES = TIMES | POWERS
IRREGULAR = {
    "zeroth": "zero", "first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight",
    "ninth": "nine", "twelfth": "twelve",
}  # fmt: skip
ORDINALS = {f"{word}th": word for word in [*ONES, *SCALES]} | {f"{word[:-1]}ieth": word for word in TENS} | IRREGULAR
PARTS = {
    "half": "1/2", "halves": "1/2", "quarter": "1/4", "quarters": "1/4",
    "twice": "2 times", "thrice": "3 times", "double": "2 times", "triple": "3 times", "quadruple": "4 times",
}  # fmt: skip


def _any_of(some: Iterable[str]) -> str:
    return "|".join(sorted(some, key=len, reverse=True))


NUMERALS = {*ONES, *TENS, *SCALES, *ORDINALS}
NUMERAL = _any_of(NUMERALS)
SPELLING = NUMERALS | PARTS.keys()
# "which one" and "the one that" count nothing.
NO_COUNT = "".join(rf"(?<!\b{word}\s)" for word in "which no any some every each this that the another".split())
JOINED = r"(?:[\s-]+|(?:(?<=hundred|million|billion)|(?<=thousand|trillion))\s+and\s+)"
SPELLED = rf"\b(?:(?!one\b)|{NO_COUNT})(?:{NUMERAL})(?:{JOINED}(?:{NUMERAL}))*\b(?!['’]s\b)"
# The sign of a number is none where something that it could be taken from stands before it.
DIGITS = (
    r"(?P<sign>(?<![\w)\]])[-−])?(?P<money>[$€£¥₹₩]\s?|\b(?-i:[A-Z]{3})\s)?(?P<digits>\d[\d.,:/]*\d|\d)"
    rf"(?P<power>e[-+−]?\d+\b)?(?P<ordinal>(?:st|nd|rd|th)\b)?(?:\s?(?P<scale>{_any_of(SCALES)})\b)?"
)
IN_FIGURES = rf"(?P<small>[²³¹⁰-⁹₀-₉¼-¾⅐-⅞Ⅰ-ⅿ①-⑳])|{DIGITS}"
FIGURES = re.compile(rf"(?P<spelled>(?!))|(?P<part>(?!))|{IN_FIGURES}", re.IGNORECASE)
FIGURES_AND_WORDS = re.compile(rf"(?P<spelled>{SPELLED})|\b(?P<part>{_any_of(PARTS)})\b|{IN_FIGURES}", re.IGNORECASE)
UNIT_AFTER = re.compile(
    r"[\s-]?(degrees?\s(?:celsius|fahrenheit)|per\scent|pounds?\ssterling|[ap]\.m\.|°?[^\W\d_]+(?:/[^\W\d_]+)?|[%°€£¥$₹₩″\"]|[′'](?!\w))",
    re.IGNORECASE,
)
ATTACHED = re.compile(r"[^\W\d_]{1,3}\b")
DECIMAL = re.compile(r"\d{1,12}(?:\.\d{1,12})?")
GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
MONTH = "January February March April May June July August September October November December".split()
DAY_OF = re.compile(rf"\s(?:of\s)?(?:{'|'.join(MONTH)})\b", re.IGNORECASE)
OF_MONTH = re.compile(rf"\b(?:{'|'.join(MONTH)})\s(?:the\s)?$", re.IGNORECASE)

PREFIXES = {
    "nano": "n", "micro": "µ", "milli": "m", "centi": "c", "deci": "d", "hecto": "h", "kilo": "k", "mega": "M",
    "giga": "G", "tera": "T", "peta": "P",
}  # fmt: skip
# By their names; what may stand behind a prefix.
MEASURES = {
    "metre": "m", "meter": "m", "gram": "g", "gramme": "g", "second": "s", "ampere": "A", "amp": "A", "kelvin": "K",
    "mole": "mol", "candela": "cd", "hertz": "Hz", "newton": "N", "pascal": "Pa", "joule": "J", "watt": "W",
    "volt": "V", "farad": "F", "ohm": "Ω", "tesla": "T", "lumen": "lm", "lux": "lx", "litre": "L", "liter": "L",
    "byte": "B", "bit": "b", "electronvolt": "eV", "calorie": "cal", "bar": "bar", "becquerel": "Bq", "gray": "Gy",
    "sievert": "Sv", "molar": "M", "tonne": "t", "coulomb": "C", "henry": "H", "weber": "Wb", "decibel": "dB",
}  # fmt: skip
ALONE = {"l": "L", "Wh": "Wh"}  # symbols that no name stands for
OTHERS = {
    "min": "min", "minute": "min", "sec": "s", "h": "h", "hr": "h", "hour": "h", "day": "day", "week": "week",
    "month": "month", "year": "year", "yr": "year", "decade": "decade", "century": "century", "centuries": "century",
    "am": "am", "a.m.": "am", "pm": "pm", "p.m.": "pm", "bc": "BC", "bce": "BC", "ad": "AD", "ce": "AD",
    "kilo": "kg", "lb": "lb", "pound": "pound", "oz": "oz", "ounce": "oz", "stone": "stone", "ton": "ton",
    "mile": "mile", "mi": "mile", "foot": "ft", "feet": "ft", "ft": "ft", "inch": "inch", "inches": "inch",
    "'": "ft", "′": "ft", '"': "inch", "″": "inch",
    "yard": "yd", "yd": "yd", "acre": "acre", "hectare": "ha", "ha": "ha", "gallon": "gal", "pint": "pint",
    "mph": "mph", "kph": "km/h", "knot": "knot", "%": "%", "percent": "%", "per cent": "%", "°": "°", "degree": "°",
    "°c": "°C", "celsius": "°C", "degree celsius": "°C", "degrees celsius": "°C",
    "°f": "°F", "fahrenheit": "°F", "degree fahrenheit": "°F", "degrees fahrenheit": "°F",
    "$": "USD", "usd": "USD", "dollar": "USD", "€": "EUR", "eur": "EUR", "euro": "EUR",
    "£": "GBP", "gbp": "GBP", "pound sterling": "GBP", "pounds sterling": "GBP", "¥": "JPY", "jpy": "JPY",
    "yen": "JPY", "cny": "CNY", "yuan": "CNY", "₹": "INR", "inr": "INR", "rupee": "INR", "₩": "KRW", "krw": "KRW",
    "chf": "CHF", "franc": "CHF", "sek": "SEK", "nok": "NOK", "dkk": "DKK", "pln": "PLN", "aud": "AUD",
    "cad": "CAD", "nzd": "NZD", "mxn": "MXN", "peso": "peso", "brl": "BRL", "zar": "ZAR", "rand": "ZAR",
    "lira": "TRY", "rub": "RUB", "rouble": "RUB", "ruble": "RUB", "cent": "cent",
}  # fmt: skip
NAMES = {
    **{prefix + name: symbol + MEASURES[name] for prefix, symbol in PREFIXES.items() for name in MEASURES},
    **MEASURES,
    **OTHERS,
}
SYMBOLS = {prefix + symbol for prefix in ["", *PREFIXES.values()] for symbol in [*MEASURES.values(), *ALONE.values()]}
FOLDED: dict[str, set[str]] = {}
for _symbol in SYMBOLS:
    FOLDED.setdefault(_symbol.lower(), set()).add(_symbol)


@lru_cache(KEPT_TEXTS)
def quantities(text: str) -> tuple[str, ...]:
    """In the order of the text: "2.5 kg", "-4", "3 times". A version 3.10 is not 3.1, so digits stay as they stand."""
    found = FIGURES if SPELLING.isdisjoint(words(text)) else FIGURES_AND_WORDS  # the latter is ten times slower
    return tuple(quantity for match in found.finditer(text) for quantity in _quantities(text, match))


def _quantities(text: str, match: re.Match[str]) -> Iterator[str]:
    if match["spelled"]:
        *before, last = _spelled(re.findall(NUMERAL, match["spelled"].lower()))
        yield from before
        yield _with_unit(text, match.end(), last)
    elif match["part"]:
        yield PARTS[match["part"].lower()]
    elif match["small"]:
        yield unicodedata.normalize("NFKC", match["small"])
    else:
        yield _written(text, match)


def _written(text: str, match: re.Match[str]) -> str:
    digits, end = match["digits"], match.end()
    if GROUPED.fullmatch(digits):
        digits = digits.replace(",", "")
    if (
        match["ordinal"]
        and not DAY_OF.match(text, end)
        and not OF_MONTH.search(text, max(0, match.start() - 16), match.start())
    ):
        digits += "th"
    if match["scale"]:
        times = SCALES[match["scale"].lower()]
        digits = f"{(Decimal(digits) * times).normalize():f}" if DECIMAL.fullmatch(digits) else f"{digits} x {times}"
    value = ("-" if match["sign"] else "") + digits + (match["power"] or "").lower().replace("−", "-")
    money = unit_of(match["money"].strip()) if match["money"] else None
    return f"{value}{_attached(text, end)} {money}" if money else _with_unit(text, end, value)


def _with_unit(text: str, end: int, value: str) -> str:
    found = UNIT_AFTER.match(text, end)
    unit = unit_of(found[1]) if found else None
    return f"{value} {unit}" if unit else value + _attached(text, end)


def _attached(text: str, end: int) -> str:
    """Letters right behind a number belong to it even if they are no unit: 5k, 12b, 2x."""
    found = ATTACHED.match(text, end)
    return found[0] if found else ""


def unit_of(text: str) -> str | None:
    """The symbol of a unit, None if it is none that is known. Case tells symbols apart (mW, MW), not names."""
    first, *per = text.split("/")
    unit = _unit(first)
    return "/".join([unit, *(_unit(part) or part for part in per)]) if unit else None


def _unit(text: str) -> str | None:
    power = text[-1] if text[-1] in "²³" else ""
    name = text.removesuffix(power).replace("μ", "µ")
    lower = re.sub(r"\s+", " ", name.lower())
    known = NAMES.get(lower) or NAMES.get(lower.removesuffix("s") if len(lower) > 2 else lower)
    if known is None:
        known = name if name in SYMBOLS else _by_case(name, lower)
    return known + power if known else None


def _by_case(name: str, lower: str) -> str | None:
    """KG can only be kg; what could be two units stays as it is written, so that it equals no other."""
    meant = FOLDED.get(lower, set()) if len(lower) > 1 else set()
    return next(iter(meant)) if len(meant) == 1 else name if meant else None


def _spelled(numerals: list[str]) -> list[str]:
    """The numbers that a run of numerals spells: "one hundred and five" is one, "nineteen eighty-four" are two."""
    found: list[str] = []
    powers = group = 0  # what thousands and more come to so far, and what stands after them
    room, power = 1000, 10**15  # a numeral must be below what was said before it, or it begins another number
    begun = False

    def close(ending: str = "") -> None:
        nonlocal powers, group, room, power, begun
        if begun:
            found.append(f"{powers + group}{ending}")
        powers, group, room, power, begun = 0, 0, 1000, 10**15, False

    for word in numerals:
        cardinal = ORDINALS.get(word, word)
        if cardinal in POWERS:
            if POWERS[cardinal] >= power:
                close()
            powers, group = powers + (group or 1) * POWERS[cardinal], 0
            room, power = 1000, POWERS[cardinal]
        elif cardinal in TIMES:
            if group >= TIMES[cardinal] or room == 100:
                close()
            group, room = (group or 1) * TIMES[cardinal], 100
        else:
            value = ONES.get(cardinal, TENS.get(cardinal, 0))
            if value >= room:
                close()
            group, room = group + value, 10 if cardinal in TENS else 0
        begun = True
        if word in ORDINALS:
            close("th")
    close()
    return found
