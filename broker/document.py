"""Documents: YAML and JSON files read into nodes that know where they stand.

Law: whoever takes a value out of a node says what it must be, and the error for anything else
names file, line and key path. Only scalars, lists and mappings with text keys exist; a file
cannot make the reader run for long or build objects. An error is one line that can be read,
whatever the file holds.

Called by: config (leveret.yaml), definitions (topology).
"""

import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    import yaml

Content: TypeAlias = "dict[str, Node] | list[Node] | str | int | float | bool | None"
T = TypeVar("T")

MAX_DEPTH = 64
MAX_ALIASED = 100_000  # values beyond one a character: only aliases of aliases make more
MAX_NUMBER = 100  # characters; Python refuses to print integers of some thousand digits
MAX_TEXT = 800  # characters of an error behind its place


class DocumentError(ValueError):
    """What is wrong with a file, on one line that names the place."""


def nearest(name: str, known: Collection[str]) -> str:
    """Return a hint for a name that is not known: the one it looks like, or all of them."""
    from difflib import get_close_matches  # only those who mistyped wait for the import

    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known are: " + ", ".join(sorted(known))


class Node:
    """One value of a document and its place in it."""

    __slots__ = ("content", "document", "line", "path")

    def __init__(self, document: "Document", path: str, line: int, content: Content) -> None:
        self.document = document
        self.path = path
        self.line = line
        self.content = content

    @property
    def place(self) -> str:
        """File, line and key path, as an error begins."""
        line = self.document.line_of(self)
        return self.document.place(line, self.path)

    def error(self, text: str) -> DocumentError:
        """Return the error that something is wrong here."""
        return DocumentError(f"{self.place}: {_readable(text)}")

    def expected(self, what: str) -> DocumentError:
        """Return the error that something else should stand here."""
        return self.error(f"expected {what}, found {self._described()}")

    def items(self, what: str = "a mapping") -> "dict[str, Node]":
        """Return the entries of a mapping whatever their names."""
        if isinstance(self.content, dict):
            return self.content
        raise self.expected(what)

    def mapping(self, known: Collection[str], required: Collection[str] = ()) -> "dict[str, Node]":
        """Return the entries of a mapping that may hold these names and no others."""
        entries = self.items("a mapping with " + ", ".join(known))
        for name, entry in entries.items():
            if name not in known:
                raise entry.error(f"unknown key '{name}'; {nearest(name, known)}")
        for name in required:
            if name not in entries:
                raise self.error(f"'{name}' is missing")
        return entries

    def elements(self, what: str = "a list") -> "list[Node]":
        """Return the elements of a list."""
        if isinstance(self.content, list):
            return self.content
        raise self.expected(what)

    def text(self, what: str = "a text") -> str:
        """Return a string; a number or a date in YAML needs quotes to be one."""
        if isinstance(self.content, str):
            return self.content
        raise self.expected(what)

    def short_text(self, what: str = "a name") -> str:
        """Return a string that fits the protocol's short strings."""
        text = self.text(what)
        if len(text.encode()) > 255:
            raise self.error(f"{what} of at most 255 bytes is allowed")
        return text

    def boolean(self) -> bool:
        """Return true or false."""
        if isinstance(self.content, bool):
            return self.content
        raise self.expected("true or false")

    def integer(self) -> int:
        """Return an integer."""
        if isinstance(self.content, int) and not isinstance(self.content, bool):
            return self.content
        raise self.expected("an integer")

    def converted(self, convert: Callable[[object], T]) -> T:
        """Return what a function makes of the plain value; its ValueError gets this place."""
        try:
            return convert(self.plain())
        except DocumentError:
            raise
        except ValueError as error:
            raise self.error(str(error)) from None

    def plain(self) -> object:
        """Return the value without places."""
        if isinstance(self.content, dict):
            return {name: entry.plain() for name, entry in self.content.items()}
        if isinstance(self.content, list):
            return [element.plain() for element in self.content]
        return self.content

    def walk(self) -> "Iterator[Node]":
        """Yield this node and all below it."""
        yield self
        if isinstance(self.content, dict | list):
            below = self.content.values() if isinstance(self.content, dict) else self.content
            for node in below:
                yield from node.walk()

    def _described(self) -> str:
        match self.content:
            case None:
                return "nothing"
            case dict():
                return "a mapping"
            case list():
                return "a list"
            case bool():
                return "true" if self.content else "false"
            case str():
                return f"'{_short(self.content)}'"
            case number:
                return str(number)


