"""What people have said, as a request carries it: in lines, the newest first, and bounded.

Mutants that these tests kill (each one line of daemon/learnings.py, tried by hand): `line` joins the parts as they are;
`bounded` leaves out `left -= len(line)`, or answers `lines` for one that doesn't fit
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.learnings import HEADING, Learning, bounded, prompt
from daemon.settings import LearningsSettings

TEXTS = st.builds(str.__mul__, st.sampled_from(("a", "b ", "c\n")), st.integers(1, 200))
BOUNDS = st.builds(LearningsSettings, most=st.integers(0, 5), characters=st.integers(100, 400))


def said(feedback: str, effect: str | None = None) -> Learning:
    return Learning("scout", feedback, effect)


@pytest.mark.parametrize(
    ("learning", "line"),
    [
        (said("Too narrow, add OC", "contacts 89 → 234"), "Too narrow, add OC → contacts 89 → 234"),
        (said("Too narrow"), "Too narrow"),
        (said("Too narrow", "  "), "Too narrow"),
        (said(" Two\r\n\tlines ", "and\u2028more"), "Two lines → and more"),
    ],
)
def test_a_learning_is_one_line(learning: Learning, line: str) -> None:
    assert learning.line == line


@given(st.lists(st.builds(said, TEXTS, TEXTS | st.none()), max_size=8), BOUNDS)
def test_lines_are_whole_the_newest_ones_and_within_both_bounds(
    learnings: list[Learning], bounds: LearningsSettings
) -> None:
    lines = bounded(learnings, bounds)
    every = [learning.line for learning in learnings]
    assert len(lines) <= bounds.most
    assert sum(map(len, lines)) <= bounds.characters
    assert all("\n" not in line for line in lines)
    assert bool(lines) == bool(learnings and bounds.most), "something is told, if there is anything"
    if lines == every[: len(lines)]:
        left = every[len(lines) : bounds.most]
        assert not left or sum(map(len, lines)) + len(left[0]) > bounds.characters, "one more would have fitted"
    else:
        [only] = lines
        assert only.endswith("…") and every[0].startswith(only[:-1])  # noqa: PT018 - one thought
        assert len(only) == bounds.characters


def test_a_prompt_begins_with_the_block() -> None:
    assert prompt(["a → b", "c"], "Do it.") == f"{HEADING}\na → b\nc\n\nDo it."
    assert prompt(["a"]) == f"{HEADING}\na"
    assert prompt([], "Do it.") == "Do it."
    assert prompt([]) == ""
