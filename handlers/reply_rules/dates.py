"""The day of return, as people write it."""

import re
from datetime import date, timedelta

_MONTHS = (  # English, German, French, Spanish, Italian, Portuguese, Dutch
    r"jan(?:uar[yi]?|vier|eiro)?|ene(?:ro)?|gennaio",
    r"feb(?:ruar[yi]?|rero|braio)?|f[ée]v(?:rier|ereiro)?",
    r"mar(?:ch|s|zo|ço)?|mär(?:z)?|maerz|maart",
    r"apr(?:il|ile)?|avr(?:il)?|abr(?:il)?",
    r"may|mai|mayo|mei|maio|maggio",
    r"jun[ei]?|juin|junio|junho|giugno",
    r"jul[yi]?|juil(?:let)?|julio|julho|luglio",
    r"aug(?:ust|ustus)?|ao[uû]t|ago(?:sto)?",
    r"sep(?:t|tember|tembre|tiembre)?|settembre|setembro",
    r"o[ck]t(?:ober|obre|ubre)?|ott(?:obre)?|outubro",
    r"nov(?:ember|embre|iembre|embro)?",
    r"de[cz](?:ember|embre|embro)?|d[ée]c(?:embre)?|dic(?:iembre|embre)?",
)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTH = "|".join(_MONTHS)
_DATE = re.compile(
    r"(?P<y1>20\d\d)-(?P<m1>\d\d?)-(?P<d1>\d\d?)"
    r"|\b(?!24/7)(?P<a>\d\d?)(?:/(?P<b>\d\d?)(?:/(?P<y2>(?:20)?\d\d))?"
    r"|(?P<s>[.-])(?P<b2>\d\d?)(?:(?P=s)(?P<y5>20\d\d)|\.(?=\s|$)))(?![\d/])"
    rf"|\b(?P<d3>\d\d?)(?:st|nd|rd|th|er|\.)?(?: of| de)? (?P<m3>{_MONTH})\b\.?(?:,? (?:de )?(?P<y3>20\d\d))?"
    rf"|\b(?P<m4>{_MONTH})\.? (?P<d4>\d\d?)(?:st|nd|rd|th)?\b(?:,? (?P<y4>20\d\d))?"
    rf"|\b(?P<w>{'|'.join(_WEEKDAYS)})\b(?!,? (?:the )?(?:\d|(?:{_MONTH})\.? \d))|\b(?P<t>tomorrow)\b"
)
_BACK = re.compile(
    r"\b(?:return\w*|back|resum\w*|reachable again|available again|wieder|zur[üu]ck|retour|vuelvo|regres\w+"
    r"|rientr\w+|terug)\b"
)
_UNTIL = re.compile(
    r"(?:\b(?:until|till?|through|thru|to|and|bis|jusqu'?au?|hasta|fino al?|tot|at[ée])"
    r"|[-\u2013])\W*(?:\w+day,? ?)?(?:the |zum |einschlie\w+ |le |el |al |e met )?$"
)
_LAST_DAY = re.compile(r"\b(?:through|thru)\b")


def return_date(text: str, received: date) -> date | None:
    """The day on which somebody says they are back: never before `received`, nor more than a year after it."""
    plain = " ".join(text.lower().split())
    ranked: list[tuple[int, int, date]] = []
    for found in _DATE.finditer(plain):
        day, before = _day(found, received), plain[max(0, found.start() - 60) : found.start()]
        if day and received <= day <= received + timedelta(days=366):
            ranked.append((*_rank(before, found.start()), day + timedelta(days=bool(_LAST_DAY.search(before[-25:])))))
    return min(ranked)[2] if ranked else None


def _rank(before: str, position: int) -> tuple[int, int]:
    """A date of return counts before an end of absence; of several, the first said."""
    sentence = re.split(r"[.!?](?=\s)", before)[-1]
    if _BACK.search(sentence):
        return 0, position
    return (1, position) if _UNTIL.search(before) else (2, -position)


def _day(found: re.Match[str], received: date) -> date | None:
    parts = found.groupdict()
    if parts["w"]:
        return received + timedelta(days=(_WEEKDAYS.index(parts["w"]) - received.weekday() - 1) % 7 + 1)
    if parts["t"]:
        return received + timedelta(days=1)
    if parts["a"]:
        return _either_order(int(parts["a"]), int(parts["b"] or parts["b2"]), parts["y2"] or parts["y5"], received)
    n = next(n for n in "134" if parts[f"d{n}"])
    month = parts[f"m{n}"]
    return _valid(parts[f"y{n}"], int(month) if month.isdigit() else _month(month), int(parts[f"d{n}"]), received)


def _month(name: str) -> int:
    return next(n for n, names in enumerate(_MONTHS, 1) if re.fullmatch(names, name))


def _either_order(first: int, second: int, year: str | None, received: date) -> date | None:
    """5/1 is the first of May or the fifth of January: the nearer one that is not over."""
    both = (_valid(year, first, second, received), _valid(year, second, first, received))
    return min((day for day in both if day and day >= received), default=None)


def _valid(year: str | None, month: int, day: int, received: date) -> date | None:
    try:
        if year:
            return date(int(year) % 100 + 2000, month, day)
        this = date(received.year, month, day)
        return this if this >= received - timedelta(days=30) else date(received.year + 1, month, day)
    except ValueError:
        return None
