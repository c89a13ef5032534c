"""The number that an answer comes to: the last one in it, as an exact value.

To take two different numbers for one is worse than to see none. So what could be read in two ways is not read at all:
"1,5", "3 - 4", "x^2", "2 1/2", "between 3 and 5", "not 7".
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

LONGEST = 200  # characters of a number; an exponent has three digits at most, since the value is exact

RUN = re.compile(r"(?:(?<![\w.])\.)?\d(?:[\d.,:/'’]*\d)?(?:[eE][-+]?\d+)?")
PLAIN = re.compile(r"(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")
QUOTIENT = re.compile(r"(\d+)/(\d+)")
SIGN = re.compile(r"[-+−]?[$€£¥]?[-+−]?\Z")
TAG = re.compile(r"</?[A-Za-z]\w*>")
LATEX_QUOTIENT = re.compile(r"(?<!\d)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
LOOK_BACK = 40  # characters before a number that can change its meaning

# What stands before a number, its sign and its currency, and makes it a part of something else.
ALWAYS_UNCLEAR = re.compile(
    r"""(?: \d[.,:/'’]
          | \d\s*[,;]?[^\S\n]+                                        # 1 000, 2 1/2, 3, 5
          | \d,?\s+(?:and|or|to|through|by|x)\s+                      # 3 and 5
          | [-−‐-―+×·÷/^√≤≥±≈~<]\s*  | (?<![-=])>\s*                  # - 3, 2 × 3, <5; but not => 5
          | [\w)](?:\*|\s\*\s|\*\*(?<=\d\*\*))                        # 2*3, 2 ** 3
          | [\^_]\{ | \}\{ | [)\]}] | sqrt\s*[({] | \w\( | \\[,;:!]   # x^{2}, \sqrt{2}, f(2), 1\,000
          | \b(?:minus|negative|plus|times|over|point|not|than|least|most)\s+
        )\Z""",
    re.VERBOSE | re.IGNORECASE,
)
UNCLEAR_UNSIGNED = re.compile(r"\w\Z")  # B12, GPT4
UNCLEAR_SIGNED = re.compile(r"(?:[\w)\]}]|[\d)\]}]\s+)\Z")  # 5-3, GPT-4, 5 -3
UNCLEAR_AFTER = re.compile(
    r"""[²³¹⁰-⁹¼-¾⅐-⅞⁄^√(\d]                          # 10³, 5½, 5(x + 1)
      | \s*[-−+×·÷/=]\s*[\w(\\√] | \*[\w(] | \s\*\s[\w(]  # 5/x, 5 - x, 5*x
      | \\[A-Za-z]                                       # 5\pi
      | \s+and\s+(?:an?\s+|one\s+|three\s+)?(?:half|halves|thirds?|quarters?)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
NAMED = re.compile(
    r"(?P<space>\s?)(?:(?P<percent>\\?%|per\s?cent\b|pct\b)|°?(?P<word>[^\W\d_]+(?:/[^\W\d_]+)?[²³]?))", re.IGNORECASE
)

CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}
ORDINALS = {"st", "nd", "rd", "th"}
SCALES = set("percentage hundred thousand million billion trillion dozen lakh crore bn k".split())
UNITS = set(
    "mg g kg t lb lbs oz km m cm mm nm mi ft yd ms s sec min h hr hrs l ml L mL J kJ cal kcal W kW MW V kV Hz kHz MHz "
    "GHz KB MB GB TB am pm USD EUR GBP JPY CHF CNY INR gram kilogram milligram ton tonne pound ounce kilometre "
    "kilometer metre meter centimetre centimeter millimetre millimeter mile foot feet inch inches yard second minute "
    "hour day week month year decade century litre liter gallon degree dollar cent euro pence yen rupee".split()
)


@dataclass(frozen=True, slots=True)
class Number:
    value: Fraction
    scale: str  # percent, million, or whatever letters are written onto the number; none: ""
    unit: str  # one that is known; none: ""

    def agrees(self, other: "Number") -> bool:
        """Equal in value and scale; and in unit, where both name one."""
        same_unit = self.unit == other.unit or not (self.unit and other.unit)
        return self.value == other.value and self.scale == other.scale and same_unit


def last_number(text: str) -> Number | None:
    """None where the text has no number, or where it is not clear what the last one is."""
    text = LATEX_QUOTIENT.sub(r"\1/\2", TAG.sub(" ", text))
    runs = list(RUN.finditer(text))
    if not runs:
        return None
    run = runs[-1]
    before, after = text[max(0, run.start() - LOOK_BACK) : run.start()], text[run.end() :]
    signs = SIGN.search(before)
    assert signs is not None, "it matches nothing at all"
    before, sign = before[: signs.start()], signs[0].strip("$€£¥")
    value = _value(run[0])
    if value is None or len(sign) > 1 or _unclear(before, signs[0], sign) or UNCLEAR_AFTER.match(after):
        return None
    scale, unit = _named(after)
    currency = "" if after.startswith("$") else CURRENCIES.get(signs[0].strip("-+−"), "")  # $5$ is a formula
    return Number(-value if sign in {"-", "−"} else value, scale, currency or unit)


def _value(run: str) -> Fraction | None:
    if len(run) > LONGEST:
        return None
    if quotient := QUOTIENT.fullmatch(run):
        above, below = int(quotient[1]), int(quotient[2])
        return Fraction(above, below) if below else None
    return Fraction(Decimal(run.replace(",", ""))) if PLAIN.fullmatch(run) else None


def _unclear(before: str, signs: str, sign: str) -> bool:
    if ALWAYS_UNCLEAR.search(before):
        return True
    if sign:
        return UNCLEAR_SIGNED.search(before) is not None
    return not signs and UNCLEAR_UNSIGNED.search(before) is not None


def _named(after: str) -> tuple[str, str]:
    """The scale and the unit that stand behind a number."""
    named = NAMED.match(after)
    if named is None:
        return "", ""
    word, attached = named["word"] or "", not named["space"]
    if named["percent"]:
        return "%", ""
    if (scale := word.lower().removesuffix("s")) in SCALES:
        return scale, ""
    unit = word if word in UNITS or word.split("/")[0].rstrip("²³") in UNITS else _singular(word)
    if unit and not (attached and len(word) == 1):  # 5m may be five million
        return "", unit
    return (word if attached and word.lower() not in ORDINALS else ""), ""


def _singular(word: str) -> str:
    """A unit that is written out, without its s; "" of any other word."""
    one = word.lower()
    return next((form for form in (one, one.removesuffix("s")) if len(form) > 2 and form in UNITS), "")
