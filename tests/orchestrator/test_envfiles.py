"""Environment files come out byte by byte in the shells that read them; what a syntax cannot carry is told."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import envfiles
from telewire.errors import BadRequest, NotFound
from tests.orchestrator.conftest import docker

HARD = {
    "EMPTY": "", "SPACES": "  a  b ", "QUOTE": "it's", "QUOTES": "'\"'\"", "DOLLAR": "$HOME ${HOME} $$ $(id) `id`",
    "BACK": "a\\nb\\", "HASH": "a #b", "BANG": "wow! !! !x", "GLOB": "*.? [a] ~ {a,b}", "TAB": "\ta\tb", "UNI": "grüß 漢 ’",
    "EQUALS": "a=b=c", "PERCENT": "100% %PATH% %%", "AMP": "a&b|c<d>e^f(g);h", "BACKQUOTE": "\\'", "PLAIN": "a-b/c.d:1",
    "LAST_BACK": "'\\", "BACK_DOLLAR": "\\$x", "BACK_DOUBLE": '\\"', "SEMI": "; exit 3",
}  # fmt: skip
LINES = {"LINES": "-----BEGIN\n'x' \"y\" $z \\n\n-----END\n", "CR": "a\r\nb\r", "ONE": "\n"}

ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$$"}


def evaluated(shell: str, script: bytes, names: list[str], exported: bool, tmp_path: Path) -> dict[str, str]:
    """Return what a real shell makes of a file: its own variables, or those that programs get from it."""
    file = tmp_path / "environment"
    file.write_bytes(script)
    csh = shell.endswith("csh")
    source = f"source {file}" if csh else f". {file}"
    if exported:
        show = "; ".join(f"printenv {name}; printf '\\0'" for name in names)
        end = "\n"
    elif csh:
        show = "; ".join('printf "%s\\0" $' + name + ":q" for name in names)
        end = ""
    else:
        show = "; ".join(f"printf '%s\\0' \"${name}\"" for name in names)
        end = ""
    arguments = [shell, "-f", "-c"] if csh else [shell, "-c"]
    done = subprocess.run([*arguments, f"{source}; {show}"], capture_output=True, timeout=20, check=False, env={
        "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})  # fmt: skip
    assert done.stderr == b""
    values = done.stdout.decode(errors="surrogateescape").split("\0")[:-1]
    return {name: value.removesuffix(end) if end else value for name, value in zip(names, values, strict=True)}


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "ksh", "csh", "tcsh"])
@pytest.mark.parametrize("exported", [False, True])
def test_a_real_shell_reads_the_same(shell: str, exported: bool, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    syntax = ("csh" if shell.endswith("csh") else "sh") + (":export" if exported else "")
    variables = {**HARD, **LINES, "BYTES": b"a\xffb".decode(errors="surrogateescape")}
    found = evaluated(shell, envfiles.render(syntax, variables), sorted(variables), exported, tmp_path)
    assert found == variables


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.from_regex(r"V_[A-Za-z0-9_]{0,6}", fullmatch=True),
       st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=30), max_size=6))  # fmt: skip
def test_any_value_survives_sh(variables: dict[str, str]) -> None:
    script = envfiles.render("sh:export", variables) + b"\nexec env -0\n"
    done = subprocess.run(["sh"], input=script, capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"})
    seen = dict(entry.partition("=")[::2] for entry in done.stdout.decode().split("\0"))
    assert {name: value for name, value in seen.items() if name.startswith("V_")} == variables


def compose(text: str) -> dict[str, str]:
    """Read a file as compose-go's dotenv package does, of which this is the part that quotes matter for."""
    found, rest = {}, text
    while rest:
        name, _, rest = rest.partition("=")
        quote = rest[:1]
        if quote not in ("'", '"'):
            value, _, rest = rest.partition("\n")
            assert "$" not in value
            assert " #" not in value
            found[name] = value.rstrip()
            continue
        value, escaped, at = "", False, 1
        while rest[at] != quote or escaped:
            character = rest[at]
            at += 1
            if character == "\\" and not escaped:
                escaped = True
                continue
            if escaped and character != quote:
                value += "\\"
            escaped = False
            value += character
        rest = rest[at + 1 :].removeprefix("\n")
        if quote == '"':
            value = re.sub(r'\\([nrt$"\\])', lambda match: ESCAPES[match[1]], value)
            assert "$" not in value.replace("$$", "")
            value = value.replace("$$", "$")
        found[name] = value
    return found


