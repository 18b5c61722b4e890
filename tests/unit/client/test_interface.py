"""A client is a workspace that is elsewhere: the same methods, the same parameters, in both kinds of client."""

import inspect
import typing

import pytest

from shoal.client import AsyncClient, Client
from shoal.client.lookups import AsyncRemoteLedger, AsyncRemoteRegistry, RemoteLedger, RemoteRegistry
from shoal.client.predictions import AsyncRemotePredictions, RemotePredictions
from shoal.client.remote import AsyncRemoteFleet, AsyncRemoteModel, RemoteFleet, RemoteModel
from shoal.fleet import Fleet, Model
from shoal.ledger import Ledger, Predictions
from shoal.registry import Registry
from shoal.workspace import Workspace

AT_THE_MACHINE = {
    "register", "train", "score", "resume", "model_outcomes", "gc", "open_snapshot", "history", "data_plane",
    "deferred", "require_servable", "serving_of", "unflushed",
}  # fmt: skip
"""Work with files and processes of the machine."""
FOR_THE_PERSON_AT_THE_MACHINE = {"set_source", "set_sink", "set_store"}
"""Addresses, queries and paths never come from outside."""
ONLY_SERVERS_KNOW = {"statistics"}
OF_THE_PLACE = {"self", "actor", "more_attempts"}
"""A server acts in the name of the API key, and has its own number of attempts."""


def methods(kind):
    return {name: member for name, member in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def parameters(function):
    """Name, kind, default and type of each."""
    types = typing.get_type_hints(function)
    return [
        (one.name, one.kind, one.default, types[one.name])
        for one in inspect.signature(function).parameters.values()
        if one.name not in OF_THE_PLACE
    ]


def returned(function):
    return str(typing.get_type_hints(function)["return"])


def test_a_client_has_every_method_of_a_workspace_that_can_be_asked_for_from_afar():
    wanted = set(methods(Workspace)) - AT_THE_MACHINE - FOR_THE_PERSON_AT_THE_MACHINE
    assert set(methods(Client)) == wanted | ONLY_SERVERS_KNOW


def test_a_single_model_is_asked_as_here():
    assert parameters(RemoteModel.predict) == parameters(Model.predict) == parameters(Fleet.predict)


@pytest.mark.parametrize(
    ("local", "remote"),
    [(Workspace, Client), (Registry, RemoteRegistry), (Ledger, RemoteLedger), (Predictions, RemotePredictions)],
)
def test_parameters_and_answers_are_those_of_the_workspace(local, remote):
    here = methods(local)
    for name, function in methods(remote).items():
        if name in ONLY_SERVERS_KNOW:
            continue
        assert parameters(function) == parameters(here[name]), name
        assert returned(function).replace("client.remote.Remote", "fleet.") == returned(here[name]), name


def test_the_words_of_predictions_that_a_caller_needs_are_there():
    assert set(methods(RemotePredictions)) == {
        "listed",
        "one",
        "wait",
        "replay",
        "replay_failed",
        "of_request",
        "purge",
    }


@pytest.mark.parametrize(
    ("blocking", "awaiting"),
    [
        (Client, AsyncClient),
        (RemoteRegistry, AsyncRemoteRegistry),
        (RemoteLedger, AsyncRemoteLedger),
        (RemotePredictions, AsyncRemotePredictions),
        (RemoteModel, AsyncRemoteModel),
        (RemoteFleet, AsyncRemoteFleet),
    ],
)
def test_the_client_of_an_event_loop_has_the_same(blocking, awaiting):
    one, other = methods(blocking), methods(awaiting)
    assert set(one) == set(other) - {"model", "models"}  # [] and properties cannot be awaited
    for name in one:
        if inspect.iscoroutinefunction(other[name]):
            same = [(what, kind, default) for what, kind, default, _ in parameters(other[name])]
            assert same == [(what, kind, default) for what, kind, default, _ in parameters(one[name])], name
            assert returned(other[name]).replace("Async", "") == returned(one[name]), name
        else:
            assert other[name] is one[name], f"{name} is said once, for both"
