"""A machine for pickles that knows the instructions which build plain values, and nothing else.

A pickle is a program; ``pickle.load`` runs it and imports what it names. This machine looks no name up: a name is
compared with a table that the caller brings, whose answers are inert stand-ins, and every other name is refused before
anything is made of it.

What a file can make is bounded: `OPERATIONS` instructions, `DEPTH` levels, keys that are numbers or text (the hash of a
nest of shared tuples takes for ever), short names and numbers, a memo that is a dict (its places come from the file),
lengths that are compared with what is left of the file before anything is read.
Format: Python documentation, ``pickletools``; protocols 0 to 5.
"""

import codecs
import contextlib
import reprlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ddjax.errors import DataError

OPERATIONS = 4_000_000  # instructions of one pickle; each may make one small object
DEPTH = 20
NAMES = 256  # characters of a name
DIGITS = 64  # bytes of a whole number
_MAGIC = {
    b"\x89HDF": "an HDF5 file", b"\x1f\x8b": "packed by gzip (unpack it first)", b"PK": "a zip archive",
    b"BZh": "packed by bzip2 (unpack it first)", b"\xfd7zXZ": "packed by xz (unpack it first)", b"\x89PNG": "a picture",
}  # fmt: skip
ALLOWED = "numpy arrays, lists, dicts, bytes, text and numbers"


class Name(NamedTuple):
    """A global that the table admits: what the file calls it, and what answers for it."""

    text: str
    answer: Any


class StandIn:
    """What a call in the file makes, until the whole pickle is read; ``value`` then gives the array."""

    def build(self, state: Any) -> None:
        """Take the state that the file hands over."""
        raise DataError(f"gives a state to a {type(self).__name__.strip('_').lower()}.")

    def value(self) -> Any:
        """The NumPy array or number."""
        raise DataError(f"holds a {type(self).__name__.strip('_').lower()}.")


def as_text(value: Any) -> str:
    """A name or a key: text of Python 3, or the bytes that Python 2 wrote for it."""
    if not isinstance(value, str | bytes) or len(value) > NAMES:
        raise DataError(f"has {reprlib.repr(value)} for a name.")
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


@contextlib.contextmanager
def refusing(where: str, data: bytes) -> Iterator[None]:
    """``with refusing(where, data):`` whatever a malformed pickle raises becomes a `DataError` that names ``where``."""
    try:
        yield
    except DataError as error:
        told = str(error)
        raise DataError(told if told.startswith(where) else f"{where}: the pickle {told}") from None
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a malformed pickle raises almost any type
        raise DataError(f"{where}: not a readable pickle; {_instead(data, error)}.") from error


def _instead(data: bytes, error: Exception) -> str:
    """What a file that is no pickle seems to be."""
    start = bytes(data[:40])
    kind = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    if kind:
        return f"it is {kind}"
    if not start:
        return "it is empty"
    if start[8:9] == b"{" and 8 + int.from_bytes(start[:8], "little") <= len(data):
        return "it is a safetensors file"
    if start.isascii() and start.decode().replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return f"it is text, which begins {start.decode()!r}"
    return "it is cut short" if isinstance(error, EOFError) else "it is damaged, or a file of another kind"