def test_compose_reads_the_same() -> None:
    variables = {**HARD, **LINES, "a.b": "x"}
    assert compose(envfiles.render("compose", variables).decode()) == variables
    assert (
        envfiles.render("compose", {"A": "plain", "B": "a b", "C": "a\nb$c"}) == b"A=plain\nB='a b'\nC=\"a\\nb\\$c\"\n"
    )


@given(st.text(st.sampled_from("ab'\"\\$\n\r #{}="), max_size=12))
def test_any_value_survives_compose(value: str) -> None:
    assert compose(envfiles.render("compose", {"A": value, "B": "x"}).decode()) == {"A": value, "B": "x"}


@pytest.mark.engine
def test_docker_reads_the_same(clean: str, tmp_path: Path) -> None:
    variables = {**HARD, "a b": "c"}
    with pytest.raises(BadRequest, match="variable a b cannot be written in the syntax docker: its name has spaces"):
        envfiles.render("docker", variables)
    file = tmp_path / "environment"
    file.write_bytes(envfiles.render("docker", HARD))
    docker("create", "--name", clean, f"--env-file={file}", "debian:trixie-slim", "true")
    found = dict(
        entry.partition("=")[::2] for entry in json.loads(docker("inspect", "-f", "{{json .Config.Env}}", clean))
    )
    found.pop("PATH", None)
    assert found == HARD


@pytest.mark.parametrize(
    ("syntax", "name", "value", "said"),
    [
        ("docker", "A", "x\ny", "variable A .* syntax docker: its value has line breaks; choose another --env-syntax"),
        ("docker", "A", "x" * 70_000, "too long"),
        ("docker", "A", "\udcff", "no UTF-8"),
        ("cmd", "A", "x\ny", "line breaks"),
        ("cmd", "A", "x\ry", "line breaks"),
        ("cmd", "A", "x" * 9000, "8191"),
        ("cmd", "A&B", "x", "name"),
        ("sh", "a.b", "x", "letters, digits and `_` in a name"),
        ("csh:export", "a-b", "x", "letters, digits and `_` in a name"),
        ("compose", "a-b", "x", "in a name"),
        ("ps", "a'b", "x", "name"),
        ("json", "A", "\udcff", "no UTF-8"),
    ],
)
def test_what_a_syntax_cannot_carry_is_told(syntax: str, name: str, value: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said) as error:
        envfiles.render(syntax, {name: value, "Z": "fine"})
    assert "\n" not in str(error.value)


def test_windows_shells() -> None:
    assert envfiles.render("cmd", {"A": 'x & "y" 100% ^', "B": ""}) == b'set A=x ^& ^"y^" 100%% ^^\r\nset B=\r\n'
    assert envfiles.render("ps", {"A": "it's $x"}) == b"$Env:A='it''s $x'\n"
    assert envfiles.render("ps", {"a.b": "\u2019"}).decode() == "\ufeff${Env:a.b}='\u2019\u2019'\n"
    exported = b"[Environment]::SetEnvironmentVariable('A', 'x', 'User')\n"
    assert envfiles.render("ps:export", {"A": "x"}) == exported
    assert envfiles.render("cmd", {"A": "ü"}).startswith(b"@chcp 65001 >nul\r\nset A=")


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    file, json_file = tmp_path / "env", tmp_path / "env.json"
    file.write_text("old and much longer than what is new")
    file.chmod(0o644)
    variables = {"B": "x\ny", "A": "ü"}
    envfiles.check(str(file), str(json_file), "sh")
    envfiles.write(str(file), str(json_file), "sh", variables)
    assert file.read_text() == "A='ü'\nB='x\ny'\n"
    assert json_file.read_text() == '{\n  "A": "ü",\n  "B": "x\\ny"\n}\n'
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, json_file)] == [0o600, 0o600]
    envfiles.write("/dev/null", None, "json", variables)
    with pytest.raises(BadRequest, match="line breaks"):
        envfiles.write(str(file), None, "docker", variables)
    assert file.read_text().startswith("A=")


def test_bad_input(tmp_path: Path) -> None:
    for arguments, kind, said in (
        ((None, None, "fish"), BadRequest, "no --env-syntax 'fish'; choose one of docker, compose"),
        ((None, None, "docker:export"), BadRequest, "no --env-syntax"),
        (("", None, "sh"), BadRequest, "--env-file '' is no file"),
        ((str(tmp_path), None, "sh"), BadRequest, "is no file"),
        ((None, "/nowhere/at/all", "sh"), NotFound, "--env-json .* there is no folder /nowhere/at"),
        ((f"{tmp_path}/a", f"{tmp_path}/./a", "sh"), BadRequest, "the same file"),
    ):
        with pytest.raises(kind, match=said):
            envfiles.check(*arguments)
