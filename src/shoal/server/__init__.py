"""The doors: REST, gRPC and the management API. They translate; they neither score nor speak SQL."""
