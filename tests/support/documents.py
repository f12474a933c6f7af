"""Documents that run: fenced blocks, what they say comes of them, and blocks that are made from code.

What a reader need not see stands in HTML comments before a block:

    <!-- test: start -->            the daemon, to be started as its last command says
    <!-- test: again -->            looks only; is asked again until it says what is shown
    <!-- test: fails -->            is meant to be refused
    <!-- test: varies id time -->   in what is shown, these differ from run to run: id, time, number, or a|b
    <!-- test: from the screen -->  takes the value that the sandbox shows at the terminal
    <!-- test: file PATH -->        is what is to stand in that file
    <!-- test: not here, WHY -->    can't run in a test; the commands and settings in it are checked all the same
    <!-- made by: NAME -->          the block after it is made by MAKERS[NAME]; `python -m tests.support.documents`
                                    makes all of them anew, with --check it only says which differ

A `text` block right after a block shows what it says: its lines appear in that order; `…` at a line's end stands for
the rest of it.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from daemon.app import mermaid, registry

ROOT = Path(__file__).parents[2]
DOCUMENTS = tuple(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "deploy/OPERATIONS.md"))
FENCED = re.compile(
    r"(?P<marks>(?:^<!-- (?:test|made by): [^\n]*-->\n)*)^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"<!-- (?P<name>test|made by): (?P<words>.*?) -->")
VARYING: Mapping[str, str] = {
    "id": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "time": r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00(:00)?)?",
    "number": r"\d+(\.\d+)?",
}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block under its `##` heading; `marks` are the words of its comments, `shown` what it is said to say."""

    language: str
    text: str
    line: int
    section: str = ""
    marks: tuple[str, ...] = ()
    shown: "Block | None" = None

    def marked(self, word: str) -> bool:
        """Whether a comment before it says so."""
        return any(mark.split(",")[0] == word for mark in self.marks)

    @property
    def varying(self) -> list[str]:
        """What differs from run to run."""
        return [word for mark in self.marks if mark.startswith("varies ") for word in mark.split()[1:]]


def blocks(document: Path) -> list[Block]:
    """All fenced blocks in order; a `text` block is what the one before it shows."""
    source = document.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in FENCED.finditer(source):
        marks = tuple(mark["words"] for mark in MARK.finditer(match["marks"]))
        above = source[: match.start("text")]
        section = next(reversed(re.findall(r"^##+ (.+)$", above, re.MULTILINE)), "")
        block = Block(match["language"], match["text"], above.count("\n"), section, marks)
        if block.language == "text" and found:
            block = replace(found.pop(), shown=block)
        found.append(block)
    return found


def difference(shown: Block, said: str) -> str | None:
    """The first line that is shown, but wasn't said; None: all is as shown."""
    lines = iter([_plain(line, shown.varying) for line in said.splitlines()])
    for line in shown.text.splitlines():
        wanted = _plain(line, shown.varying)
        if wanted and not any(_fits(wanted, one) for one in lines):
            return line
    return None


def _fits(wanted: str, line: str) -> bool:
    return line.startswith(wanted.removesuffix("…").rstrip()) if wanted.endswith("…") else line == wanted


def _plain(line: str, varying: list[str]) -> str:
    """Columns as wide as their widest cell say nothing; what varies becomes its name."""
    for word in varying:
        line = re.sub(VARYING.get(word, rf"\b({word})\b"), word.partition("|")[0], line)
    return re.sub(r"[-─]{2,}", "--", " ".join(line.split()))


# -- blocks that are made from code

MAKERS: Mapping[str, Callable[[], str]] = {
    f"orchestrator pipelines show {pipeline.name}": lambda pipeline=pipeline: mermaid(pipeline) + "\n"  # type: ignore[misc] # mypy can't infer a lambda with a default
    for pipeline in registry.PIPELINES
}


def made_anew(source: str) -> str:
    """The document with its made blocks as the code would have them."""

    def fill(match: re.Match[str]) -> str:
        makers = [MAKERS[mark["words"]] for mark in MARK.finditer(match["marks"]) if mark["name"] == "made by"]
        text = makers[0]() if makers else match["text"]
        return f"{match['marks']}```{match['language']}\n{text}```"

    return FENCED.sub(fill, source)


def drifted(documents: tuple[Path, ...] = DOCUMENTS) -> Iterator[Path]:
    """The documents with a made block that the code would have otherwise."""
    for document in documents:
        source = document.read_text(encoding="utf-8")
        if made_anew(source) != source:
            yield document


def main() -> None:
    """Make the made blocks anew, or say which documents have drifted."""
    stale = list(drifted())
    for document in stale:
        name = document.relative_to(ROOT)
        if "--check" in sys.argv:
            print(f"{name}: a block that is made from code differs: .venv/bin/python -m tests.support.documents")
        else:
            document.write_text(made_anew(document.read_text(encoding="utf-8")), encoding="utf-8")
            print(f"{name}: made anew")
    sys.exit("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    main()
