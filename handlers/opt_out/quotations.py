"""Whose words: without quotations, our own footer, tapbacks and signatures of devices."""

import re
import unicodedata

LONGEST = 20_000  # characters looked at, quotations included

_WROTE = r"wrote|schrieb|a [eé]crit|escribi[oó]|ha scritto|schreef|escreveu|skrev"
_ATTRIBUTION = re.compile(  # "On Monday Ann <ann@a.example> wrote:", over up to three lines, none of them empty
    rf"(?ims)^[ \t*_]*(?:on|am|le|el|il|op|em|den)\b(?:(?!\n\s*\n"
    rf"|\n[ \t]*on\b).){{5,300}}?\b(?:{_WROTE})\b[^\n]{{0,80}}:[ \t*_]*$"
)
_QUOTED_MAIL = re.compile(
    r"(?im)^[ \t*_]*(?:-{2,} ?(?:original|forwarded|urspr\w+|weitergeleitete)[^\n]*"
    r"|begin forwarded message|[-#]{2,} ?reply above|_{10,}[ \t]*$"
    r"|\*?(?:from|von|de|da|van)\*?:[^\n]*\n(?:[^\n]*\n){0,2}?[ \t]*\*?(?:sent|date|to|subject|gesendet|datum"
    r"|an|envoy[eé]"
    r"|enviado|fecha|inviato|verzonden|para|objet)\*?[ \t]*:)"
)
_WORD = r"(?:stop ?(?:all)?|unsubscribe|opt[ -]?out|cancel|end|quit|revoke|remove)"
_FOOTERS = (  # how to leave, as only a sender says it
    rf"\b(?:reply|respond|text|txt|send|type|answer)\b.{{0,30}}\b{_WORD}\b.{{0,3}} (?:to|for|at any|any ?time|2)\b",
    rf"\b{_WORD} ?(?:=|2|to) ?(?:end|quit|opt|cancel|unsub|stop)",
    r"^\W*(?:or )?to (?:unsubscribe|opt[ -]?out|stop receiving|be removed|manage)\b",
    r"^\W*(?:please )?(?:click|tap|visit|follow)\b.{0,200}\b(?:unsubscribe|opt[ -]?out)",
    (
        r"\bif you(?:'d| would| no longer| do not| don't)? (?:wish|want|prefer|like|rather)\b.{0,200}\b(?:receive|hear"
        r"|unsubscribe|opt|contact|list)"
    ),
    r"\byou(?:'re| are) receiving\b|\byou received this\b|\bthis (?:e-?mail|message) was (?:intended|sent)\b",
    r"\bunsubscribe\b.{0,40}https?:(?!.{0,200}\b(?:work|broken))|https?:\S*unsub",
    r"\bunsubscribe *\||\| *unsubscribe\b",
)
_FOOTER = re.compile("|".join(f"(?:{footer})" for footer in _FOOTERS), re.IGNORECASE)
_TAPBACK = re.compile(
    r"(?is)\A\s*(?:(?:dis)?liked|loved|laughed at|emphasi[sz]ed|questioned|reacted .{1,20} to) [\"“].*"
)
_DEVICE = re.compile(r"(?im)^[ \t]*(?:sent (?:from|via)|get outlook|envoy[eé] de|von meinem|gesendet)\b[^\n]*$")


def own_words(text: str) -> str:
    """What the writer wrote now: without quoted mail, our footer, tapbacks and "Sent from my phone"."""
    plain = unicodedata.normalize("NFKC", text[:LONGEST].replace("\r\n", "\n").replace("\r", "\n"))
    visible = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    mine = _TAPBACK.sub("", _unquoted(re.sub("[\u2018\u2019`]", "'", visible)))
    return "".join(part for part in sentences(_DEVICE.sub("", mine)) if not _FOOTER.search(part)).strip()


def _unquoted(text: str) -> str:
    """Answers below and between marked lines stay; a quotation without marks runs to the end."""
    quoted = _QUOTED_MAIL.search(text)
    mine = text[: quoted.start()] if quoted else text
    while said := _ATTRIBUTION.search(mine):
        after = mine[said.end() :]
        mine = mine[: said.start()] + (after if after.lstrip().startswith(">") else "")
    return "\n".join(line for line in mine.split("\n") if not line.lstrip().startswith((">", "|>")))


def sentences(text: str) -> list[str]:
    """Sentences and lines with their ends, so that joined they are the text again."""
    return re.findall(r"[^\n]*?(?:[.!?]+(?=\s)[ \t]*|\n|\Z)", text)
