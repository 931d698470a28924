"""A disk under SQLite that can lose power: what was written and not synced is gone afterwards, or is there in part.

It lies over SQLite's own access to files (a VFS, https://sqlite.org/vfs.html) in this process, and changes nothing
but writing: each write, cut and sync is an operation, counted, at which power can fail or an error can come. Reading,
locking and shared memory are SQLite's own. What is written past SQLite is not seen.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

OK, FULL, READONLY = 0, 13, 8
IOERR_WRITE, IOERR_FSYNC, IOERR_DELETE = 778, 1034, 2570

_FILE = ctypes.c_void_p
_INT = ctypes.c_int
_BIG = ctypes.c_int64


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`; what is replaced has a name."""

    _fields_ = [
        ("version", _INT),
        ("close", ctypes.c_void_p),
        ("read", ctypes.c_void_p),
        ("write", ctypes.c_void_p),
        ("truncate", ctypes.c_void_p),
        ("sync", ctypes.c_void_p),
        ("size", ctypes.c_void_p),
        ("others", ctypes.c_void_p * 12),
    ]


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`, likewise."""

    _fields_ = [
        ("version", _INT),
        ("file_bytes", _INT),
        ("longest_path", _INT),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("open", ctypes.c_void_p),
        ("delete", ctypes.c_void_p),
        ("others", ctypes.c_void_p * 14),
    ]


# Names are passed on as pointers: SQLite keeps them, and looks for parameters behind them.
_OPEN = ctypes.CFUNCTYPE(_INT, ctypes.c_void_p, ctypes.c_void_p, _FILE, _INT, ctypes.POINTER(_INT))
_DELETE = ctypes.CFUNCTYPE(_INT, ctypes.c_void_p, ctypes.c_void_p, _INT)
_READ_OR_WRITE = ctypes.CFUNCTYPE(_INT, _FILE, ctypes.c_void_p, _INT, _BIG)
_TRUNCATE = ctypes.CFUNCTYPE(_INT, _FILE, _BIG)
_SYNC = ctypes.CFUNCTYPE(_INT, _FILE, _INT)
_SIZE = ctypes.CFUNCTYPE(_INT, _FILE, ctypes.POINTER(_BIG))


class _Change(NamedTuple):
    """One operation on a file that was not synced: what was at `offset` before and after, and the size before."""

    path: str
    offset: int
    before: bytes
    after: bytes | None
    size: int


class Disk:
    """The disk of all SQLite files that are opened while the block lasts. `operations` counts what was done.

    With `fails_at` the operation of that number fails, and all that follow: with `error`, or, where that is None,
    because there is no power any more. `mend` ends an error; `after_power_loss` makes the files what they would be.
    """

    def __init__(self) -> None:
        self.operations = 0
        self.fails_at: int | None = None
        self.error: int | None = None
        self.on_power_loss: Callable[[], None] = lambda: None
        self._changes: list[_Change] = []
        self._paths: dict[int, str] = {}
        self._tables: dict[int, _Methods] = {}
        self._kept: list[Any] = []
        self._undo = ExitStack()

    @property
    def failing(self) -> bool:
        """Whether nothing can be written now."""
        return self.fails_at is not None and self.operations >= self.fails_at

    def mend(self) -> None:
        """Writing works again."""
        self.fails_at = None

    def after_power_loss(self, chance: random.Random) -> None:
        """Of what was not synced each write is lost or not, by chance. No file may be open."""
        for change in reversed(self._changes):
            path = Path(change.path)
            if path.exists():
                with path.open("r+b") as file:
                    file.seek(change.offset)
                    file.write(change.before)
                    file.truncate(change.size)
        share = chance.choice([0.0, 0.5, 1.0])
        for change in self._changes:
            path = Path(change.path)
            if path.exists() and chance.random() < share:
                with path.open("r+b") as file:
                    if change.after is None:
                        file.truncate(change.offset)
                    else:
                        file.seek(change.offset)
                        file.write(change.after)
        self._changes.clear()
        self.mend()

    # -- under SQLite ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        library = ctypes.CDLL(_sqlite3.__file__)  # with the SQLite that it is linked to
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        original = library.sqlite3_vfs_find(None)
        vfs = _Vfs.from_buffer_copy(original.contents)
        self._original = original
        self._open, self._delete = _OPEN(original.contents.open), _DELETE(original.contents.delete)
        opening, deleting = _OPEN(self._on_open), _DELETE(self._on_delete)
        self._kept += [opening, deleting, vfs]
        vfs.next, vfs.name = None, b"disk of a test"
        vfs.open = ctypes.cast(opening, ctypes.c_void_p)
        vfs.delete = ctypes.cast(deleting, ctypes.c_void_p)
        assert library.sqlite3_vfs_register(ctypes.byref(vfs), 1) == OK
        self._undo.callback(library.sqlite3_vfs_register, original, 1)
        self._undo.callback(library.sqlite3_vfs_unregister, ctypes.byref(vfs))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _on_open(self, _: int, name: int | None, file: int, flags: int, out: Any) -> int:  # noqa: ANN401 - a pointer
        answer: int = self._open(ctypes.addressof(self._original.contents), name, file, flags, out)
        if answer == OK and name is not None:
            self._paths[file] = ctypes.string_at(name).decode()
            table = ctypes.cast(file, ctypes.POINTER(ctypes.c_void_p))
            address = table[0]
            assert address is not None
            if address not in self._tables:
                self._tables[address] = self._replaced(_Methods.from_address(address))
            table[0] = ctypes.addressof(self._tables[address])
        return answer

    def _replaced(self, original: _Methods) -> _Methods:
        read, write = _READ_OR_WRITE(original.read), _READ_OR_WRITE(original.write)
        truncate, size_of = _TRUNCATE(original.truncate), _SIZE(original.size)

        def remember(file: int, offset: int, length: int, after: bytes | None) -> None:
            size = _BIG()
            size_of(file, ctypes.byref(size))
            there = max(0, min(length, size.value - offset))
            before = ctypes.create_string_buffer(max(1, there))
            read(file, ctypes.addressof(before), there, offset)
            self._changes.append(_Change(self._paths[file], offset, before.raw[:there], after, size.value))

        def on_write(file: int, data: int, length: int, offset: int) -> int:
            if (error := self._fault(IOERR_WRITE)) != OK:
                return error
            remember(file, offset, length, ctypes.string_at(data, length))
            return int(write(file, data, length, offset))

        def on_truncate(file: int, length: int) -> int:
            if (error := self._fault(IOERR_WRITE)) != OK:
                return error
            remember(file, length, 1 << 30, None)
            return int(truncate(file, length))

        def on_sync(file: int, _: int) -> int:
            if (error := self._fault(IOERR_FSYNC)) != OK:
                return error
            path = self._paths[file]
            self._changes = [change for change in self._changes if change.path != path]
            return OK  # the files need not outlive the test

        methods = _Methods.from_buffer_copy(original)
        for name, function in (
            ("write", _READ_OR_WRITE(on_write)),
            ("truncate", _TRUNCATE(on_truncate)),
            ("sync", _SYNC(on_sync)),
        ):
            self._kept.append(function)
            setattr(methods, name, ctypes.cast(function, ctypes.c_void_p))
        self._kept += [read, write, truncate, size_of]
        return methods

    def _on_delete(self, _: int, name: int, synced: int) -> int:
        if self.failing:
            return IOERR_DELETE
        answer: int = self._delete(ctypes.addressof(self._original.contents), name, synced)
        if answer == OK:
            path = ctypes.string_at(name).decode()
            self._changes = [change for change in self._changes if change.path != path]
        return answer

    def _fault(self, without_power: int) -> int:
        """Count one operation; the error that it ends with."""
        before = self.failing
        self.operations += 1
        if not self.failing:
            return OK
        if self.error is not None:
            return self.error
        if not before:
            self.on_power_loss()
        return without_power
