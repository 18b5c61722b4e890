"""What the registry and the ledger know, as servers tell of it, in the words of a workspace's.

Only what looks things up is here. What changes something is a method of the client itself, as of a workspace: it is
done in somebody's name, and over the network that is the API key's.
"""

from shoal.client import questions
from shoal.client.transport import AsyncTransport, Transport
from shoal.jobs.states import RunState
from shoal.ledger import RunRecord, RunTotals
from shoal.registry import (
    AliasChange,
    AliasRecord,
    AuditCheck,
    AuditEntry,
    Desired,
    FleetRecord,
    Lineage,
    ModelVersion,
    SnapshotRecord,
    StoreRecord,
)
from shoal.security.api_keys import ApiKeyRecord
from shoal.types import InputFile


class RemoteRegistry:
    """Fleets, snapshots, aliases, lineage, what is served, API keys, stores, audit; see :class:`Registry`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def fleets(self, *, tag: str | None = None, category: str | None = None) -> list[FleetRecord]:
        """All fleets by name, or those with a tag or of a category."""
        return self._transport.ask(questions.fleets(tag, category))

    def fleet(self, name: str) -> FleetRecord:
        """One fleet; raises NotFound where there is none."""
        return self._transport.ask(questions.fleet(name))

    def snapshots(self, name: str) -> list[SnapshotRecord]:
        """A fleet's snapshots, newest first."""
        return self._transport.ask(questions.snapshots(name))

    def snapshot(self, name: str, version: int) -> SnapshotRecord:
        """One snapshot, also when its files were collected."""
        return self._transport.ask(questions.snapshot(name, version))

    def lineage(self, name: str, version: int) -> Lineage:
        """Where a snapshot comes from."""
        return self._transport.ask(questions.lineage(name, version))

    def model_history(self, name: str, key_text: str) -> list[ModelVersion]:
        """The snapshots in which a key's models were new, newest first."""
        return self._transport.ask(questions.model_history(name, key_text))

    def alias_history(self, name: str, alias: str | None = None) -> list[AliasChange]:
        """The moves of one alias or of all, newest first; the newest 10,000."""
        return self._transport.ask(questions.alias_history(name, alias))

    def aliases(self, name: str) -> list[AliasRecord]:
        """A fleet's aliases by name, and when and by whom each was moved last."""
        return self._transport.ask(questions.aliases(name))

    def serving(self) -> list[Desired]:
        """What servers are to do with each fleet, by name."""
        return self._transport.ask(questions.every_serving())

    def desired(self, name: str) -> Desired:
        """What servers are to do with a fleet; raises NotFound where there is none."""
        return self._transport.ask(questions.desired(name))

    def keys(self) -> list[ApiKeyRecord]:
        """All API keys, newest first; their digests are not told, ``hash`` is empty."""
        return self._transport.ask(questions.keys())

    def stores(self) -> list[StoreRecord]:
        """Categories whose snapshots are kept in a store of their own, by category."""
        return self._transport.ask(questions.stores())

    def audit(self, *, object: str | None = None, limit: int = 100) -> list[AuditEntry]:  # noqa: A002
        """The newest changes, newest first, of one object (``flights``, ``flights:3``, ``flights@champion``) or all."""
        return self._transport.ask(questions.audit(object, limit))

    def verify_audit(self, *, noted: str | None = None) -> AuditCheck:
        """Recompute the audit's chain of digests; ``noted`` is ``newest`` of an earlier check."""
        return self._transport.ask(questions.verify_audit(noted))


