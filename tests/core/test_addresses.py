"""Addresses in one spelling: two ways to write one mailbox or phone compare equal, and nothing is guessed."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.addresses import normal_address, problem_with_phone


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("bob@lead.example", "bob@lead.example"),
        ("  Bob@Lead.Example ", "bob@lead.example"),
        ("Bob Jones <Bob@Lead.Example>", "bob@lead.example"),
        ('"Jones, Bob" <bob@lead.example>', "bob@lead.example"),
        ("<bob@lead.example>", "bob@lead.example"),
        ("mailto:bob@lead.example", "bob@lead.example"),
        ("'bob@lead.example'", "bob@lead.example"),
        ("bob@lead.example.", "bob@lead.example"),
        ("bob+tag@lead.example", "bob+tag@lead.example"),
        ("b.o.b@lead.example", "b.o.b@lead.example"),
        ("bob@bücher.example", "bob@xn--bcher-kva.example"),
        ("jürgen@lead.example", "jürgen@lead.example"),
        ("bob", None),
        ("@lead.example", None),
        ("bob@", None),
        ("bob@lead..example", None),
        ("bo b@lead.example", None),
        ("bob@lead.example, jo@lead.example", None),
        ("bob@lead.example\njo@lead.example", None),
        ("b" * 65 + "@lead.example", None),
        ("bob@" + "x" * 2000, None),
        ("", None),
    ],
)
def test_an_email_has_one_spelling(text: str, want: str | None) -> None:
    assert normal_address(text, "email") == want


@pytest.mark.parametrize(
    ("text", "country", "want"),
    [
        ("+1 (415) 555-0100", None, "+14155550100"),
        ("tel:+14155550100", None, "+14155550100"),
        ("+44 (0)7700 900123", None, "+447700900123"),
        ("0044 7700 900123", None, "+447700900123"),
        ("07700 900123", "GB", "+447700900123"),
        ("07700 900123", "gb", "+447700900123"),
        ("(415) 555-0100", "US", "+14155550100"),
        ("1-415-555-0100", "US", "+14155550100"),
        ("415.555.0100 x12", "US", "+14155550100"),
        ("\uff0b1 415 555 0100", None, "+14155550100"),
        ("415-555-0100", None, None),
        ("14155550100", None, None),
        ("555-0100", "US", None),
        ("911", "US", None),
        ("24273", "US", None),
        ("MyBank", "US", None),
        ("+1", None, None),
        ("+999 123456", None, None),
        ("+1415555010000000", None, None),
        ("4155550100", "XX", None),
        ("", "US", None),
    ],
)
def test_a_phone_number_is_e164_or_nothing(text: str, country: str | None, want: str | None) -> None:
    assert normal_address(text, "sms", country) == want
    assert (problem_with_phone(text, country) is None) == (want is not None)


@pytest.mark.parametrize(
    ("text", "country", "problem"),
    [
        ("", None, "no phone number"),
        ("call me", "US", "characters"),
        ("()", "US", "no digits"),
        ("415-555-0100", None, "country code"),
        ("415-555-0100", "XX", "'XX'"),
        ("555-0100", "US", "area code"),
        ("911", "US", "too short"),
        ("+1 415 555 0100 000", None, "too long"),
        ("+999 123456", None, "country code"),
    ],
)
def test_a_problem_says_what_to_do(text: str, country: str | None, problem: str) -> None:
    assert problem in (problem_with_phone(text, country) or "")


def test_without_a_channel_the_shape_decides() -> None:
    assert normal_address("Bob <BOB@lead.example>") == "bob@lead.example"
    assert normal_address("+1 415 555 0100") == "+14155550100"


def test_an_email_loads_no_phone_library() -> None:
    code = (
        "import sys, handlers.addresses as a; a.normal_address('a@b.example'); sys.exit('phonenumbers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.text(max_size=60), st.sampled_from(["email", "sms", None]), st.sampled_from(["US", "GB", "", "zz", None]))
@settings(deadline=None)
def test_normal_is_normal_for_any_text(text: str, channel: str | None, country: str | None) -> None:
    once = normal_address(text, channel, country)
    if once is not None:
        assert normal_address(once, channel, country) == once
    problem_with_phone(text, country)
