"""One spelling per address: emails in lower case, phone numbers in E.164. No I/O; unsure means None, never a guess."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phonenumbers import PhoneNumber

MAX_LENGTH = 320  # 64 of local part, the @, 255 of domain
NATIONAL = re.compile(r"(?:[\s().\-/]*\d){7,15}")  # without a country nobody can tell more; the engine may know
_IN_BRACKETS = re.compile(r"<\s*([^<>]*)\s*>[^<>]*$")
_LOCAL = re.compile(r"(?:\"[^\"@\s]+\"|[^\s\"<>()\[\],;:@]+)\Z")
_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*\Z")
_PHONE_PREFIX = re.compile(r"(?i)\s*(?:tel|sms|callto|phone|mobile|cell|whatsapp)\s*:\s*")
_PHONE_SHAPE = re.compile(r"\+?[\d\s().\-/\u2010-\u2015\u00a0]+(?:(?:ext\.?|x|#|;ext=)\s*\d{1,7})?\Z", re.IGNORECASE)


def normal_address(text: str, channel: str | None = None, country: str | None = None) -> str | None:
    """The address in the one spelling that comparisons use, or None. Without a channel, an @ makes it an email."""
    if not text or len(text) > 4 * MAX_LENGTH:
        return None
    if channel == "email" or (channel is None and "@" in text):
        return _normal_email(text)
    return _normal_phone(text, country)


def problem_with_phone(text: str, country: str | None = None) -> str | None:
    """Why this can't be a phone number to send to (for a person to read), or None if it can."""
    number = _parse_phone(text or "", country)
    return number if isinstance(number, str) else _impossible(number)


def no_text_to(text: str, country: str | None = None) -> str | None:
    """Why no text message can go to this number, or None if one can; of a national number its engine may know more."""
    problem = None if NATIONAL.fullmatch(text.strip()) else problem_with_phone(text, country)
    return f"no usable address: {problem}" if problem else None


def problem_with_email(text: str) -> str | None:
    """Why this can't be an email address to send to (for a person to read), or None if it can."""
    return None if normal_address(text, "email") else "is not an email address"


def problem_with_country(country: str) -> str | None:
    """Why this is no country whose numbers we know (for a person to read), or None if it is one."""
    import phonenumbers  # noqa: PLC0415  # as below

    known = country.strip().upper() in phonenumbers.SUPPORTED_REGIONS
    return None if known else f"{country.strip()[:20]!r} is not a two-letter country code"


def _normal_email(text: str) -> str | None:
    bracketed = _IN_BRACKETS.search(text)
    bare = (bracketed.group(1) if bracketed else text).strip().strip("\"'").strip()
    # lower(), not casefold(): that would turn ß into ss, which is another mailbox.
    local, at, domain = bare.removeprefix("mailto:").removeprefix("MAILTO:").lower().rpartition("@")
    host = _ascii_domain(domain.rstrip(".;,>"))
    if not at or not host or len(local) > 64 or not _LOCAL.match(local):
        return None
    return f"{local}@{host}"


def _ascii_domain(domain: str) -> str | None:
    try:
        host = domain if domain.isascii() else domain.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return host if _DOMAIN.match(host) else None


def _normal_phone(text: str, country: str | None) -> str | None:
    import phonenumbers  # noqa: PLC0415  # heavy, and most deployments never normalise a phone number

    number = _parse_phone(text, country)
    if isinstance(number, str) or _impossible(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _parse_phone(text: str, country: str | None) -> "PhoneNumber | str":
    """The parsed number, or the problem. A number without + needs a country: its digits alone name several people."""
    import phonenumbers  # noqa: PLC0415  # as above

    written = _written(text)
    problem = _shape_problem(written) or _country_problem(written, country)
    if problem:
        return problem
    try:
        return phonenumbers.parse(written, None if written.startswith("+") else str(country).strip().upper())
    except phonenumbers.NumberParseException as error:
        return _PARSE_PROBLEMS.get(error.error_type, "is not a phone number")


def _written(text: str) -> str:
    bare = _PHONE_PREFIX.sub("", text[:200], count=1).replace("\uff0b", "+").strip().strip("<>\"'").strip()
    return "+" + bare[2:] if re.match(r"00[1-9]", bare) else bare


def _shape_problem(written: str) -> str | None:
    if not written:
        return "no phone number"
    if not _PHONE_SHAPE.match(written):
        return "holds characters that no phone number has"
    return None if re.search(r"\d", written) else "holds no digits"


def _country_problem(written: str, country: str | None) -> str | None:
    if written.startswith("+"):
        return None
    if not country or not country.strip():
        return "has no country code: write it with + and the country code, or set the country"
    problem = problem_with_country(country)
    return f"country {problem}" if problem else None


def _impossible(number: "PhoneNumber") -> str | None:
    import phonenumbers  # noqa: PLC0415  # as above

    # Possible, not assigned: 555 numbers are never assigned, and new ranges are assigned before a library knows.
    return _LENGTH_PROBLEMS.get(phonenumbers.is_possible_number_with_reason(number))


# The codes of phonenumbers' NumberParseException and ValidationResult, spelt out so that nothing is imported for them.
_PARSE_PROBLEMS = {
    0: "starts with a country code that doesn't exist",
    1: "is not a phone number",
    2: "is too short after its international prefix",
    3: "is too short",
    4: "is too long",
}
_LENGTH_PROBLEMS = {
    1: "starts with a country code that doesn't exist",
    2: "is too short for its country",
    3: "is too long for its country",
    4: "is a local number: the area code is missing",
    5: "has a length that no number of its country has",
}
