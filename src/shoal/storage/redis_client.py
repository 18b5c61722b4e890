"""Connections to Redis and Valkey that give up in time."""

from typing import TYPE_CHECKING

from shoal.errors import InvalidInput

if TYPE_CHECKING:
    import redis.asyncio


def connect(url: str, *, timeout_s: float, connections: int = 16) -> "redis.asyncio.Redis":
    """A client that asks once; nothing is sent yet.

    Parameters
    ----------
    url : str
        ``redis://host:port/0``, ``rediss://`` or ``unix://``.
    timeout_s : float
        How long to wait for a connection and for an answer, each, in seconds.
    connections : int
        Most connections that are open at a time.

    Raises
    ------
    InvalidInput
        The URL is none, or the driver is not installed.
    """
    try:
        import redis.asyncio
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ModuleNotFoundError as error:
        raise InvalidInput("the driver of Redis is not installed; install shoal[redis]") from error
    try:
        return redis.asyncio.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=connections,
        )
    except ValueError as error:  # its message may show the password
        raise InvalidInput("the URL of Redis cannot be read; write redis://host:port/0") from error


def redis_errors() -> tuple[type[Exception], ...]:
    """What a Redis that does not answer raises."""
    import redis.exceptions

    return (redis.exceptions.RedisError, OSError, TimeoutError)
