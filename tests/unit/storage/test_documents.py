"""What is wrong with a description is said with its field, and with what the field may be."""

from pathlib import Path

import pytest

from shoal.batch.spec import load as load_job
from shoal.errors import InvalidSpec
from shoal.requests.loading import load as load_serving
from shoal.requests.sources import load_source
from shoal.requests.spec import ServingSpec
from shoal.serving.sinks import load_sink


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"store": "nope"}, "field 'store' is 'nope': it must be durable"),
        ({"checks": {"on_input": "x"}}, "field 'checks.on_input' is 'x': it must be invalid or reject or report"),
        (
            {"checks": {"inputs": {"a": {"type": "t"}}}},
            "field 'checks.inputs.a.type' is 't': it must be integer or number or text",
        ),
        ({"rules": [{"set": {"a": 1}, "rows": "few"}]}, "field 'rules[1].rows' is 'few': it must be all or answered"),
        (
            {"lookup": {"source": "s", "keys": ["j", "k"], "features": ["f"], "key_types": {"j": "date", "k": "u"}}},
            "field 'lookup.key_types.k' is 'u': it must be boolean or date or integer or string",
        ),
        (
            {"checks": {"inputs": {"price": {"minimum": 1}}}},
            "field 'checks.inputs.price.minimum' is not known: did you mean 'min'?",
        ),
        (
            {"checks": {"outputs": {"good": {"min": 1}, "a.b": {"max": "x"}, "c": {"max": "x"}}}},
            "field 'checks.outputs.a.b.max' does not fit: Expected `float | null`, got `str`",
        ),
        (
            {"rules": [{"set": {"a": 1}}, {"set": {"5": "x", "6": [1]}}]},
            "field 'rules[2].set.6' does not fit: Expected `bool | int | float | str`, got `array`",
        ),
        ({"cache": {"ttl_s": "x"}}, "field 'cache.ttl_s' does not fit: Expected `float`, got `str`"),
        ({"cache": {}}, "field 'cache' does not fit: Object missing required field `ttl_s`"),
        ({"store": 5}, "field 'store' does not fit: Expected `str | null`, got `int`"),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_its_choices(spec: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        load_serving(spec)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("content", "said"), [("", "is empty"), ("# nothing\n", "is empty"), ("- a\n", "has no fields")]
)
@pytest.mark.parametrize(
    ("load", "field"),
    [
        (load_serving, "store: durable"),
        (load_source, "kind: sql"),
        (load_sink, "kind: sql_sink"),
        (load_job, "fleet: NAME"),
    ],
)
def test_a_file_without_fields_is_told_which_to_write(tmp_path: Path, load, field, content, said) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(content)
    with pytest.raises(InvalidSpec, match=f"{said}; write fields such as '{field}'"):
        load(path)


def test_a_serving_file_may_have_none(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("{}")
    assert load_serving(path) == ServingSpec()
    path.write_text("")
    with pytest.raises(InvalidSpec, match=r"\{\} for none"):
        load_serving(path)
