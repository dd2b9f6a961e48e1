"""Decides whether an answer states the right numbers in the right units."""

import re
from collections import Counter
from collections.abc import Sequence

from instruct.checks.claims import hedges, is_denied, spans_of
from instruct.checks.numbers import Number, in_digits, numbers_of, with_ones, without_days
from instruct.checks.schema import Check
from instruct.checks.units import canonical_unit
from instruct.checks.words import words_of

_CONCLUSION = re.compile(r"\b(?:so|then|therefore|thus|hence|total)\b")
_STEP_MARK = re.compile(r"^[\s*#]*(?:(?:step|answer)\s+)?(\d{1,2})[.):]\**\s+", re.IGNORECASE | re.MULTILINE)
_REJECTED = re.compile(r", (?:and )?not [$€£]?-?\d[\d.,/]*(?<![.,])")
_ASIDE = re.compile(r"\s*\([^()]*\)|\s(?:in|ex)cl(?:uding|\.)? [$€£]?\d[\d.,]*\s?(?:%|[a-z]+)?")
_CONVERTED = re.compile(
    r"(?<![\d.,])[$€£]?\d[\d.,]*\s?(?:°\s?)?[a-z%]+\s*(?=\(([^()]*)\))"
)  # as in "2 weeks (14 days)"


def states_numbers(check: Check, answer: str, question: str) -> bool:
    """The last numbers are the right ones; others may only repeat the question or be steps on the way."""
    wanted, given = check.values, numbers_of(with_ones(question))
    units = [canonical_unit(unit) for unit in check.units]
    text = _without_asides(answer if len(wanted) > 1 else without_days(answer), units)
    numbers = numbers_of(text)
    steps = _steps(numbers, text)
    while len(wanted) == 1 and numbers and numbers[-1].operand:
        numbers.pop()  # a sum at the end lacks its result
    found = _claims(numbers, wanted, given)
    last = found[-len(wanted) :]
    if len(last) < len(wanted):
        return False
    words = words_of(text)
    spans = [max(places) for one in last if (places := spans_of(words, [one.text]))]
    if hedges(words, question, ()) or is_denied(text, spans, (), question):
        return False
    if not all(_equals(one, value, check.tolerance) for one, value in zip(last, wanted, strict=True)):
        return False
    if not all(_fits(one, unit) or _goes_without(one, unit, given) for one, unit in zip(last, units, strict=False)):
        return False
    rest = [one for one in found[: -len(wanted)] if one not in steps]
    return all(any(_equals(one, value, check.tolerance) for value in wanted) for one in rest)


def _without_asides(answer: str, units: Sequence[str]) -> str:
    """The answer in digits without marks of steps, numbers after ", not", and asides in other units than these."""
    text = _REJECTED.sub("", in_digits(without_marks(answer)))
    text = _ASIDE.sub(lambda match: "" if units and _converts(match[0], units) else match[0], text)
    return _CONVERTED.sub(
        lambda match: "" if _states(match[1], units) and _converts(match[0], units) else match[0], text
    )


def _converts(aside: str, units: Sequence[str]) -> bool:
    """Whether all numbers of a text have another unit than these."""
    numbers = numbers_of(aside)
    return bool(numbers) and all(one.unit not in ("", *units) for one in numbers)


def _states(aside: str, units: Sequence[str]) -> bool:
    """Whether all numbers of a text have one of these units."""
    numbers = numbers_of(aside)
    return bool(numbers) and all(one.unit in units for one in numbers)


def without_marks(answer: str) -> str:
    """The answer without the numbers of its steps or list items (1, 2, 3), unless it has no others."""
    last = 0

    def drop(match: re.Match[str]) -> str:
        nonlocal last
        if int(match[1]) not in (1, last + 1):
            return match[0]
        last = int(match[1])
        return "\n"

    text = _STEP_MARK.sub(drop, answer)
    return text if last and numbers_of(text) else answer


def _steps(numbers: Sequence[Number], text: str) -> set[Number]:
    """The numbers of a calculation: an operator follows, they are used again, or a conclusion follows."""
    uses = Counter(one.text for one in numbers)
    conclusion = max((match.start() for match in _CONCLUSION.finditer(text)), default=0)
    return {one for one in numbers if one.in_sum or uses[one.text] > 1 or one.end <= conclusion}


def _fits(number: Number, unit: str) -> bool:
    """Whether a number has this unit or a rate of it: "40 minutes per day" is an answer in minutes."""
    return number.unit == unit or number.unit.startswith(f"{unit} per ")


def _goes_without(number: Number, unit: str, given: Sequence[Number]) -> bool:
    """Whether a unit may be missing, or "degrees" alone; not where the question has this number in another unit."""
    silent = not number.unit or (number.unit == "degrees" and unit in ("celsius", "fahrenheit"))
    return silent and not any(one.value == number.value and one.unit not in ("", unit) for one in given)


def _claims(numbers: Sequence[Number], wanted: Sequence[float | str], given: Sequence[Number]) -> list[Number]:
    """The numbers that are claims: the question's own are none, unless one is the answer and this one is stated."""
    texts, values = {one.text for one in given}, {one.value for one in given}
    offered = len(wanted) == 1 and any(_equals(one, wanted[0], 0.0) for one in given)
    restated = {one.value for one in given if one.stated}
    return [
        one
        for one in numbers
        if not (one.text in texts or one.value in values)
        or any(_equals(one, value, 0.0) for value in wanted)
        or (offered and one.stated and not one.operand and one.value not in restated)
    ]


def _equals(number: Number, wanted: float | str, tolerance: float) -> bool:
    """A text must appear literally; a number in any form."""
    if isinstance(wanted, str):
        return number.text == wanted
    return abs(number.value - wanted) <= max(tolerance, 1e-9 * abs(wanted))
