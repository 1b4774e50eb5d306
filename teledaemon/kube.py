"""The Kubernetes API, as far as the daemon uses it: plain JSON objects, one place for credentials and errors.

The ``kubernetes`` package does kubeconfig, TLS, proxies and connections; its model classes are left alone, since what is patched here
has to go back byte for byte, also fields that the package does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import email.utils
import json
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from telewire.errors import BadRequest, Conflict, Forbidden, NotFound, TeleError, Unavailable

log = logging.getLogger(__name__)

REQUEST_TIMEOUT = 20.0
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
Object = dict[str, Any]
_importing = threading.Lock()


class Unauthorized(Forbidden):
    """The API server does not take the credentials; new ones may be on their way."""


class NotAdmitted(Forbidden):
    """The namespace's PodSecurity level does not admit the pod (https://kubernetes.io/docs/concepts/security/pod-security-admission/)."""


class Gone(TeleError):
    """A watch has to begin anew: the resource version is too old (HTTP 410)."""


class Invalid(BadRequest):
    """The API server says that the object is not valid (HTTP 422)."""


def path(kind: str, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
    """Return the path of a resource; ``kind`` is ``pods`` or, with its group and version, ``apps/v1/deployments``."""
    group, _, plural = kind.rpartition("/")
    parts = ["/apis" if group else "/api/v1", *([group] if group else [])]
    if namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(plural)
    parts += [quote(part, safe="") for part in (name, sub) if part]
    return "/".join(parts)


def client_library() -> tuple[Any, Any, Any]:
    """Return the package's ``Configuration``, ``RESTClientObject`` and kubeconfig loader; the first import takes most of a second.

    Only one thread may import it: its modules load one another lazily, which deadlocks otherwise.
    """
    with _importing:
        from kubernetes.aio.client.configuration import Configuration
        from kubernetes.aio.client.rest import RESTClientObject
        from kubernetes.aio.config import load_kube_config_from_dict

        return Configuration, RESTClientObject, load_kube_config_from_dict


class Cluster:
    """One API server, as one user. Call :meth:`open` first."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = json.loads(json.dumps(document))
        self._user: dict[str, Any] = self._document["users"][0]["user"] if self._document.get("users") else {}
        self._cluster: dict[str, Any] = self._document["clusters"][0]["cluster"]
        self._rest: Any = None
        self._configuration: Any = None
        self._headers: list[tuple[str, str]] = []
        self._retired: list[Any] = []
        self._skew = datetime.timedelta()
        self.refused = asyncio.Event()
        """Set while the API server refuses the credentials."""
        self.renewed = asyncio.Event()
        """Set when new credentials have come since the last refusal."""

    def now(self) -> datetime.datetime:
        """Return the time by the API server's clock, as its answers tell it: to the second, whatever this machine's clock says."""
        return datetime.datetime.now(datetime.UTC) + self._skew

    def _learn_time(self, stamp: str | None) -> None:
        with contextlib.suppress(TypeError, ValueError):
            told = email.utils.parsedate_to_datetime(stamp or "")
            skew = told - datetime.datetime.now(datetime.UTC)
            self._skew = skew if abs(skew.total_seconds()) > 2 else datetime.timedelta()

    @property
    def context(self) -> str:
        """The context's name in the user's kubeconfig."""
        return str(self._document.get("current-context", ""))

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._cluster["server"]).rstrip("/")

    async def open(self) -> None:
        """Read the kubeconfig. BadRequest if it is not usable."""
        Configuration, RESTClientObject, load = await asyncio.to_thread(client_library)  # noqa: N806 - classes

        configuration = Configuration()
        try:
            await load(self._document, client_configuration=configuration)
            # Authorities without a key usage extension are common in clusters, and other clients take them.
            configuration.disable_strict_ssl_verification = True
            configuration.connection_pool_maxsize = 0
            rest = RESTClientObject(configuration)
        except Exception as error:  # the package lets through whatever YAML, base64 or OpenSSL raise
            raise BadRequest(f"the kubeconfig of context {self.context} cannot be used: {error}") from None
        if self._rest is not None:
            self._retired.append(self._rest)
        self._configuration, self._rest = configuration, rest
        self._headers = self._authentication()

    def _authentication(self) -> list[tuple[str, str]]:
        headers = []
        if token := self._configuration.api_key.get("BearerToken"):
            headers.append(("Authorization", str(token)))
        for key, header in (("as", "Impersonate-User"), ("as-uid", "Impersonate-Uid")):
            if self._user.get(key):
                headers.append((header, str(self._user[key])))
        headers += [("Impersonate-Group", str(group)) for group in self._user.get("as-groups") or []]
        for key, values in (self._user.get("as-user-extra") or {}).items():
            headers += [(f"Impersonate-Extra-{quote(str(key).lower(), safe='')}", str(value)) for value in values]
        return headers

    async def close(self) -> None:
        """Close all connections."""
        for rest in (*self._retired, self._rest):
            if rest is not None:
                await rest.close()
        self._retired, self._rest = [], None

    async def renew(self, credentials: Mapping[str, Any]) -> None:
        """Go on with new credentials: ``token``, ``client_certificate_data``, ``client_key_data`` (base64 PEM)."""
        for given, key in (
            ("token", "token"),
            ("client_certificate_data", "client-certificate-data"),
            ("client_key_data", "client-key-data"),
        ):
            if credentials.get(given):
                self._user[key] = credentials[given]
        await self.open()
        self.refused.clear()
        self.renewed.set()

    async def request(
        self,
        method: str,
        where: str,
        body: object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout: float = REQUEST_TIMEOUT,
    ) -> Object:
        """Make one call and return its answer. A TeleError of the kind that the status tells, in the API server's own words."""
        response = await self._send(method, where, body, query, content_type, timeout)
        try:
            raw = await response.read()
            self._learn_time(response.response.headers.get("Date"))
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"the API server {self.server} broke off: {error or 'timeout'}") from None
        except Exception as error:
            raise self._foreign(error) from None
        return self._answer(method, where, response.status, raw)

    async def _send(
        self,
        method: str,
        where: str,
        body: object | None,
        query: Mapping[str, str] | None,
        content_type: str,
        timeout: Any,
    ) -> Any:
        if self._rest is None:
            raise Unavailable("the connection to the cluster is closed")
        url = self.server + where + (f"?{urlencode(query)}" if query else "")
        from multidict import CIMultiDict

        headers = CIMultiDict([*self._headers, ("Content-Type", content_type), ("Accept", "application/json")])
        try:
            return await self._rest.request(method, url, headers=headers, body=body, _request_timeout=timeout)
        except Exception as error:
            raise self._foreign(error) from None

    def _foreign(self, error: Exception) -> TeleError:
        import ssl

        import aiohttp

        if isinstance(error, TeleError):
            return error
        if isinstance(error, TimeoutError):
            return Unavailable(f"the API server {self.server} does not answer; check your network, VPN and kubeconfig")
        if isinstance(error, (aiohttp.ClientConnectorCertificateError, ssl.SSLError, aiohttp.ClientSSLError)):
            return Unavailable(
                f"the API server {self.server} cannot be trusted: {error}; check the kubeconfig's authority"
            )
        if isinstance(error, (aiohttp.ClientError, OSError)):
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return Unavailable(
                f"the API server {self.server} cannot be reached: {reason}; check your network and kubeconfig"
            )
        return TeleError(f"the call to the API server {self.server} failed: {error!r}")

    def _answer(self, method: str, where: str, status: int, raw: bytes) -> Object:
        try:
            answer = json.loads(raw) if raw else {}
        except ValueError:
            answer = {"message": raw.decode(errors="replace").strip()[:300]}
        if status < 400:
            return answer if isinstance(answer, dict) else {}
        message = str(answer.get("message") or f"HTTP status {status}") if isinstance(answer, dict) else str(answer)
        message = " ".join(message.split())
        text = f"the cluster refuses {method} {where.rsplit('?')[0]}: {message}"
        if status == 401:
            self.refused.set()
            self.renewed.clear()
            return _raise(
                Unauthorized(f"the API server {self.server} does not take the credentials (401); log in again")
            )
        if status == 403:
            if "violates PodSecurity" in message:
                return _raise(NotAdmitted(message))
            return _raise(Forbidden(f"{message}; ask for a role that allows it"))
        kinds: dict[int, type[TeleError]] = {404: NotFound, 409: Conflict, 410: Gone, 422: Invalid, 400: BadRequest}
        return _raise(kinds.get(status, Unavailable)(text))

    async def get(self, kind: str, namespace: str | None, name: str) -> Object:
        """Return one object. NotFound if it is not there."""
        return await self.request("GET", path(kind, namespace, name))

    async def list(self, kind: str, namespace: str | None = None, **query: str) -> list[Object]:
        """Return all objects, chunk by chunk."""
        found: list[Object] = []
        more = {"limit": "500", **query}
        while True:
            answer = await self.request("GET", path(kind, namespace), query=more)
            found += answer.get("items") or []
            token = (answer.get("metadata") or {}).get("continue")
            if not token:
                return found
            more["continue"] = token

    async def patch(
        self,
        kind: str,
        namespace: str,
        name: str,
        body: object,
        content_type: str,
        sub: str | None = None,
        *,
        dry_run: bool = False,
    ) -> Object:
        """Change one object; with ``dry_run`` only find out whether it could be."""
        query = {"dryRun": "All"} if dry_run else None
        return await self.request(
            "PATCH", path(kind, namespace, name, sub), body, query=query, content_type=content_type
        )

    async def delete(self, kind: str, namespace: str, name: str, body: object | None = None) -> None:
        """Delete one object; no error if it is gone."""
        with contextlib.suppress(NotFound):
            await self.request("DELETE", path(kind, namespace, name), body)

    async def watch(self, kind: str, namespace: str, selector: str) -> AsyncIterator[tuple[str, Object]]:
        """Yield ``("SYNC", {"items": [...]})`` with what is there, then each change (``ADDED``, ``MODIFIED``, ``DELETED``), for ever.

        After a break it begins anew with another ``SYNC``. Forbidden if it may not be watched; other errors are waited out.
        """
        pause = 0.2
        while True:
            try:
                listing = await self.request("GET", path(kind, namespace), query={"labelSelector": selector})
                yield "SYNC", listing
                version = listing["metadata"]["resourceVersion"]
                async for event, item in self._changes(kind, namespace, selector, version):
                    pause = 0.2
                    yield event, item
            except (Gone, Unavailable, Unauthorized) as error:
                log.debug("watching %s: %s", kind, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _changes(
        self, kind: str, namespace: str, selector: str, version: str
    ) -> AsyncIterator[tuple[str, Object]]:
        import aiohttp

        query = {"labelSelector": selector, "watch": "1", "resourceVersion": version, "timeoutSeconds": "290"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT, sock_read=300)
        response = await self._send("GET", path(kind, namespace), None, query, "application/json", timeout)
        stream = response.response
        try:
            if response.status >= 400:
                self._answer("WATCH", path(kind, namespace), response.status, await stream.read())
            buffer = b""
            async for chunk in stream.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    change = json.loads(line)
                    if change["type"] == "ERROR":
                        raise Gone(str(change["object"].get("message")))
                    yield change["type"], change["object"]
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"the watch broke off: {error}") from None
        finally:
            stream.close()

    async def websocket(self, where: str, query: Mapping[str, str], protocol: str) -> Any:
        """Return an open ``aiohttp.ClientWebSocketResponse``. TeleError as :meth:`request` has it."""
        import aiohttp
        from multidict import CIMultiDict

        if self._rest is None:
            raise Unavailable("the connection to the cluster is closed")
        if self._rest.pool_manager is None:
            self._rest.pool_manager = self._rest._create_pool_manager()
        try:
            return await self._rest.pool_manager.ws_connect(
                f"{self.server}{where}?{urlencode(query)}",
                headers=CIMultiDict(self._headers),
                protocols=[protocol],
                server_hostname=self._configuration.tls_server_name or None,
                proxy=self._configuration.proxy,
                compress=0,
                max_msg_size=0,
                autoping=True,
                timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
            )
        except aiohttp.WSServerHandshakeError as error:
            raise await self._refused_websocket(error, where) from None
        except Exception as error:
            raise self._foreign(error) from None

    async def _refused_websocket(self, error: Any, where: str) -> TeleError:
        """Return what the API server has against it; a refused upgrade does not carry its text, so a plain request asks again."""
        try:
            await self.request("GET", where, query={"ports": "1"})
        except TeleError as told:
            if isinstance(told, (Forbidden, NotFound)):
                return told
        return Unavailable(f"the API server {self.server} refuses the port-forward: HTTP status {error.status}")


def _raise(error: TeleError) -> Object:
    raise error
