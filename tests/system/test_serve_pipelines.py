"""A served fleet of whole pipelines: preprocessing and model answer at one address, and for whom nobody has trained."""

import numpy as np
import pytest
from serve_process import serving
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import shoal

INFER = "/v2/models/delays/infer"
CARRIERS = ["AA", "DL", "UA"]
FEATURES = ("carrier", "distance", "hour")
CLOSE = {"rel": 0, "abs": 1e-9}
#: Keys of models, and how many rows are asked about each.
ROUTES, ROWS = [("JFK", "LAX"), ("JFK", "SFO"), ("BOS", "LAX")], 40


def flights(chance, rows, carriers):
    """Features as scikit-learn takes them: a text and two numbers of quite different size."""
    numbers = [chance.integers(100, 3000, rows).astype(object), chance.uniform(0, 24, rows).astype(object)]
    return np.column_stack([chance.choice(carriers, rows).astype(object), *numbers])


def pipeline(chance):
    encode = ColumnTransformer(
        [("text", OneHotEncoder(handle_unknown="ignore"), [0]), ("numbers", StandardScaler(), [1, 2])]
    )
    X = flights(chance, 60, CARRIERS)
    late = np.array([7 * CARRIERS.index(text) + 0.01 * distance - hour for text, distance, hour in X], dtype=float)
    return make_pipeline(encode, Ridge()).fit(X, late + chance.normal(size=60))


@pytest.fixture(scope="module")
def estimators():
    """By the levels of the fleet, then by key."""
    chance = np.random.default_rng(11)
    levels = {("origin", "dest"): ROUTES, ("origin",): [("JFK",)], (): [()]}
    return {level: {key: pipeline(chance) for key in keys} for level, keys in levels.items()}


@pytest.fixture(scope="module")
def server(estimators, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    models, *fallbacks = estimators.items()
    fleet = shoal.Fleet.from_estimators(
        keys=["origin", "dest"],
        models=models[1],
        fallbacks=dict(fallbacks),
        features=list(FEATURES),
        task="regression",
        name="delays",
    )
    with shoal.open(folder / "home") as workspace:
        workspace.promote("delays", workspace.register(fleet).version)
    with serving(folder / "home", folder, "delays", "--no-grpc") as running:
        yield running


def columns(routes, X):
    """What is asked, by input."""
    named = {"origin": [origin for origin, _ in routes], "dest": [dest for _, dest in routes]}
    return named | {name: X[:, place].tolist() for place, name in enumerate(FEATURES)}


def ask(client, asked):
    """All outputs by name, as they came over HTTP."""
    datatypes = dict.fromkeys(("origin", "dest", "carrier"), "BYTES")
    inputs = [
        {"name": name, "datatype": datatypes.get(name, "FP64"), "shape": [len(values)], "data": values}
        for name, values in asked.items()
    ]
    outputs = [{"name": name} for name in ("prediction", "outcome", "model_level")]
    answer = client.post(INFER, json={"inputs": inputs, "outputs": outputs})
    assert answer.status_code == 200, answer.text
    return {one["name"]: one["data"] for one in answer.json()["outputs"]}


def test_a_pipeline_with_preprocessing_answers_as_scikit_learn_does(server, estimators):
    """For rows of all models in one request, some with a carrier that no training has seen, and for each by itself."""
    X = flights(np.random.default_rng(12), ROWS * len(ROUTES), [*CARRIERS, "ZZ"])
    routes = ROUTES * ROWS
    truth = [estimators["origin", "dest"][route].predict(X[place : place + 1])[0] for place, route in enumerate(routes)]
    with server.client() as client:
        together = ask(client, columns(routes, X))
        apart = [ask(client, columns([route], X[place : place + 1])) for place, route in enumerate(routes)]
    assert together["prediction"] == pytest.approx(truth, **CLOSE)
    assert [one["prediction"][0] for one in apart] == together["prediction"]
    assert set(together["outcome"]) == {"scored"}
    assert "ZZ" in X[:, 0]


@pytest.mark.parametrize(
    ("route", "level"), [(("JFK", "new"), ("origin",)), (("new", "LAX"), ()), (("new", "newer"), ())]
)
def test_a_key_that_no_model_was_trained_for_is_answered_at_once_by_the_next_level(server, estimators, route, level):
    X = flights(np.random.default_rng(13), ROWS, CARRIERS)
    asked = columns([route] * ROWS, X)
    truth = estimators[level][route[: len(level)]].predict(X)
    with server.client() as client, shoal.connect(server.url) as connected:
        over_http = ask(client, asked)
        by_client = connected.fleet("delays").predict(asked, outcome=True, model_level=True)
    assert over_http["prediction"] == by_client["prediction"].to_list() == pytest.approx(truth, **CLOSE)
    for told in (over_http, by_client):
        assert set(told["outcome"]) == {"fallback"}
        assert set(told["model_level"]) == {level[0] if level else "global"}
