"""Draws one picture of the sandbox for a terminal of some size; pure: the same scene gives the same picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest

from rich.console import Group
from rich.table import Table
from rich.text import Text

from daemon.sandbox import figures
from daemon.sandbox.faults import Faults
from daemon.sandbox.figures import Figures, StageCount
from daemon.sandbox.guide import TO_TRY, Places
from daemon.sandbox.happenings import Happening, clip, short

LEAST_WIDTH, LEAST_HEIGHT = 80, 24
WIDE, TALL = 112, 34
GAP = 2
BAR = "█"
LABELS = 9
NAMES = 19
LEAST_EVENTS = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """All there is to be seen; `away_s`: for how long the database hasn't answered; `ending`: the daemon finishes."""

    figures: Figures
    faults: Faults
    places: Places
    happenings: Sequence[Happening] = ()
    speed: float = 1.0
    away_s: float = 0.0
    ending: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """The terminal's columns and rows, and how they are shared out."""

    width: int
    height: int
    wide: bool = field(init=False)
    tall: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wide", self.width >= WIDE)
        object.__setattr__(self, "tall", self.height >= TALL)

    @property
    def left(self) -> int:
        return 40 if self.wide else 29

    @property
    def right(self) -> int:
        return max(self.width - self.left - GAP, 1)

    @property
    def text(self) -> int:
        """What fits on a line of the right side."""
        return max(self.right - GAP, 1)


def fits(width: int, height: int) -> bool:
    """Whether a picture would be worth looking at."""
    return width >= LEAST_WIDTH and height >= LEAST_HEIGHT


def draw(scene: Scene, width: int, height: int) -> Group:
    """The picture, no larger than that."""
    size = Size(width, height)
    above, below = _header(scene, size), list(_footer(scene, size))
    rows = max(height - len(below) - 2, 1)
    body = Table.grid(padding=(0, GAP, 0, 0))
    body.add_column(width=size.left, no_wrap=True, overflow="ellipsis")
    body.add_column(width=size.text, no_wrap=True, overflow="ellipsis")
    for row in zip_longest(_stages(scene, size, rows), _right(scene, size, rows), fillvalue=Text()):
        body.add_row(*row)
    filler = [Text()] * (rows - body.row_count)
    return Group(above, Text(), body, *filler, *below)


# -- top and bottom


def _header(scene: Scene, size: Size) -> Text:
    title = " pipeline orchestrator: sandbox" if size.wide else " sandbox"
    pace = f"  {scene.speed:,.0f} times as fast" if scene.speed > 1 else ""
    now = scene.places.local(scene.figures.now)
    day = "%a %d %b %Y" if size.wide else "%a %d %b"
    clock = f"{now:{day} %H:%M:%S} {scene.places.timezone}{pace}"
    if scene.ending:
        clock = "ending: what is being done is finished first"
    elif scene.away_s:
        clock = f"the database hasn't answered for {scene.away_s:.0f} s"
    api = f" {scene.places.api} "
    line = Text(f"{title}  {clock}"[: size.width], style="bold reverse", no_wrap=True, end="\n")
    line.append(api.rjust(max(size.width - len(line.plain), 0))[: max(size.width - len(line.plain), 0)])
    return line


def _footer(scene: Scene, size: Size) -> Iterator[Text]:
    if size.wide and size.tall:
        for title, statement in TO_TRY.items():
            yield Text(title, style="bold", no_wrap=True, overflow="ellipsis")
            yield from (Text(line, no_wrap=True, overflow="ellipsis") for line in statement.splitlines())
    ends = ["Break something, or Ctrl-C to end", "SQL: orchestrator db shell"]
    ends += [f"log: {scene.places.log}"] if scene.places.log else []
    yield Text(figures.side_by_side(ends, size.width, "   "), style="bold", no_wrap=True, overflow="ellipsis")
    yield Text(scene.places.curl, no_wrap=True, overflow="ellipsis", end="")


# -- left: the stages


def _stages(scene: Scene, size: Size, rows: int) -> list[Text]:
    """A bar per stage; where there is no room for all, those without leads go first."""
    stages = list(scene.figures.stages)
    pipelines = len({stage.pipeline for stage in stages})
    room = max(rows - pipelines, 1)
    if len(stages) > room:
        stages = [stage for stage in stages if stage.leads][:room]
    most = max((stage.leads for stage in stages), default=0)
    lines = []
    for pipeline, its in groupby(stages, key=lambda stage: stage.pipeline):
        lines.append(Text(pipeline, style="bold"))
        lines += [_bar(stage, most, size.left) for stage in its]
    return lines or [Text("no leads yet", style="dim")]


def _bar(stage: StageCount, most: int, width: int) -> Text:
    room = width - NAMES - 6
    filled = round(room * stage.leads / most) if most else 0
    bar = BAR * max(filled, 1 if stage.leads else 0)
    style = "" if stage.leads else "dim"
    return Text.assemble((f"{short(stage.name, NAMES):<{NAMES}}{stage.leads:>5} ", style), (bar, "green"))


# -- right: the figures, then what happened last


def _right(scene: Scene, size: Size, rows: int) -> list[Text]:
    """The figures give way to the last happenings."""
    events = min(len(scene.happenings), LEAST_EVENTS)
    lines = list(_figures(scene, size.text - LABELS))[: max(rows - events - 1, 0)]
    lines += [Text()] if lines else []
    newest = scene.happenings[-max(rows - len(lines), 1) :]
    return [*lines, *(_line(told, scene, size) for told in newest)][:rows]


def _figures(scene: Scene, width: int) -> Iterator[Text]:
    now = scene.figures
    dead = "red" if now.tasks.get("dead") else ""
    for name, items, style in (
        ("messages", figures.messages(now), ""),
        ("tasks", figures.tasks(now), dead),
        ("people", figures.people(now), ""),
        ("faults", figures.survived(scene.faults), ""),
        ("money", figures.money(now), ""),
        ("runs", figures.runs(now), ""),
    ):
        if items:
            yield Text.assemble((f"{name:<{LABELS}}", "bold"), (figures.side_by_side(items, width), style))


def _line(told: Happening, scene: Scene, size: Size) -> Text:
    at, names = ("%H:%M:%S ", 16) if size.wide else ("%H:%M ", 14)
    at = "%a %H:%M " if scene.speed > 1 else at
    who = f"{short(told.who, names):<{names}} " if told.who else ""
    when = f"{scene.places.local(told.at):{at}}"
    what = clip(told.what if size.wide else told.brief, max(size.text - len(when) - len(who), 1))
    return Text.assemble((when, "dim"), (who, "bold"), (what, told.style))
