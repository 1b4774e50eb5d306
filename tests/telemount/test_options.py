from __future__ import annotations

import pytest

from telemount.options import BadOption, Options, parse


def test_all_options() -> None:
    given = {
        "address": "[fd00::1]:4040", "token": "t0k", "export": "e1", "dir": "/a//b/", "ro": "", "uid": "1000", "gid": "0",
        "umask": "027", "cache": "0.5",
    }  # fmt: skip
    options = parse(given)
    assert options == Options("fd00::1", 4040, "t0k", "e1", "/a/b", True, 1000, 0, 0o27, 0.5)
    assert options.address == "[fd00::1]:4040"
    assert Options(**options.to_json()) == options


def test_least_options() -> None:
    assert parse({"address": "host.example:22"}) == Options("host.example", 22)
    assert parse({"address": "10.0.0.1:4040", "ro": "false"}).ro is False


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (None, "address is missing"),
        ({}, "address is missing"),
        ({"adress": "a:1"}, "no option 'adress' (did you mean address?); the options are address, token"),
        ({"address": "host"}, "HOST:PORT"),
        ({"address": ":22"}, "HOST:PORT"),
        ({"address": "fd00::1:22"}, "HOST:PORT, or [IPV6]:PORT"),
        ({"address": "h:0"}, "1 to 65535"),
        ({"address": "h:65536"}, "1 to 65535"),
        ({"address": "h:²"}, "HOST:PORT"),
        ({"address": "h:1", "token": "x"}, "the option token needs export"),
        ({"address": "h:1", "export": "x"}, "the option export needs token"),
        ({"address": "h:1", "export": "x", "token": "a b"}, "one word"),
        ({"address": "h:1", "export": "x\n", "token": "a"}, "one word"),
        ({"address": "h:1", "dir": "etc"}, "absolute"),
        ({"address": "h:1", "dir": "/a/../b"}, "'..'"),
        ({"address": "h:1", "ro": "maybe"}, "true or false"),
        ({"address": "h:1", "uid": "-1"}, "a number from 0"),
        ({"address": "h:1", "uid": "4294967295"}, "a number from 0"),
        ({"address": "h:1", "umask": "8"}, "octal"),
        ({"address": "h:1", "umask": "1000"}, "octal"),
        ({"address": "h:1", "cache": "nan"}, "seconds"),
        ({"address": "h:1", "cache": "-1"}, "seconds"),
        ({"address": 5}, "has to be text"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(given: dict[str, object] | None, why: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse(given)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
