"""A door behind the real stack on a real socket, with keys for every role."""

import asyncio
import contextlib
import datetime as dt
import os
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.security.api_keys import ApiKeyRecord, new_key
from shoal.security.permissions import Role
from shoal.server.acceptor import HttpServer
from shoal.server.authentication import KeyRing
from shoal.server.certificates import Certificates
from shoal.server.errors import answer
from shoal.server.limits import Traffic
from shoal.server.options import Limits, ServerOptions
from shoal.server.stack import Stack, build_stack
from shoal.telemetry.logs import LineWriter
from shoal.telemetry.metrics import Metrics, exposition, merge
from shoal.telemetry.traces import Tracer
from tests.certificates import trusting

NOW = dt.datetime.now(dt.UTC)


class Keys:
    """A registry of API keys in memory; the real one is tried in the system tests."""

    def __init__(self) -> None:
        self.records: dict[str, ApiKeyRecord] = {}
        self.changes = 0
        self.gone = False

    def make(self, role: Role, *, expires_at: dt.datetime | None = None, revoked_at: dt.datetime | None = None) -> str:
        key = new_key()
        self.keep(
            ApiKeyRecord(
                id=key.id, name=f"the {role}", role=role, hash=key.hash, created_at=NOW, created_by="tester",
                expires_at=expires_at, revoked_at=revoked_at,
            )
        )  # fmt: skip
        return key.text

    def keep(self, record: ApiKeyRecord) -> None:
        self.records[record.id] = record
        self.changes += 1

    def head(self) -> int:
        return self.changes

    def keys(self) -> list[ApiKeyRecord]:
        return list(self.records.values())


class Echo:
    """Answers with what it was sent, once it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.may.set()
        self.entered = asyncio.Event()
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.entered.set()
        scope["shoal.fleet"] = "pumps"
        await self.may.wait()
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await answer(send, 200, body)


@dataclass
class World:
    keys: Keys
    ring: KeyRing
    traffic: Traffic
    metrics: Metrics
    stack: Stack
    http: HttpServer
    port: int
    client: httpx.AsyncClient
    logged: int
    echo: Echo = field(default_factory=Echo)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def samples(self) -> str:
        return exposition(merge([self.metrics.dump()]))[0].decode()


@contextlib.asynccontextmanager
async def world(
    doors: Mapping[str, ASGIApp] | None = None,
    *,
    keys: Keys | None = None,
    limits: Limits | None = None,
    local: bool = True,
    access_log: float = 0.0,
    tracer: Tracer | None = None,
    certificates: Certificates | None = None,
) -> AsyncIterator[World]:
    keys, echo = keys or Keys(), Echo()
    ring = KeyRing(keys, local=local)
    ring.refresh()
    traffic, metrics = Traffic(), Metrics()
    traffic.open = True
    reading, writing = os.pipe()
    log = LineWriter(writing)
    options = ServerOptions(limits=limits or Limits(), access_log=access_log)
    stack = build_stack(
        doors or dict.fromkeys(("v2", "api", "ping", "health", "metrics"), echo),
        ring=ring,
        traffic=traffic,
        metrics=metrics,
        log=log,
        options=options,
        tracer=tracer,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    http = HttpServer(stack.app, listener, options.limits, certificates)
    http.start()
    sweep = asyncio.create_task(stack.under_way.sweep())
    base_url = f"{'https' if certificates else 'http'}://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base_url, timeout=20, verify=trusting()) as client:
        yield World(keys, ring, traffic, metrics, stack, http, port, client, reading, echo)
    sweep.cancel()
    http.stop_accepting()
    http.close()
    await asyncio.sleep(0.02)
    log.close(20)
    for end in (reading, writing):
        os.close(end)