class Document:
    """A file: its name for people, and its root node."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self._source = source
        self._count = 0
        self._lines: dict[str, int] | None = None
        self.is_json = name.endswith(".json")
        self.root = self._from_json() if self.is_json else self._from_yaml()

    def place(self, line: int, path: str = "") -> str:
        """Return a place as an error begins; line 0 is not known."""
        head = f"{self.name}:{line}" if line else self.name
        return f"{head}: {_readable(path)}" if path else head

    def line_of(self, node: Node) -> int:
        """Return the line of a node, 0 if it is not known.

        JSON is read without places, for speed: the first question reads it once more, as YAML.
        """
        if not self.is_json:
            return node.line
        if self._lines is None:
            try:
                self._lines = {other.path: other.line for other in self._from_yaml().walk()}
            except DocumentError:
                self._lines = {}
        return self._lines.get(node.path, 0)

    def _from_json(self) -> Node:
        try:
            value = json.loads(
                self._source, object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float
            )
        except json.JSONDecodeError as error:
            raise DocumentError(f"{self.name}:{error.lineno}: not JSON: {error.msg}") from None
        except RecursionError:
            raise DocumentError(f"{self.name}: nested too deeply") from None
        except ValueError as error:
            raise DocumentError(f"{self.name}: {_readable(str(error))}") from None
        return self._json_node(value, "", 0)

    def _json_node(self, value: object, path: str, depth: int) -> Node:
        self._admit(depth, 0, path)
        content: Content
        if isinstance(value, dict):
            for name in value:
                if not _is_text(name):
                    raise Node(self, path, 0, None).error(_no_text(name))
            content = {
                name: self._json_node(entry, _join(path, name), depth + 1)
                for name, entry in value.items()
            }
        elif isinstance(value, list):
            content = [
                self._json_node(entry, f"{path}[{index}]", depth + 1)
                for index, entry in enumerate(value)
            ]
        elif isinstance(value, _TooLong):
            raise Node(self, path, 0, value).error(_too_long(value))
        elif isinstance(value, str) and not _is_text(value):
            raise Node(self, path, 0, value).error(_no_text(value))
        else:
            content = cast(Content, value)
        return Node(self, path, 0, content)

    def _from_yaml(self) -> Node:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        source = self._source
        if self.is_json:  # read for its lines; YAML has no characters in two halves
            source = _SURROGATE.sub(r"\\ufffd", source)
        try:
            root = yaml.compose(source, Loader=loader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            raise DocumentError(
                f"{self.name}:{line}: not YAML: {_readable(str(error.problem or error.context))}"
                + (_STAR_HINT if _is_about_a_star(error) else "")
            ) from None
        except (yaml.YAMLError, RecursionError, UnicodeEncodeError) as error:
            text = " ".join(str(error).split())
            raise DocumentError(f"{self.name}: not YAML: {_readable(text)}") from None
        if root is None:
            return Node(self, "", 1, None)
        return self._yaml_node(root, "", 0, yaml.constructor.SafeConstructor())

    def _yaml_node(
        self,
        node: "yaml.Node",
        path: str,
        depth: int,
        make: "yaml.constructor.SafeConstructor",
        line: int = 0,
    ) -> Node:
        import yaml

        line = line or node.start_mark.line + 1
        self._admit(depth, line, path)
        if node.tag.rpartition(":")[0] != "tag:yaml.org,2002" or node.tag.endswith(("omap", "set")):
            raise self._error(line, "", f"the tag '{node.tag}' is not allowed")
        content: Content
        if isinstance(node, yaml.MappingNode):
            content = {
                key: self._yaml_node(entry, _join(path, key), depth + 1, make, key_line)
                for key, (entry, key_line) in self._entries(node, path, depth).items()
            }
        elif isinstance(node, yaml.SequenceNode):
            content = [
                self._yaml_node(entry, f"{path}[{index}]", depth + 1, make)
                for index, entry in enumerate(node.value)
            ]
        else:
            content = self._scalar(node, path, line, make)
        return Node(self, path, line, content)

    def _entries(
        self, node: "yaml.MappingNode", path: str, depth: int
    ) -> "dict[str, tuple[yaml.Node, int]]":
        """Return the entries of a mapping with the lines of their keys.

        What it takes over by ``<<`` comes first, and gives way to its own.
        """
        import yaml

        own: dict[str, tuple[yaml.Node, int]] = {}
        taken: dict[str, tuple[yaml.Node, int]] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(line, path, "a key must be a text")
            if key.tag == "tag:yaml.org,2002:merge":
                sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for source in sources:
                    if not isinstance(source, yaml.MappingNode):
                        raise self._error(line, path, "'<<' takes over mappings only")
                    self._admit(depth + 1, line, path)  # it may take over itself
                    taken = {**self._entries(source, path, depth + 1), **taken}
            elif key.value in own:
                raise self._error(line, path, f"the key '{key.value}' is there twice")
            elif not _is_text(key.value):
                raise self._error(line, path, _no_text(key.value))
            else:
                own[key.value] = value, line
        return {**taken, **own}

    def _scalar(
        self, node: "yaml.Node", path: str, line: int, make: "yaml.constructor.SafeConstructor"
    ) -> Content:
        if self.is_json:  # the value is known
            return None
        kind = node.tag.rpartition(":")[2]
        text = str(node.value)
        if kind in ("str", "timestamp", "value"):
            if not _is_text(text):
                raise self._error(line, path, _no_text(text))
            return text
        if kind not in _SCALARS:
            raise self._error(line, "", f"the tag '{node.tag}' is not allowed")
        if len(text) > MAX_NUMBER:
            raise self._error(line, path, _too_long(text))
        try:
            return cast(Content, make.construct_object(node))
        except (ValueError, IndexError, KeyError):
            raise self._error(line, path, f"'{text}' is not {_SCALARS[kind]}") from None

    def _error(self, line: int, path: str, text: str) -> DocumentError:
        return DocumentError(f"{self.place(line, path)}: {_readable(text)}")

    def _admit(self, depth: int, line: int, path: str) -> None:
        self._count += 1
        if depth > MAX_DEPTH:
            raise self._error(line, path, f"nested more than {MAX_DEPTH} levels deep")
        if self._count > len(self._source) + MAX_ALIASED:
            raise self._error(line, path, f"aliases stand for more than {MAX_ALIASED} values")


_SCALARS = {"int": "an integer", "float": "a number", "bool": "true or false", "null": "nothing"}
_STAR_HINT = "; a value that begins with '*' needs quotes"


def _is_about_a_star(error: "yaml.MarkedYAMLError") -> bool:
    return "alias" in f"{error.context} {error.problem}"


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key '{name}' is there twice")
            seen.add(name)
    return entries


class _TooLong(str):
    """The digits of a number nobody means."""

    __slots__ = ()


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= MAX_NUMBER else _TooLong(text)


def _float(text: str) -> float | str:
    return float(text) if len(text) <= MAX_NUMBER else _TooLong(text)


def _too_long(digits: str) -> str:
    return f"'{_short(digits)}' is too long for a number ({len(digits)} characters)"


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def _is_text(text: str) -> bool:
    """Return whether a string can be encoded: JSON can name half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_text(text: str) -> str:
    return f"'{_short(text)}' is not a text: it holds half a character (a lone surrogate)"


_WORD = re.compile(r"\S{200,}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _readable(text: str) -> str:
    """Return what can be read on one line: the middle of what is long is left out."""
    text = _WORD.sub(lambda word: f"{word[0][:60]}...{word[0][-40:]}", text)
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT - 200]} ... {text[-200:]}"
    return _UNPRINTABLE.sub(lambda character: ascii(character[0])[1:-1], text)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def read(path: str | Path) -> Node:
    """Read a file; its name decides between JSON (``.json``) and YAML.

    Raises:
      DocumentError: If it cannot be read, or is not what its name says.
    """
    try:
        source = Path(path).read_bytes().decode()
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}: not UTF-8 at byte {error.start}") from None
    return Document(str(path), source.removeprefix("\ufeff")).root
