"""Real-time inference without a protocol: what a request asks, and how it is answered."""
