from __future__ import annotations

import base64
import json
import subprocess
import sys

from teleagent import environment
from telewire.messages import request
from telewire.session import Session

RAW = b"PATH=/bin\0HOSTNAME=web-1\0A=1\0EMPTY=\0LINES=a\nb\"'=\0BYTES=\xff\xfe\0HOME=/\0TERM=xterm\0nothing\0"


def test_values_are_bytes_in_order_and_the_runtimes_own_are_left_out() -> None:
    assert environment.parse(RAW) == [
        (b"HOSTNAME", b"web-1"), (b"A", b"1"), (b"EMPTY", b""), (b"LINES", b"a\nb\"'="), (b"BYTES", b"\xff\xfe"),
    ]  # fmt: skip


def test_what_the_pods_spec_declares_is_kept() -> None:
    kept = dict(environment.parse(RAW, [b"PATH", b"HOME"]))
    assert kept[b"PATH"] == b"/bin"
    assert kept[b"HOME"] == b"/"
    assert b"TERM" not in kept


def test_own_is_what_the_process_was_started_with() -> None:
    code = """if True:
        import json, os
        from teleagent import environment
        os.environ["LATER"] = "x"
        print(json.dumps([[part.decode("latin1") for part in pair] for pair in environment.own()]))
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={b"PATH": b"/bin", b"ODD": b"\xff\n"},
        capture_output=True,
        check=True,
        timeout=20,
    )
    assert json.loads(done.stdout) == [["ODD", "\xff\n"]]


async def test_the_message(session: Session) -> None:
    _, answer = await request(session, {"op": "environment", "keep": ["PATH"]})
    told = {base64.b64decode(name): base64.b64decode(value) for name, value in answer["environment"]}
    assert told == dict(environment.own([b"PATH"]))
    assert b"PATH" in told
    _, answer = await request(session, {"op": "environment"})
    assert b"PATH" not in {base64.b64decode(name) for name, _ in answer["environment"]}
