"""Read from a Docker Engine's unix socket by the standard library alone.

The ``docker`` package takes longer to import than all that ``telepresence status`` does; what only looks goes this way.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import quote, urlencode

from telewire.errors import NotFound, Unavailable


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Reader:
    """GET from one engine, in the engine's own API version.

    :param path: the socket's path
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.path, self.timeout = path, timeout

    def get(self, path: str, **query: object) -> Any:
        """Return the JSON at ``path``; query values that are no strings are sent as JSON.

        :raises OSError: the engine cannot be reached
        :raises NotFound: there is no such thing
        :raises Unavailable: any other refusal
        """
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in query.items()}
        target = quote(path) + ("?" + urlencode(texts) if texts else "")
        connection = _UnixConnection(self.path, self.timeout)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            body = response.read()
        except http.client.HTTPException as error:
            raise Unavailable(f"Docker at unix://{self.path} broke off: {error!r}") from error
        finally:
            connection.close()
        answer = json.loads(body) if response.headers.get_content_type() == "application/json" else body.decode()
        if response.status >= 400:
            text = answer.get("message", "") if isinstance(answer, dict) else answer
            raise (NotFound if response.status == 404 else Unavailable)(" ".join(text.split()))
        return answer