class AsyncRemoteRegistry:
    """As :class:`RemoteRegistry`, without blocking."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def fleets(self, *, tag: str | None = None, category: str | None = None) -> list[FleetRecord]:
        """As :meth:`RemoteRegistry.fleets`."""
        return await self._transport.ask(questions.fleets(tag, category))

    async def fleet(self, name: str) -> FleetRecord:
        """As :meth:`RemoteRegistry.fleet`."""
        return await self._transport.ask(questions.fleet(name))

    async def snapshots(self, name: str) -> list[SnapshotRecord]:
        """As :meth:`RemoteRegistry.snapshots`."""
        return await self._transport.ask(questions.snapshots(name))

    async def snapshot(self, name: str, version: int) -> SnapshotRecord:
        """As :meth:`RemoteRegistry.snapshot`."""
        return await self._transport.ask(questions.snapshot(name, version))

    async def lineage(self, name: str, version: int) -> Lineage:
        """As :meth:`RemoteRegistry.lineage`."""
        return await self._transport.ask(questions.lineage(name, version))

    async def model_history(self, name: str, key_text: str) -> list[ModelVersion]:
        """As :meth:`RemoteRegistry.model_history`."""
        return await self._transport.ask(questions.model_history(name, key_text))

    async def alias_history(self, name: str, alias: str | None = None) -> list[AliasChange]:
        """As :meth:`RemoteRegistry.alias_history`."""
        return await self._transport.ask(questions.alias_history(name, alias))

    async def aliases(self, name: str) -> list[AliasRecord]:
        """As :meth:`RemoteRegistry.aliases`."""
        return await self._transport.ask(questions.aliases(name))

    async def serving(self) -> list[Desired]:
        """As :meth:`RemoteRegistry.serving`."""
        return await self._transport.ask(questions.every_serving())

    async def desired(self, name: str) -> Desired:
        """As :meth:`RemoteRegistry.desired`."""
        return await self._transport.ask(questions.desired(name))

    async def keys(self) -> list[ApiKeyRecord]:
        """As :meth:`RemoteRegistry.keys`."""
        return await self._transport.ask(questions.keys())

    async def stores(self) -> list[StoreRecord]:
        """As :meth:`RemoteRegistry.stores`."""
        return await self._transport.ask(questions.stores())

    async def audit(self, *, object: str | None = None, limit: int = 100) -> list[AuditEntry]:  # noqa: A002
        """As :meth:`RemoteRegistry.audit`."""
        return await self._transport.ask(questions.audit(object, limit))

    async def verify_audit(self, *, noted: str | None = None) -> AuditCheck:
        """As :meth:`RemoteRegistry.verify_audit`."""
        return await self._transport.ask(questions.verify_audit(noted))


class RemoteLedger:
    """Runs, and what became of their rows; see :class:`Ledger`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def runs(
        self, *, state: RunState | None = None, fleet: str | None = None, kind: str | None = None, limit: int = 50
    ) -> list[RunRecord]:
        """The newest runs, newest first, filtered."""
        return self._transport.ask(questions.runs(state, fleet, kind, limit))

    def run(self, run_id: str) -> RunRecord:
        """One run; raises NotFound where there is none."""
        return self._transport.ask(questions.run(run_id))

    def inputs(self, run_id: str) -> list[InputFile]:
        """The files that a run has pinned, in the order it named them."""
        return self._transport.ask(questions.inputs(run_id))

    def totals(self, run_id: str) -> RunTotals:
        """What a run has done so far."""
        return self._transport.ask(questions.totals(run_id))


class AsyncRemoteLedger:
    """As :class:`RemoteLedger`, without blocking."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def runs(
        self, *, state: RunState | None = None, fleet: str | None = None, kind: str | None = None, limit: int = 50
    ) -> list[RunRecord]:
        """As :meth:`RemoteLedger.runs`."""
        return await self._transport.ask(questions.runs(state, fleet, kind, limit))

    async def run(self, run_id: str) -> RunRecord:
        """As :meth:`RemoteLedger.run`."""
        return await self._transport.ask(questions.run(run_id))

    async def inputs(self, run_id: str) -> list[InputFile]:
        """As :meth:`RemoteLedger.inputs`."""
        return await self._transport.ask(questions.inputs(run_id))

    async def totals(self, run_id: str) -> RunTotals:
        """As :meth:`RemoteLedger.totals`."""
        return await self._transport.ask(questions.totals(run_id))
