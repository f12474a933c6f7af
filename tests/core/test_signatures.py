"""Standard Webhooks signatures: the specification's own examples, and whatever else is sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.signatures import TOLERANCE_S, Signed, fault_of, key_of, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
KNOWN = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_signature_is_the_one_that_others_make() -> None:
    assert sign(SECRET, ID, AT, BODY) == KNOWN


@pytest.mark.parametrize("signature", [KNOWN, f"v1,AAAA {KNOWN}", f"v2,{KNOWN} {KNOWN} v1a,x", f" {KNOWN}  "])
def test_one_good_signature_among_several_will_do(signature: str) -> None:
    assert fault_of(SECRET, Signed(ID, str(AT), signature), BODY, AT + 1) is None


@pytest.mark.parametrize(
    ("signed", "body", "now"),
    [
        (Signed(ID, str(AT), KNOWN), BODY + b" ", AT),
        (Signed("msg_other", str(AT), KNOWN), BODY, AT),
        (Signed(ID, str(AT + 1), KNOWN), BODY, AT),
        (Signed(ID, str(AT), KNOWN), BODY, AT + TOLERANCE_S + 1),
        (Signed(ID, str(AT), KNOWN), BODY, AT - TOLERANCE_S - 1),
        (Signed(ID, str(AT), KNOWN.removeprefix("v1,")), BODY, AT),
        (Signed(ID, str(AT), KNOWN.replace("v1", "v2")), BODY, AT),
        (Signed(ID, str(AT), KNOWN[:-4]), BODY, AT),
        (Signed(ID, str(AT), ""), BODY, AT),
        (Signed("", str(AT), KNOWN), BODY, AT),
        (Signed(ID, "", KNOWN), BODY, AT),
        (Signed(ID, f"{AT}.0", KNOWN), BODY, AT),
        (Signed(ID, f"+{AT}", KNOWN), BODY, AT),
        (Signed(ID, f"-{AT}", KNOWN), BODY, AT),
        (Signed(ID, "9" * 5000, KNOWN), BODY, AT),
        (Signed(ID, "١٦١٤٢٦٥٣٣٠", KNOWN), BODY, AT),
    ],
)
def test_whatever_differs_is_not_trusted(signed: Signed, body: bytes, now: float) -> None:
    """Guarantee 17. Mutants: no look at the timestamp; the signature over the body alone."""
    assert fault_of(SECRET, signed, body, now) is not None


def test_both_ends_of_the_tolerance_are_trusted() -> None:
    for now in (AT - TOLERANCE_S, AT + TOLERANCE_S):
        assert fault_of(SECRET, Signed(ID, str(AT), KNOWN), BODY, now) is None


def test_a_secret_is_base64_after_its_prefix_or_any_text() -> None:
    assert key_of("whsec_c2VjcmV0") == b"secret"
    assert key_of("secret") == b"secret"
    for bad in ("whsec_", "whsec_a", "whsec_c2Vj cmV0", "whsec_****"):
        with pytest.raises(ValueError, match="Base64"):
            key_of(bad)


@given(st.text(), st.text(), st.text(), st.binary())
def test_no_headers_are_taken_for_a_signature(message_id: str, timestamp: str, signature: str, body: bytes) -> None:
    assert fault_of(SECRET, Signed(message_id, timestamp, signature), body, AT) is not None
