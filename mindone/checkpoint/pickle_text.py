"""An interpreter for the pickles in PyTorch files that builds plain data and runs nothing.

Python's own unpickler calls whatever a file names. Here a name stays a name: the few that describe tensors and plain
containers are understood, and a file that names anything else is refused. No function, class or method that a file
mentions is ever looked up.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO


class RefusedPickle(Exception):
    """The pickle names something that is not plain data; the message is that name."""


class DamagedPickle(Exception):
    """The bytes are not a complete pickle."""


@dataclass(frozen=True)
class Global:
    """The name ``module.attribute`` of something that a pickle refers to."""

    name: str


@dataclass(frozen=True)
class Inert:
    """In place of an object that is neither tensor nor container, such as a numpy scalar or a device."""

    name: str


_VALUES = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "FLOAT",
        "BINFLOAT",
    ]
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_KEYS = (str, int, float, bytes, type(None))
# A checkpoint of ten thousand tensors takes a few hundred thousand steps. Every step makes one small object at most.
MAX_STEPS = 3_000_000


def read_pickle(
    stream: BinaryIO, calls: dict[str, Callable[..., Any]], allowed: Callable[[str], bool], persistent: Callable
) -> Any:
    """Interprets one pickle and leaves the stream behind its end.

    Args:
        calls: name → function of ours that stands for a call of that name.
        allowed: which other names may occur; calling one gives an `Inert`.
        persistent: turns a persistent id, which in PyTorch files is a storage, into a value.
    Raises:
        RefusedPickle: another name occurs.
        DamagedPickle: cut or senseless.
    """
    try:
        return _Machine(calls, allowed, persistent).run(stream)
    except (RefusedPickle, DamagedPickle):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedPickle(str(error)) from error


@dataclass
class _Machine:
    calls: dict[str, Callable[..., Any]]
    allowed: Callable[[str], bool]
    persistent: Callable[[Any], Any]
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    steps: int = 0

    def run(self, stream: BinaryIO) -> Any:
        for opcode, argument, _ in pickletools.genops(stream):
            self._spend(1)
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name not in ("PROTO", "FRAME"):
                self._step(opcode.name, argument)
        raise DamagedPickle("it has no end")

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise DamagedPickle(f"it has more than {MAX_STEPS} steps")

    def _step(self, name: str, argument: Any) -> None:
        handler = getattr(self, f"_op_{name.lower()}", None)
        if handler is None:
            raise RefusedPickle(f"pickle opcode {name}")
        handler(argument)

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    # Marks, memory, order.

    def _op_mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _op_pop(self, _: Any) -> None:
        self.stack.pop()

    def _op_pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _op_dup(self, _: Any) -> None:
        self._push(self.stack[-1])

    def _op_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _op_get(self, index: int) -> None:
        self._push(self.memo[index])

    _op_binput = _op_long_binput = _op_put
    _op_binget = _op_long_binget = _op_get

    # Containers.

    def _op_tuple(self, _: Any) -> None:
        self._push(tuple(self._since_mark()))

    def _op_list(self, _: Any) -> None:
        self._push(self._since_mark())

    _op_frozenset = _op_list

    def _op_dict(self, _: Any) -> None:
        items = self._since_mark()
        self._push({})
        self._set_items(items)

    def _op_tuple1(self, _: Any) -> None:
        self._last(1)

    def _op_tuple2(self, _: Any) -> None:
        self._last(2)

    def _op_tuple3(self, _: Any) -> None:
        self._last(3)

    def _last(self, count: int) -> None:
        if len(self.stack) < count:
            raise DamagedPickle("a tuple lacks items")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _op_append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _op_appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    _op_additems = _op_appends

    def _extend(self, items: list[Any]) -> None:
        # An Inert in the place of a list takes its items and stays one.
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _op_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _op_setitems(self, _: Any) -> None:
        self._set_items(self._since_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):
                raise DamagedPickle("a key is neither a text nor a number")
            if isinstance(target, dict):
                target[key] = value

    # Names, and what is made of them.

    def _op_global(self, argument: str) -> None:
        self._name(argument.replace(" ", "."))

    def _op_stack_global(self, _: Any) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise DamagedPickle("a name is not a text")
        self._name(f"{module}.{attribute}")

    def _name(self, name: str) -> None:
        if name not in self.calls and not self.allowed(name):
            raise RefusedPickle(name)
        self._push(Global(name))

    def _op_reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self._push(self.call(function, arguments))

    _op_newobj = _op_reduce

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise DamagedPickle("it calls something that has no name")
        if function.name not in self.calls:
            return Inert(function.name)
        # What a call copies counts, or calls with one long list would fill the memory.
        self._spend(sum(len(argument) for argument in arguments if isinstance(argument, (list, tuple, dict))))
        return self.calls[function.name](*arguments)

    def _op_build(self, _: Any) -> None:
        # The state of an object: `_metadata` of a state dict, or of an Inert. None of it is a tensor.
        self.stack.pop()

    def _op_binpersid(self, _: Any) -> None:
        self._push(self.persistent(self.stack.pop()))
