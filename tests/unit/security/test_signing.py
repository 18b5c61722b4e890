import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import Unauthenticated
from shoal.security.signing import sign, verify

NOW_S = 1_795_000_000.0


def test_the_signature_is_what_hmac_says():
    expected = hmac.new(b"secret", b"1795000000.{}", hashlib.sha256).hexdigest()
    assert sign(b"{}", [b"secret"], at_s=NOW_S) == f"t=1795000000,v1={expected}"


@given(body=st.binary(max_size=200), secret=st.binary(min_size=1, max_size=40), late_s=st.floats(-299, 299))
def test_what_was_signed_verifies(body, secret, late_s):
    verify(sign(body, [secret], at_s=NOW_S), body, secret, now_s=int(NOW_S) + late_s)


def test_another_body_secret_or_time_is_refused():
    header = sign(b"body", [b"secret"], at_s=NOW_S)
    with pytest.raises(Unauthenticated, match="does not fit"):
        verify(header, b"body!", b"secret", now_s=NOW_S)
    with pytest.raises(Unauthenticated, match="does not fit"):
        verify(header, b"body", b"other", now_s=NOW_S)
    with pytest.raises(Unauthenticated, match="does not fit"):
        verify(header.replace("t=1795000000", "t=1795000001"), b"body", b"secret", now_s=NOW_S)


@pytest.mark.parametrize("now_s", [NOW_S + 301, NOW_S - 301])
def test_an_old_signature_cannot_be_sent_again(now_s):
    with pytest.raises(Unauthenticated, match="too old"):
        verify(sign(b"body", [b"secret"], at_s=NOW_S), b"body", b"secret", now_s=now_s)


def test_while_a_secret_is_replaced_both_fit():
    header = sign(b"body", [b"new", b"old"], at_s=NOW_S)
    for secret in (b"new", b"old"):
        verify(header, b"body", secret, now_s=NOW_S)


@given(st.text(max_size=60))
def test_any_other_header_is_refused(header):
    with pytest.raises(Unauthenticated):
        verify(header, b"", b"secret", now_s=NOW_S)


@pytest.mark.parametrize(
    "header", ["t=1,t=2,v1=aa", "t=,v1=aa", "t=-1,v1=aa", "t=\u0661,v1=aa", "t=1,v1=ä", f"t={'1' * 500},v1=a"]
)
def test_a_header_with_a_wrong_form_is_refused(header):
    with pytest.raises(Unauthenticated):
        verify(header, b"", b"secret", now_s=1)
