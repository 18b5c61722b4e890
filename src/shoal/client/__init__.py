"""What asks Shoal's servers over the network, with the interface of a workspace.

::

    connecting.py    from an address to a client: ``shoal.connect``
    client.py        Client, which blocks
    async_client.py  AsyncClient, which awaits
    remote.py        a fleet on a server: predict, submit, models, a single model
    lookups.py       what the registry and the ledger know
    predictions.py   predictions that are kept
    inference.py     what is asked of fleets and models, said once for both kinds of client
    questions.py     what is asked of the management API
    exchange.py      one question and its answer, as values; no network
    routes.py        which server to ask, remembered for a while
    sending.py       which server, how often again, what an answer means; several questions in a row
    transport.py     the two drivers: one blocks, one awaits
    trust.py         certificates: whose are taken, what is shown, and what a failed handshake means
    rows.py          rows in the words of the protocol
    records.py       records of the registry and the ledger
"""

from shoal.client.async_client import AsyncClient
from shoal.client.client import Client
from shoal.client.connecting import connect, connect_async

__all__ = ["AsyncClient", "Client", "connect", "connect_async"]
