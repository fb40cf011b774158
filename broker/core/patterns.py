"""Patterns: the regular expressions of people (permissions, policies), safe to run in the loop.

Law: a pattern that gets through costs a bounded number of steps on any name of 255 bytes.
Python's ``re`` backtracks: ``^(a+)+$`` doubles its work with each character. So a pattern is
screened when it is set, never when it is used. Two rules, both on the parsed pattern:

1. Inside a repetition every choice is decided by the next character: ``([a-z]+[.])*`` passes,
   ``(a+)+`` and ``(a|a)*`` do not.
2. Outside, the choices that the next character does not decide multiply, among them where to
   begin if there is no ``^``; their product, times the length of a repetition that must be
   walked again for each, stays below that of three unbounded repetitions.

Called by: core.users, core.policy, topology (to name the place of a bad pattern).
"""

import importlib
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import cast

Item = tuple[object, object]  # an operation and its argument, as the parser of ``re`` has it

MAX_PATTERN = 4096
MAX_NAME = 255  # a short string of the protocol
MAX_CHOICES = (MAX_NAME + 1) ** 3

_parser = importlib.import_module("re._parser")

_ALL = frozenset(range(257))  # 256 stands for every character outside Latin-1
_NONE: frozenset[int] = frozenset()
_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}


class PatternError(ValueError):
    """A regular expression that is not valid, or that could run for too long."""


