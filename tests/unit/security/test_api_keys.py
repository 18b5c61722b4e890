import dataclasses
import datetime as dt
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import Unauthenticated
from shoal.security.api_keys import ApiKeyRecord, id_of, matches, new_key
from shoal.security.permissions import Role

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


def record(key, **facts):
    return ApiKeyRecord(
        id=key.id, name="app", role=Role.PREDICTOR, hash=key.hash, created_at=NOW, created_by="tester", **facts
    )


def test_a_key_has_a_public_id_and_256_secret_bits():
    key = new_key()
    found = re.fullmatch(r"shoal_([a-z0-9]{12})_([0-9a-f]{64})", key.text)
    assert found
    assert found[1] == key.id == id_of(key.text)
    assert key.hash == hashlib.sha256(key.text.encode()).hexdigest()
    assert len({new_key().text for _ in range(200)}) == 200


def test_the_secret_is_in_no_representation():
    key = new_key()
    secret = key.text.rpartition("_")[2]
    assert secret not in repr(key)
    assert secret not in repr(record(key))


def test_only_the_very_text_matches():
    key, other = new_key(), new_key()
    kept = record(key)
    assert matches(key.text, kept)
    assert not matches(other.text, kept)
    assert not matches(key.text[:-1] + ("0" if key.text[-1] != "0" else "1"), kept)
    assert not matches(kept.hash, kept)


@given(st.text(max_size=100))
def test_a_text_that_is_no_key_is_refused_without_repeating_it(text):
    with pytest.raises(Unauthenticated) as refused:
        id_of(text)
    assert len(text) < 8 or text not in str(refused.value)


@pytest.mark.parametrize("change", [str.upper, lambda text: text + "\n", lambda text: text[1:], lambda text: text * 2])
def test_a_key_with_a_wrong_form_is_refused(change):
    with pytest.raises(Unauthenticated):
        id_of(change(new_key().text))


def test_a_key_is_taken_until_it_expires_or_is_revoked():
    kept = record(new_key(), expires_at=NOW + dt.timedelta(hours=1))
    kept.require_active(NOW)
    with pytest.raises(Unauthenticated, match="has expired"):
        kept.require_active(NOW + dt.timedelta(hours=1))
    revoked = dataclasses.replace(kept, revoked_at=NOW)
    with pytest.raises(Unauthenticated, match="was revoked"):
        revoked.require_active(NOW)
    assert record(new_key()).is_active(NOW + dt.timedelta(days=10_000))
