"""What a server is told to do is checked before it does anything."""

import msgspec
import pytest

from shoal.errors import InvalidInput
from shoal.server.options import ServerOptions

WRONG = [
    {"url": "notaurl"},
    {"url": "models.example.org:8080"},
    {"url": "ftp://models.example.org"},
    {"url": "https://"},
    {"url": "https://models.example.org:http"},
    {"url": "https://models.example.org#here"},
    {"url": "https://models example.org"},
    {"url": ""},
    {"otlp_endpoint": "notaurl"},
    {"otlp_endpoint": "localhost:4318"},
    {"category": "air", "fleets": ("single",)},
]


@pytest.mark.parametrize("options", WRONG)
def test_what_cannot_be_meant_is_refused(options):
    with pytest.raises(InvalidInput, match="--"):
        ServerOptions(**options)
    with pytest.raises(InvalidInput, match="--"):
        msgspec.convert(options, ServerOptions)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "https://models.example.org/shoal/"},
        {"url": "http://[::1]:8080"},
        {"otlp_endpoint": "http://collector:4318/v1/traces"},
        {"category": "air"},
        {"fleets": ("single",)},
    ],
)
def test_what_can_be_meant_travels_to_the_workers(options):
    made = ServerOptions(**options)
    assert msgspec.json.decode(msgspec.json.encode(made), type=ServerOptions) == made
