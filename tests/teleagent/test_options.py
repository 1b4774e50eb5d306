from __future__ import annotations

import pytest

from teleagent.options import Options, parse
from telewire import names
from telewire.errors import BadRequest


def test_defaults() -> None:
    assert parse([]) == Options(names.AGENT_PORT, None)


def test_own_options_in_both_spellings() -> None:
    assert parse(["--port", "5000", "--exit-when-idle=2.5"]) == Options(5000, 2.5)


def test_the_digest_of_the_only_token() -> None:
    assert parse(["--token-sha256", "AB" * 32, "--token-sha256", "x"]).token_sha256 == "ab" * 32


def test_a_replaced_containers_arguments_change_nothing() -> None:
    entry_point = ["--port", "4050"]
    assert parse([*entry_point, "--port", "8080", "serve", "--port=x", "-v", "--", "--portable"]) == Options(4050)


@pytest.mark.parametrize(
    "arguments",
    [["--port", "x"], ["--port=0"], ["--port", "65536"], ["--port"], ["--exit-when-idle", "soon"], ["--exit-when-idle=-1"],
     ["--exit-when-idle=nan"], ["--token-sha256", "ab"], ["--token-sha256=" + "g" * 64]],
)  # fmt: skip
def test_senseless_values_are_one_line(arguments: list[str]) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(arguments)
    assert len(str(caught.value).splitlines()) == 1
    assert arguments[0].partition("=")[0] in str(caught.value)
