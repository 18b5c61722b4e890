"""The open inference protocol over gRPC: a thin door onto the data plane.

``inference.proto`` holds the messages; ``make protocol`` turns it into ``inference_pb2.py`` and ``inference_pb2.pyi``.
"""
