from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from teleagent.nft import NftError, listening
from teleagent.redirect import explained

ROOT = Path(__file__).parents[2]

CODE = """if True:
    import signal
    from teleagent import nft
    from teleagent.redirect import remove_dead_tables
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as the agent has it
    nft.LIBRARY = LIBRARY
    tables = nft.Nft()
    assert tables.tables() == []
    tables.run("add table inet one\\nadd set inet one s { type inet_service; flags timeout; }\\n")
    tables.run("add table inet telepresence_9\\n")
    assert tables.tables() == ["one", "telepresence_9"]
    for commands in ("add element inet one s { 80 timeout 2s }\\nadd element inet none s { 80 }\\n", "nonsense\\n"):
        try:
            tables.run(commands)
        except nft.NftError as error:
            print(error)
        else:
            raise AssertionError(commands)
    assert "80" not in tables.run("list set inet one s\\n"), "one transaction: all of it or nothing"
    remove_dead_tables(tables)
    assert tables.tables() == ["one"]
    tables.delete("one")
    tables.delete("one")
    assert tables.tables() == []
"""


@pytest.mark.root
@pytest.mark.parametrize("library", ["libnftables.so.1", "libmissing.so.1"])
def test_commands_in_process_and_by_the_command(library: str) -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", CODE.replace("LIBRARY\n", f"{library!r}\n")],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    missing, syntax = done.stdout.splitlines()
    assert "No such file" in missing
    assert "syntax error" in syntax


@pytest.mark.parametrize(
    ("said", "meant"),
    [("Could not process rule: Operation not permitted", "NET_ADMIN"),
     ("cache initialization failed: Operation not permitted", "NET_ADMIN"),
     ("Could not process rule: No such file or directory", "TPROXY"), ("Could not process rule: Protocol not supported", "kernel"),
     ("Could not process rule: Operation not supported", "kernel"), ("syntax error", "syntax error")],
)  # fmt: skip
def test_refusals_say_what_is_missing(said: str, meant: str) -> None:
    text = str(explained(NftError(said)))
    assert meant in text
    assert len(text.splitlines()) == 1


def test_listening_ports(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    table.write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue\n"
        "   0: 0100007F:0FD2 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"
        "   1: 0100007F:0FD3 0100007F:8C2A 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"
    )
    assert listening(str(table)) == {4050}
    assert listening(str(tmp_path / "none")) == set()