class Machine:
    """Runs one pickle; ``names`` answers for globals, ``persistent`` for references to what lies outside of it."""

    def __init__(
        self,
        data: Any,
        names: Mapping[tuple[str, str], Any],
        *,
        persistent: Callable[[Any], Any] | None = None,
        allowed: str = ALLOWED,
    ):
        self.data, self.names, self.persistent, self.allowed = data, names, persistent, allowed
        self.at, self.stack, self.marks, self.memo = 0, [], [], {}

    def run(self, start: int = 0) -> tuple[Any, int]:
        """The value of the pickle that starts at ``start``, and where it ends."""
        self.at, self.stack, self.marks, self.memo = start, [], [], {}
        data, size = self.data, len(self.data)
        for _ in range(OPERATIONS):
            if self.at >= size:
                raise EOFError("it ends early")
            code = data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                return self.stack.pop(), self.at
            step = _STEPS.get(code)
            if step is None and code in _REFUSED:
                raise DataError(_REFUSED[code])
            if step is None:
                raise ValueError(f"the unknown instruction {bytes([code])!r}")
            step(self)
        raise DataError(f"has more than {OPERATIONS} instructions.")

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes of the file."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise EOFError(f"{count} bytes announced, {len(self.data) - self.at} left")
        found = self.data[self.at : end]
        self.at = end
        return found

    def sized(self, width: str) -> bytes:
        """Bytes with their length in front, ``width`` being a format of ``struct``."""
        return self.take(struct.unpack(width, self.take(struct.calcsize(width)))[0])

    def line(self) -> bytes:
        """The bytes up to the end of the line."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise EOFError("a line without an end")
        found = self.data[self.at : end]
        self.at = end + 1
        return found

    def items(self) -> list:
        """What lies above the last mark, taken off."""
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def name(self, module: Any, name: Any) -> None:
        """Push a global, if the table has it."""
        key = (as_text(module), as_text(name))
        if key not in self.names:
            raise DataError(f"asks for {'.'.join(key)}; allowed: {self.allowed}. It was not run.")
        self.stack.append(Name(".".join(key), self.names[key]))

    def call(self, arguments: Any) -> None:
        """Put what the answer for a name makes of ``arguments`` in the name's place."""
        named = self.stack.pop()
        if not isinstance(named, Name) or not callable(named.answer) or not isinstance(arguments, tuple | list):
            raise DataError(f"calls {named.text if isinstance(named, Name) else 'what is no function'}.")
        self.stack.append(named.answer(*arguments))

    def outside(self, reference: Any) -> None:
        """Push what a reference to something outside of the pickle stands for."""
        if self.persistent is None:
            raise DataError(f"asks for the outside object {reprlib.repr(reference)}; allowed: data in the file.")
        self.stack.append(self.persistent(reference))

    def store(self, target: Any, pairs: list) -> None:
        """Set ``pairs``, keys and values in turn, in a dict."""
        if type(target) is not dict or len(pairs) % 2:
            raise DataError(f"sets items of a {type(target).__name__}.")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | bytes | int | float | None):
                raise DataError(f"has a {type(key).__name__} as a key; allowed: numbers, text.")
            target[key] = value

    def append(self, values: list) -> None:
        """Add ``values`` to the list on the stack."""
        target = self.stack[-1]
        if type(target) is not list:
            raise DataError(f"appends to a {type(target).__name__}.")
        target.extend(values)

    def give_state(self) -> None:
        """Hand the state on the stack to the stand-in below it."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, StandIn):
            raise DataError(f"gives a state to a {type(target).__name__}; allowed: arrays.")
        target.build(state)


def finished(value: Any) -> Any:
    """``value`` with every stand-in replaced by its array; shared parts stay shared."""
    return _finished(value, {}, 0)


def _finished(value: Any, known: dict[int, Any], depth: int) -> Any:
    if depth > DEPTH:
        raise DataError(f"nests more than {DEPTH} levels deep.")
    if isinstance(value, Name):
        raise DataError(f"holds the name {value.text}; allowed: arrays, lists, dicts, text, numbers.")
    if isinstance(value, bytes | bytearray | str | int | float | complex | None):
        return value
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, StandIn):
        result = value.value()
    elif isinstance(value, dict):
        result = {key: _finished(held, known, depth + 1) for key, held in value.items()}
    elif isinstance(value, list | tuple):
        items = [_finished(held, known, depth + 1) for held in value]
        result = items if isinstance(value, list) else tuple(items)
    else:
        raise DataError(f"holds a {type(value).__name__}; allowed: arrays, lists, dicts, text, numbers.")
    known[id(value)] = result
    return result


# ----------------------------------------------------------------------------------- the instructions


def _push(make: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(make(m))


def _number(width: str) -> Callable[[Machine], Any]:
    size = struct.calcsize(width)
    return lambda m: struct.unpack(width, m.take(size))[0]


def _whole(line: bytes) -> int | bool:
    return line == b"01" if line in (b"00", b"01") else _decimal(line)


def _long(held: bytes) -> int:
    if len(held) > DIGITS:
        raise DataError(f"has a whole number of {len(held)} bytes; allowed: {DIGITS}.")
    return int.from_bytes(held, "little", signed=True)


def _decimal(line: bytes) -> int:
    if len(line) > 2 * DIGITS:
        raise DataError(f"has a whole number of {len(line)} digits; allowed: {2 * DIGITS}.")
    return int(line.rstrip(b"L"))


def _quoted(line: bytes) -> bytes:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    return bytes(codecs.escape_decode(line[1:-1])[0])  # pyright: ignore[reportArgumentType]


def _remember(m: Machine, place: int) -> None:
    m.memo[place] = m.stack[-1]


def _tuple(count: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        if len(m.stack) < count:
            raise IndexError("the stack is empty")
        m.stack[-count:] = [tuple(m.stack[-count:])]

    return step


def _named_by_stack(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.name(module, name)


def _instance(m: Machine) -> None:
    found = m.items()
    m.name(m.line(), m.line())
    m.call(found)


def _object(m: Machine) -> None:
    found = m.items()
    m.stack.append(found[0])
    m.call(found[1:])


def _set_one(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.store(m.stack[-1], [key, value])


def _new_dict(m: Machine) -> dict:
    made, found = {}, m.items()
    m.store(made, found)
    return made


def _keyword_call(m: Machine) -> None:
    if m.stack.pop():
        raise DataError("calls with keywords.")
    m.call(m.stack.pop())


_STEPS: dict[int, Callable[[Machine], Any]] = {
    ord(code): step
    for code, step in {
        "\x80": lambda m: m.take(1),  # protocol
        "\x95": lambda m: m.take(8),  # frame: a hint
        "(": lambda m: m.marks.append(len(m.stack)),
        "0": lambda m: m.stack.pop(),
        "1": lambda m: m.items() and None,
        "2": _push(lambda m: m.stack[-1]),
        "N": _push(lambda m: None),
        "\x88": _push(lambda m: True),
        "\x89": _push(lambda m: False),
        "I": _push(lambda m: _whole(m.line())),
        "J": _push(_number("<i")),
        "K": _push(_number("<B")),
        "M": _push(_number("<H")),
        "L": _push(lambda m: _decimal(m.line())),
        "\x8a": _push(lambda m: _long(m.sized("<B"))),
        "\x8b": _push(lambda m: _long(m.sized("<i"))),
        "F": _push(lambda m: float(m.line())),
        "G": _push(_number(">d")),
        "S": _push(lambda m: _quoted(m.line())),
        "T": _push(lambda m: m.sized("<i")),
        "U": _push(lambda m: m.sized("<B")),
        "V": _push(lambda m: m.line().decode("raw-unicode-escape")),
        "X": _push(lambda m: m.sized("<I").decode("utf-8", "surrogatepass")),
        "\x8c": _push(lambda m: m.sized("<B").decode("utf-8", "surrogatepass")),
        "\x8d": _push(lambda m: m.sized("<Q").decode("utf-8", "surrogatepass")),
        "B": _push(lambda m: m.sized("<I")),
        "C": _push(lambda m: m.sized("<B")),
        "\x8e": _push(lambda m: m.sized("<Q")),
        "\x96": _push(lambda m: bytearray(m.sized("<Q"))),
        "]": _push(lambda m: []),
        "a": lambda m: m.append([m.stack.pop()]),
        "e": lambda m: m.append(m.items()),
        "l": _push(lambda m: m.items()),
        ")": _push(lambda m: ()),
        "t": _push(lambda m: tuple(m.items())),
        "\x85": _tuple(1),
        "\x86": _tuple(2),
        "\x87": _tuple(3),
        "}": _push(lambda m: {}),
        "d": _push(_new_dict),
        "s": _set_one,
        "u": lambda m: m.store(m.stack[m.marks[-1] - 1], m.items()),
        "c": lambda m: m.name(m.line(), m.line()),
        "\x93": _named_by_stack,
        "R": lambda m: m.call(m.stack.pop()),
        "\x81": lambda m: m.call(m.stack.pop()),
        "\x92": _keyword_call,
        "i": _instance,
        "o": _object,
        "b": lambda m: m.give_state(),
        "p": lambda m: _remember(m, int(m.line())),
        "q": lambda m: _remember(m, m.take(1)[0]),
        "r": lambda m: _remember(m, struct.unpack("<I", m.take(4))[0]),
        "\x94": lambda m: _remember(m, len(m.memo)),
        "g": _push(lambda m: m.memo[int(m.line())]),
        "h": _push(lambda m: m.memo[m.take(1)[0]]),
        "j": _push(lambda m: m.memo[struct.unpack("<I", m.take(4))[0]]),
        "P": lambda m: m.outside(m.line()),
        "Q": lambda m: m.outside(m.stack.pop()),
    }.items()
}
_REFUSED = {
    **dict.fromkeys((0x82, 0x83, 0x84), "asks for a registered extension; allowed: data in the file."),
    **dict.fromkeys((0x8F, 0x90), "holds a set; allowed: arrays, lists, dicts, text, numbers."),
    0x91: "holds a frozenset; allowed: arrays, lists, dicts, text, numbers.",
    **dict.fromkeys((0x97, 0x98), "asks for a buffer outside of it; allowed: data in the file."),
}
