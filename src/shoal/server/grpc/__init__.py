"""The open inference protocol over gRPC: a thin door onto the data plane.

``inference.proto`` holds the messages; ``make protocol`` turns it into ``inference_pb2.py`` and ``inference_pb2.pyi``.
"""

import os

# Its own lines, one per failed handshake, would lie between ours; it looks at this once, when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