@lru_cache(maxsize=4096)
def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern that is searched for, unanchored, in names.

    The empty pattern matches the empty name only, as in RabbitMQ's permissions.

    Raises:
      PatternError: with a text that names the pattern and what is wrong with it.
    """
    if len(text) > MAX_PATTERN:
        raise PatternError(f"pattern '{text[:40]}...' is longer than {MAX_PATTERN} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # [[:alpha:]] means something else in Python
            pattern = re.compile(text or "^$")
            if _choices(text) > MAX_CHOICES:
                raise _Ambiguous
    except _Ambiguous:
        raise PatternError(
            f"pattern '{text}' could take too long to match: make its repetitions end at a"
            " character that they do not contain ('[^.]+[.]' instead of '.+[.]'), and start"
            " it with '^'"
        ) from None
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise PatternError(f"pattern '{text}' is not a regular expression: {error}") from None
    return pattern


class _Ambiguous(Exception):
    """Rule 1 or 2 does not hold."""


def _choices(text: str) -> int:
    screen = _Screen()
    items = list(_parser.parse(text))
    screen.sequence(items, _NONE, in_loop=False)
    anchored = bool(items) and str(items[0]) in ("(AT, AT_BEGINNING)", "(AT, AT_BEGINNING_STRING)")
    return screen.choices * screen.scan * (1 if anchored else MAX_NAME)


class _Screen:
    """One walk over a parsed pattern, from its end: what can follow is known at each choice.

    Each method returns the characters its item may begin with, and whether it may be empty.
    """

    def __init__(self) -> None:
        self.choices = 1
        self.scan = 1  # steps of a repetition without choices, taken anew for each choice before
        self._begins: dict[int, frozenset[int]] = {}  # by id of the parsed items, which live on

    def sequence(
        self, items: Sequence[Item], follow: frozenset[int], *, in_loop: bool
    ) -> tuple[frozenset[int], bool]:
        first, empty = _NONE, True
        for operation, argument in reversed(items):
            after = first | follow if empty else first
            item_first, item_empty = self.item(str(operation), argument, after, in_loop=in_loop)
            first = item_first | first if item_empty else item_first
            empty = empty and item_empty
        return first, empty

    def item(
        self, operation: str, argument: object, follow: frozenset[int], *, in_loop: bool
    ) -> tuple[frozenset[int], bool]:
        match operation, argument:
            case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY", _:
                return _characters(operation, argument), False
            case "AT", at:
                # An end can fail after any repetition: as if any character could follow.
                return (_ALL if str(at).startswith("AT_END") else _NONE), True
            case "SUBPATTERN", (_, _, _, items):
                return self.sequence(_items(items), follow, in_loop=in_loop)
            case "ATOMIC_GROUP", items:
                return self.sequence(_items(items), follow, in_loop=in_loop)
            case "ASSERT" | "ASSERT_NOT", (_, items):
                self.sequence(_items(items), _NONE, in_loop=in_loop)
                return _NONE, True
            case "BRANCH", (_, list(branches)):
                return self.branch([_items(branch) for branch in branches], follow, in_loop)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT", (int(low), int(high), items):
                return self.repeat(low, high, items, follow, in_loop)
            case _:  # back-references and conditions: no name needs them
                raise _Ambiguous

    def branch(
        self, branches: list[list[Item]], follow: frozenset[int], in_loop: bool
    ) -> tuple[frozenset[int], bool]:
        union, some_empty, overlap = _NONE, False, False
        for items in branches:
            first, empty = self.sequence(items, follow, in_loop=in_loop)
            starts = first | follow if empty else first
            overlap = overlap or bool(union & starts) or (empty and some_empty)
            union |= starts
            some_empty = some_empty or empty
        if overlap:
            self.choose(len(branches), in_loop)
        return union, some_empty

    def repeat(
        self,
        low: int,
        high: int,
        items: object,
        follow: frozenset[int],
        in_loop: bool,
    ) -> tuple[frozenset[int], bool]:
        looping = high > 1
        after = follow | self.begins(items) if looping else follow
        first, empty = self.sequence(_items(items), after, in_loop=in_loop or looping)
        ways = min(high, MAX_NAME) - low + 1
        if looping and empty:
            raise _Ambiguous
        if low != high and (empty or first & follow):
            self.choose(ways, in_loop)
        elif looping:
            self.scan = MAX_NAME
        return first, empty or low == 0

    def begins(self, items: object) -> frozenset[int]:
        """Return what a repeated body may begin with: it can follow itself."""
        if id(items) not in self._begins:
            inner = _Screen()
            inner._begins = self._begins
            self._begins[id(items)] = inner.sequence(_items(items), _NONE, in_loop=False)[0]
        return self._begins[id(items)]

    def choose(self, ways: int, in_loop: bool) -> None:
        if in_loop:
            raise _Ambiguous
        self.choices *= max(ways, 1)


def _characters(operation: str, argument: object) -> frozenset[int]:
    match operation, argument:
        case "LITERAL", int(code):
            return _both_cases([code])
        case "NOT_LITERAL", int(code):
            return _ALL - {code}
        case "IN", items:
            return _set_of([(str(name), value) for name, value in _items(items)])
        case _:
            return _ALL


def _set_of(items: list[tuple[str, object]]) -> frozenset[int]:
    found: frozenset[int] = _NONE
    for name, value in items:
        match name, value:
            case "LITERAL", int(code):
                found |= _both_cases([code])
            case "RANGE", (int(low), int(high)):
                found |= _both_cases(range(low, min(high, 256) + 1))
                found |= {256} if high > 255 else _NONE
            case "CATEGORY", category:
                found |= _category(str(category))
    if items and items[0][0] == "NEGATE":
        return (_ALL - found) | {256}
    return found


@lru_cache(maxsize=16)
def _category(name: str) -> frozenset[int]:
    kind = name.rpartition("_")[2]
    inside = {code for code in range(256) if re.match(_CATEGORIES[kind], chr(code))}
    return (_ALL - inside if "_NOT_" in name else frozenset(inside)) | {256}


def _both_cases(codes: Iterable[int]) -> frozenset[int]:
    """Upper and lower case, whether the pattern asks for it or not: the careful side."""
    letters = {ord(other) for code in codes for other in _cases(chr(code))}
    return frozenset(min(code, 256) for code in letters)


def _cases(character: str) -> str:
    swapped = character.swapcase()
    return character + swapped if len(swapped) == 1 else character


def _items(parsed: object) -> list[Item]:
    return list(cast(Iterable[Item], parsed))
