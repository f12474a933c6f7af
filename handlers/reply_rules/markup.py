"""What a reader sees of HTML."""

import html
import re
from collections.abc import Iterator

HTML = re.compile(r"(?i)<(?:html|body|div|br|p|table)\b[^>@]*>")


def text_of_html(text: str) -> str:
    """Readable text with lines; quoted blocks become lines that start with >."""
    visible = re.sub(r"(?is)<!--.*?(?:-->|\Z)|<(script|style|head|title)\b.*?(?:</\1\s*>|\Z)", "", text[:200_000])
    broken = re.sub(r"(?i)<(?:br|/?p|/?div|/?tr|/?li|/?h\d|/?table|hr|/?pre)\b[^>]*>", "\n", visible)
    quoted = re.sub(r"(?i)<(/?)blockquote\b[^>]*>", lambda m: "\n\x02\n" if m.group(1) else "\n\x01\n", broken)
    plain = html.unescape(re.sub(r"<(?![^<>\s]*@)[^<>]*>", "", quoted)).replace("\xa0", " ")
    return "\n".join(_with_quote_marks(plain.split("\n")))


def _with_quote_marks(lines: list[str]) -> Iterator[str]:
    depth = 0
    for line in lines:
        depth = max(0, depth + (line == "\x01") - (line == "\x02"))
        if line not in {"\x01", "\x02"}:
            yield ("> " if depth else "") + line.strip()
