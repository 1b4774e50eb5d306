"""Write the handler's remote environment to a file (``--env-file``, ``--env-json``), in the syntax of who is to read it.

Each value comes out as it was, byte by byte, or the file is not written: what a syntax cannot carry is an error that
names the variable. The handler itself gets its environment by another way and misses nothing.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from orchestrator.environment import fits_line
from telewire.errors import BadRequest, NotFound

SYNTAXES = ("docker", "compose", "sh", "sh:export", "csh", "csh:export", "cmd", "json", "ps", "ps:export")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMPOSE_NAME = re.compile(r"[A-Za-z0-9_.]+")
_CMD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_PS_NAME = re.compile(r"[^\s{}`$:'\"=*?\[\]\\/]+")
_PLAIN = re.compile(r"[A-Za-z0-9_@%+,./-]+")
_CMD_LINE = 8191
"""Characters that cmd reads of a line."""
_PS_QUOTES = "'\u2018\u2019\u201a\u201b"
"""What PowerShell takes for a single quote."""


def check(file: str | None, json_file: str | None, syntax: str) -> None:
    """Check what can be known before there is an environment.

    :raises BadRequest: there is no such syntax, or both files are the same
    :raises NotFound: a file cannot be written
    """
    if syntax not in SYNTAXES:
        raise BadRequest(f"there is no --env-syntax {syntax!r}; choose one of {', '.join(SYNTAXES)}")
    for option, path in (("--env-file", file), ("--env-json", json_file)):
        if path is None:
            continue
        folder = os.path.dirname(os.path.abspath(path))
        if not path or os.path.isdir(path):
            raise BadRequest(f"{option} {path!r} is no file; name one to write")
        if not os.path.isdir(folder):
            raise NotFound(f"{option} {path} cannot be written: there is no folder {folder}")
        if not os.access(path if os.path.exists(path) else folder, os.W_OK):
            raise BadRequest(f"{option} {path} cannot be written: permission denied; name another file")
    if file and json_file and os.path.abspath(file) == os.path.abspath(json_file):
        raise BadRequest("--env-file and --env-json are the same file; name two, or leave out one of them")


def write(file: str | None, json_file: str | None, syntax: str, variables: Mapping[str, str]) -> None:
    """Write the files that are asked for; only their owner may read them.

    :raises BadRequest: the syntax cannot carry a variable, or the file cannot be written
    """
    contents = []
    if file is not None:
        contents.append((file, render(syntax, variables)))
    if json_file is not None:
        contents.append((json_file, render("json", variables)))
    for path, content in contents:
        try:
            _write(Path(path), content)
        except OSError as error:
            raise BadRequest(f"the environment cannot be written to {path}: {error.strerror}") from None


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, 0o600)
        file.write(content)


def render(syntax: str, variables: Mapping[str, str]) -> bytes:
    """Return variables in a syntax, sorted by name.

    :raises BadRequest: it cannot carry one of them
    """
    kind, _, export = syntax.partition(":")
    if kind not in ("sh", "csh"):
        for name in sorted(variables):
            if _is_broken(name + variables[name]):
                raise _cannot(kind, ascii(name), "its bytes are no UTF-8")
    if kind == "json":
        return (json.dumps(dict(sorted(variables.items())), indent=2, ensure_ascii=False) + "\n").encode()
    entry = {"docker": _docker, "compose": _compose, "sh": _sh, "csh": _csh, "cmd": _cmd, "ps": _ps}[kind]
    end = "\r\n" if kind == "cmd" else "\n"
    text = "".join(entry(name, variables[name], bool(export)) + end for name in sorted(variables))
    if not text.isascii():
        # Windows' shells take a file for one in the machine's code page unless they are told.
        text = {"cmd": "@chcp 65001 >nul" + end, "ps": "\ufeff"}.get(kind, "") + text
    return text.encode(errors="surrogateescape")


def _cannot(syntax: str, name: str, why: str) -> BadRequest:
    return BadRequest(
        f"the variable {name} cannot be written in the syntax {syntax}: {why}; choose another --env-syntax "
        f"({', '.join(SYNTAXES)})"
    )


def _is_broken(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def _docker(name: str, value: str, _export: bool) -> str:
    if "\n" in value:
        raise _cannot("docker", name, "its value has line breaks")
    if not fits_line(name, value):
        raise _cannot("docker", name, "its name has spaces, or its value is too long or ends with a carriage return")
    return f"{name}={value}"


def _compose(name: str, value: str, _export: bool) -> str:
    """Compose reads single quotes as they stand, double quotes with escapes and variables."""
    if not _COMPOSE_NAME.fullmatch(name):
        raise _cannot("compose", name, "Compose takes letters, digits, `_` and `.` in a name")
    if not value or _PLAIN.fullmatch(value):
        return f"{name}={value}"
    if not any(character in value for character in "'\n\r") and not value.endswith("\\"):
        return f"{name}='{value}'"
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("$", "\\$"), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(plain, escaped)
    return f'{name}="{value}"'


def _sh(name: str, value: str, export: bool) -> str:
    if not _IDENTIFIER.fullmatch(name):
        raise _cannot("sh", name, "a shell takes letters, digits and `_` in a name")
    quoted = value if _PLAIN.fullmatch(value) else "'" + value.replace("'", "'\\''") + "'"
    return f"{'export ' if export else ''}{name}={quoted}"


def _csh(name: str, value: str, export: bool) -> str:
    """csh takes ``!`` for its history and ends a quoted word at a line break, both but after a backslash."""
    if not _IDENTIFIER.fullmatch(name):
        raise _cannot("csh", name, "a shell takes letters, digits and `_` in a name")
    quoted = "'" + value.replace("'", "'\\''").replace("!", "\\!").replace("\n", "\\\n") + "'"
    return f"setenv {name} {quoted}" if export else f"set {name}={quoted}"


def _cmd(name: str, value: str, _export: bool) -> str:
    if "\n" in value or "\r" in value:
        raise _cannot("cmd", name, "its value has line breaks")
    if not _CMD_NAME.fullmatch(name):
        raise _cannot("cmd", name, "cmd takes letters, digits, `_`, `.` and `-` in a name")
    line = f"set {name}=" + re.sub(r'([\^&|<>()"])', r"^\1", value).replace("%", "%%")
    if len(line) > _CMD_LINE:
        raise _cannot("cmd", name, f"its value makes a line longer than the {_CMD_LINE} characters that cmd reads")
    return line


def _ps(name: str, value: str, export: bool) -> str:
    if not _PS_NAME.fullmatch(name):
        raise _cannot("ps", name, "its name has characters that PowerShell does not take")
    quoted = "'" + "".join(2 * character if character in _PS_QUOTES else character for character in value) + "'"
    if export:
        return f"[Environment]::SetEnvironmentVariable('{name}', {quoted}, 'User')"
    return f"$Env:{name}={quoted}" if _IDENTIFIER.fullmatch(name) else f"${{Env:{name}}}={quoted}"
