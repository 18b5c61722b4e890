"""What asks Shoal's servers over the network, with the interface of a workspace.

::

    client.py     Client and AsyncClient: what ``shoal.connect`` returns
    remote.py     a fleet on a server: predict, models, a single model
    exchange.py   one question and its answer, as values; no network
    routes.py     which server to ask about a fleet, remembered for a while
    sending.py    which server, how often again, what an answer means
    transport.py  the two drivers: one blocks, one awaits
    trust.py      certificates: whose are taken, what is shown, and what a failed handshake means
    rows.py       rows and answers in the words of the protocol
    records.py    records of the ledger
"""

from shoal.client.client import AsyncClient, Client, connect, connect_async

__all__ = ["AsyncClient", "Client", "connect", "connect_async"]
