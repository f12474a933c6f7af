"""What a person can do about a lead that stands still: commands and statements, ready to be pasted."""

import re
from typing import Any

from daemon.db import Statements
from handlers.facts import Facts, Row

SQL = Statements("handlers", "remedies.sql")
BY_ITSELF = "nothing needs to be done"
RESUME = "orchestrator resume-sending"
NO_ADDRESS = "no usable address"


def pasted(statement: str, *values: Any) -> str:
    """A statement with its values as literals; it is shown, never run."""
    filled = re.sub(r"\$(\d+)", lambda place: _literal(values[int(place[1]) - 1]), statement)
    return " ".join(filled.split())


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def run(f: Facts) -> str:
    """Starting a daemon that this database takes."""
    return "orchestrator run --sandbox" if f.sandboxed else "orchestrator run"


def retry_or_cancel(task: Row) -> str:
    """What becomes of a dead task is a person's to say."""
    return f"orchestrator tasks retry {task['id']}, or orchestrator tasks cancel {task['id']} to do without"


def move(f: Facts) -> str:
    """Moving the lead by hand, within the table or round it."""
    return f"orchestrator leads move {f.lead.id} STAGE{'' if f.targets else ' --override'} --reason WHY"


def revive(f: Facts) -> str:
    """Bringing an archived lead back."""
    return f"to bring it back: {pasted(SQL['unarchive'], f.lead.id)}; then {move(f)}"


def free_row(f: Facts) -> str:
    """Getting rid of the lock of another session."""
    pid = f.holder["pid"] if f.holder else None
    return f"end its transaction (COMMIT or ROLLBACK there), or {pasted(SQL['end_session'], pid)}"


def snooze(f: Facts) -> str:
    """Setting the deadline."""
    return pasted(SQL["set_deadline"], f.lead.id)


def send(message: Row) -> str:
    """Having a message sent after all."""
    return pasted(SQL["send_message"], message["id"])


def complete(f: Facts) -> str:
    """Filling in what is missing."""
    return pasted(SQL["add_data"], f.lead.id, f'{{"{f.missing[0]}": …}}')


def for_dead(f: Facts, task: Row) -> str:
    """What mends the cause of a death, if we know it, and what to do then."""
    unknown = f.calls_of(task, "unknown")
    if unknown:
        ask = f"ask {unknown[0]['engine']} whether it knows the key {unknown[0]['idempotency_key']}"
        return f"{ask}, then {retry_or_cancel(task)} (a retry is a new call)"
    message = f.message_of(task)
    if message is None or not (task["error"] or "").startswith(NO_ADDRESS):
        return retry_or_cancel(task)
    add = _add_address(f, message)
    return f"{add}; it is then sent by itself" if _mends_itself(f, message) else f"{add}; then {retry_or_cancel(task)}"


def _add_address(f: Facts, message: Row) -> str:
    if message["channel"] == "email":
        return f"add an email address: {pasted(SQL['set_email'], f.lead.id)}"
    return f"add a phone number: {pasted(SQL['set_phone'], f.lead.id)}"


def _mends_itself(f: Facts, message: Row) -> bool:
    """Whether the check of the mended lead has the message sent (AddressMended)."""
    its_own = message["to_address"] is None and message["channel"] != "email"
    return its_own and message["stage_seq"] == f.lead.stage_seq and f.lead.row["needs_review"]


def raise_budget(engine: str, task: Row) -> str:
    """A budget is a setting, read at the start."""
    setting = f"ORCHESTRATOR_ENGINES__{engine.upper()}__DAILY_BUDGET"
    return f"raise {setting} and restart, then orchestrator tasks retry {task['id']}"


def sooner(task: Row) -> str:
    """Having a waiting task done now."""
    return f"sooner: orchestrator tasks retry {task['id']}"


def drop_unknown(task: Row) -> str:
    """A kind that nobody claims."""
    return f"run a daemon that does, or orchestrator tasks cancel {task['id']}"


def next_sweep(at: str | None) -> str:
    """A missing task is found by the sweep."""
    return f"{BY_ITSELF}: the sweep queues it {at}" if at else "the sweep is off in schedules: enable it"


def ending(f: Facts, task: Row) -> str:
    """A running task ends by itself, unless its daemon is gone."""
    if f.daemon_of(task):
        return f"{BY_ITSELF}: it ends by itself"
    return f"{BY_ITSELF}: a living daemon takes it over within seconds" if f.alive else f"start a daemon: {run(f)}"
