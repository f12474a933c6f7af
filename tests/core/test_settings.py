"""Settings: names and defaults of the contract, who wins, and what a bad one is told."""

import re
import stat
import subprocess
import sys
from datetime import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import SettingsError
from daemon.settings import (
    ENGINE_URLS,
    EngineSettings,
    Hours,
    Settings,
    describe,
    load_settings,
    require_database,
    secret_key,
    secret_values,
)

CONTRACT = {
    "DATABASE_URL": "unset",
    "ORCHESTRATOR_LISTEN_URL": "unset",
    "ORCHESTRATOR_HOME": ".orchestrator",
    "ORCHESTRATOR_API__HOST": "127.0.0.1",
    "ORCHESTRATOR_API__PORT": "3020",
    "ORCHESTRATOR_API__TOKEN": "unset",
    "ORCHESTRATOR_TIMEZONE": "UTC",
    "ORCHESTRATOR_SECRET_KEY": "unset",
    "ORCHESTRATOR_PUBLIC_URL": "http://127.0.0.1:3020",
    "ORCHESTRATOR_DRY_RUN": "false",
    "ORCHESTRATOR_LOG__LEVEL": "INFO",
    "ORCHESTRATOR_LOG__FORMAT": "unset",
    "ORCHESTRATOR_WORKER__CONCURRENCY": "64",
    "ORCHESTRATOR_SWEEP__CRON": "*/15 * * * *",
    "ORCHESTRATOR_SHUTDOWN_GRACE_S": "25.0",
    "CLAUDE_CODE_PATH": "claude",
    "ORCHESTRATOR_SEND__RAMP_UP": "false",
    "ORCHESTRATOR_SEND__HOLD_COMPANY_MATES": "false",
    "ORCHESTRATOR_SEND__AUTO_PAUSE": "true",
    "ORCHESTRATOR_CLASSIFIER__MIN_CONFIDENCE": "0.7",
    "ORCHESTRATOR_SEND__DAILY_LIMIT": "10000",
    "ORCHESTRATOR_SEND__HOURLY_LIMIT": "1000",
    "ORCHESTRATOR_SEND__PER_MAILBOX_DAILY": "unset",
    "ORCHESTRATOR_SEND__PER_DOMAIN_HOURLY": "unset",
    "ORCHESTRATOR_SEND__WINDOW": "unset",
    "ORCHESTRATOR_SEND__QUIET_HOURS": "21:00-08:00",
    "ORCHESTRATOR_SEND__DEFAULT_TIMEZONE": "unset",
    "ORCHESTRATOR_SMTP__URL": "unset",
    "ORCHESTRATOR_SMTP__FROM": "orchestrator@localhost",
    "ORCHESTRATOR_IMAP__URL": "unset",
    "ORCHESTRATOR_IMAP__POLL_S": "60.0",
    "ORCHESTRATOR_NOTIFY__ADMIN_EMAIL": "unset",
    "ORCHESTRATOR_NOTIFY__SLACK_WEBHOOK_URL": "unset",
    "ORCHESTRATOR_NOTIFY__URLS": "unset",
    "ORCHESTRATOR_NOTIFY__ALERTS_PER_HOUR": "10",
    "ORCHESTRATOR_NOTIFY__MUTED": "false",
    "ORCHESTRATOR_WEBHOOKS__TWILIO_AUTH_TOKEN": "unset",
    "ORCHESTRATOR_WEBHOOKS__FACEBOOK_APP_SECRET": "unset",
    "ORCHESTRATOR_WEBHOOKS__FACEBOOK_VERIFY_TOKEN": "unset",
    "ORCHESTRATOR_WEBHOOKS__SIGNING_SECRET": "unset",
    "ORCHESTRATOR_VALUE__CONTINGENCY_FEE": "0.24",
    "ORCHESTRATOR_ENGINES__ANALYSIS__URL": "http://localhost:3000",
    "ORCHESTRATOR_ENGINES__FACEBOOK__URL": "http://localhost:3017",
    "ORCHESTRATOR_ENGINES__SOURCING__URL": "unset",
    "ORCHESTRATOR_ENGINES__CLASSIFIER__URL": "unset",
}
SECRET = "hunter2secret"


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load_settings(environ)
    return str(refused.value).splitlines()


def test_names_and_defaults_are_those_of_the_contract() -> None:
    shown = {name: (value, default) for name, value, default in describe(load_settings({}))}
    assert {name: shown[name] for name in CONTRACT} == {name: (value, True) for name, value in CONTRACT.items()}


def test_every_described_name_may_be_set() -> None:
    for name, value, _ in describe(load_settings({})):
        if value != "unset":
            load_settings({name: value})


def test_the_environment_template_names_every_setting_and_no_other() -> None:
    template = (Path(__file__).parents[2] / "deploy" / "environment.template").read_text()
    variables = dict(re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", template, re.MULTILINE))
    described = {name for name, _, _ in describe(load_settings({})) if "_ENGINES__" not in name}
    assert described <= set(variables)
    load_settings({name: value for name, value in variables.items() if name.startswith("ORCHESTRATOR_")})


def test_a_bad_value_is_told_in_one_line_with_its_variable() -> None:
    assert problems({"ORCHESTRATOR_API__PORT": "abc"}) == [
        "ORCHESTRATOR_API__PORT: must be a number between 1 and 65535, not 'abc'"
    ]


def test_all_problems_are_told_at_once() -> None:
    told = problems({"ORCHESTRATOR_API__PORT": "0", "ORCHESTRATOR_TIMEZONE": "Mars", "ORCHESTRATOR_TIMEZON": "x"})
    assert [line.split(":")[0] for line in told] == [
        "ORCHESTRATOR_TIMEZON",
        "ORCHESTRATOR_TIMEZONE",
        "ORCHESTRATOR_API__PORT",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ORCHESTRATOR_API__PORT", "65536"),
        ("ORCHESTRATOR_WORKER__CONCURRENCY", "0"),
        ("ORCHESTRATOR_WORKER__CONCURRENCY", "2.5"),
        ("ORCHESTRATOR_SHUTDOWN_GRACE_S", "-1"),
        ("ORCHESTRATOR_IMAP__POLL_S", "inf"),
        ("ORCHESTRATOR_CLASSIFIER__MIN_CONFIDENCE", "nan"),
        ("ORCHESTRATOR_CLASSIFIER__MIN_CONFIDENCE", "1.1"),
        ("ORCHESTRATOR_TIMEZONE", "../etc/passwd"),
        ("ORCHESTRATOR_SEND__DEFAULT_TIMEZONE", "Europe"),
        ("ORCHESTRATOR_SWEEP__CRON", "0 0 30 2 *"),
        ("ORCHESTRATOR_SEND__QUIET_HOURS", "9-5"),
        ("ORCHESTRATOR_SEND__QUIET_HOURS", "24:00-08:00"),
        ("ORCHESTRATOR_SEND__WINDOW", "09:00-09:00"),
        ("ORCHESTRATOR_PUBLIC_URL", "ftp://x"),
        ("ORCHESTRATOR_PUBLIC_URL", "http://"),
        ("ORCHESTRATOR_LOG__LEVEL", "LOUD"),
        ("ORCHESTRATOR_LOG__FORMAT", "xml"),
        ("ORCHESTRATOR_DRY_RUN", "maybe"),
        ("DRY_RUN", "maybe"),
        ("ALERT_EMAIL", "a@b, c@d"),
        ("ORCHESTRATOR_SMTP__FROM", "a@b\r\nBcc: c@d"),
        ("ORCHESTRATOR_ENGINES__SMS__URL", "localhost:3002"),
        ("ORCHESTRATOR_ENGINES__SMS__DAILY_BUDGET", "NaN"),
        ("ORCHESTRATOR_ENGINES__SMS__COST_PER_CALL", "-0.01"),
        ("ORCHESTRATOR_ENGINES__SMS__MAX_CONCURRENCY", "0"),
        ("ORCHESTRATOR_ENGINES__SMS__RATE_PER_S", "0"),
        ("ORCHESTRATOR_ENGINES__SOURCING__COMMAND", "agent --json"),
        ("ORCHESTRATOR_ENGINES__SOURCING__COMMAND", '["agent", 1]'),
        ("ORCHESTRATOR_ENGINES__SOURCING__COMMAND", "[]"),
    ],
)
def test_bad_values_are_refused_by_name(name: str, value: str) -> None:
    (line,) = problems({name: value})
    assert line.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"mysql://u:{SECRET}@h/x"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h:port/x"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@[::1/x"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h\u2100/x"),
        ("ORCHESTRATOR_LISTEN_URL", SECRET),
        ("ORCHESTRATOR_SMTP__URL", f"http://u:{SECRET}@h"),
        ("ORCHESTRATOR_IMAP__URL", f"imaps:{SECRET}"),
        ("ORCHESTRATOR_NOTIFY__URLS", SECRET),
        ("ORCHESTRATOR_NOTIFY__SLACK_WEBHOOK_URL", SECRET),
        ("ORCHESTRATOR_ENGINES__SMS__URL", f"http://u:{SECRET}@h"),
        ("ORCHESTRATOR_API__TOKN", SECRET),
    ],
)
def test_a_secret_is_never_quoted(name: str, value: str) -> None:
    (line,) = problems({name: value})
    assert line.startswith(f"{name}: ")
    assert SECRET not in line


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("ORCHESTRATOR_WORKER__CONCURENCY", "ORCHESTRATOR_WORKER__CONCURRENCY"),
        ("ORCHESTRATOR_API_PORT", "ORCHESTRATOR_API__PORT"),
        ("ORCHESTRATOR_ENGINES__SMS_URL", "ORCHESTRATOR_ENGINES__SMS__URL"),
        ("ORCHESTRATOR_ENGINES__MINE__TIMEOUT", "ORCHESTRATOR_ENGINES__MINE__TIMEOUT_S"),
        ("ORCHESTRATOR_PROBES__OLLAMA__UR", "ORCHESTRATOR_PROBES__OLLAMA__URL"),
        ("ORCHESTRATOR_PROBES__OLLAMA__PRESENT", "ORCHESTRATOR_PROBES__OLLAMA__ENV"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(unknown: str, nearest: str) -> None:
    assert problems({unknown: "1"}) == [f"{unknown}: is no setting; nearest: {nearest}"]


def test_other_programs_variables_are_none_of_our_business() -> None:
    assert load_settings({"PATH": "/bin", "ORCHESTRATORX": "1", "LOG__LEVEL": "x"}) == load_settings({})


def test_empty_means_unset_except_for_quiet_hours() -> None:
    settings = load_settings({"DATABASE_URL": "", "ORCHESTRATOR_API__PORT": " ", "ORCHESTRATOR_SEND__QUIET_HOURS": ""})
    assert (settings.dsn, settings.api.port, settings.send.quiet_hours) == (None, 3020, None)


def test_the_environment_beats_the_env_file_which_beats_credentials(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "orchestrator_api__token").write_text("from-credential\n")
    (credentials / "ORCHESTRATOR_API__PORT").write_text("1")
    (credentials / "DATABASE_URL").write_text("postgresql://h/c")
    (credentials / "unrelated").write_text("x")
    env_file = tmp_path / ".env"
    env_file.write_text("ORCHESTRATOR_API__PORT=2\nDATABASE_URL=postgresql://h/f\nOTHER=x\n")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials), "ORCHESTRATOR_DATABASE_URL": "postgresql://h/e"}
    settings = load_settings(environ, env_file=env_file)
    assert settings.api.token is not None
    assert settings.api.token.get_secret_value() == "from-credential"
    assert settings.api.port == 2
    assert settings.dsn == "postgresql://h/e"


def test_names_are_checked_in_files_too(tmp_path: Path) -> None:
    (tmp_path / "orchestrator_api__tokn").write_text(SECRET)
    (line,) = problems({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert line == "ORCHESTRATOR_API__TOKN: is no setting; nearest: ORCHESTRATOR_API__TOKEN"


def test_credentials_that_are_gone_are_a_problem(tmp_path: Path) -> None:
    (line,) = problems({"CREDENTIALS_DIRECTORY": str(tmp_path / "none")})
    assert line.startswith("CREDENTIALS_DIRECTORY: ")


def test_the_env_file_of_the_current_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("ORCHESTRATOR_TIMEZONE=Europe/Berlin\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings().timezone == "Europe/Berlin"
    assert load_settings({}).timezone == "UTC"


def test_the_full_name_beats_its_alias() -> None:
    environ = {"DATABASE_URL": "postgresql://h/alias", "ORCHESTRATOR_DATABASE_URL": "postgresql://h/full"}
    assert load_settings(environ).dsn == "postgresql://h/full"
    assert load_settings({"ALERT_EMAIL": "a@b.de"}).notify.admin_email == "a@b.de"
    assert load_settings({"CLAUDE_CODE_PATH": "/x/claude"}).claude_code_path == "/x/claude"


@pytest.mark.parametrize(
    ("environ", "flag", "dry"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"DRY_RUN": "1"}, False, True),
        ({"DRY_RUN": "true", "ORCHESTRATOR_DRY_RUN": "false"}, False, True),
        ({"DRY_RUN": "false", "ORCHESTRATOR_DRY_RUN": "yes"}, False, True),
        ({"DRY_RUN": "no", "ORCHESTRATOR_DRY_RUN": "off"}, True, True),
        ({"DRY_RUN": "0", "ORCHESTRATOR_DRY_RUN": ""}, False, False),
    ],
)
def test_of_several_dry_runs_the_safe_one_wins(environ: dict[str, str], flag: bool, dry: bool) -> None:
    assert load_settings(environ, dry_run=flag).dry_run is dry


def test_a_file_can_make_a_dry_run_that_the_environment_denies(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DRY_RUN=true\n")
    assert load_settings({"ORCHESTRATOR_DRY_RUN": "false"}, env_file=tmp_path / ".env").dry_run


def test_overrides_win_leaf_by_leaf_and_none_says_nothing() -> None:
    settings = load_settings({"ORCHESTRATOR_LOG__LEVEL": "debug"}, log={"format": "json"}, timezone=None)
    assert (settings.log.level, settings.log.format, settings.timezone) == ("DEBUG", "json", "UTC")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_needs_no_token(host: str) -> None:
    assert load_settings({"ORCHESTRATOR_API__HOST": host}).api.token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])  # noqa: S104 - refused, not bound
def test_a_public_bind_without_a_token_is_refused(host: str) -> None:
    (line,) = problems({"ORCHESTRATOR_API__HOST": host})
    assert line.startswith("ORCHESTRATOR_API__TOKEN: must be set")
    assert load_settings({"ORCHESTRATOR_API__HOST": host, "ORCHESTRATOR_API__TOKEN": "t"}).api.host == host


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("postgresql://u:p@h1:5432,h2,[::1]:5433/db?sslmode=require", "h1:5432,h2,[::1]:5433/db"),
        ("postgres://u@h/db", "h/db"),
        ("postgresql:///db?host=/run/postgresql", "/db"),
    ],
)
def test_database_urls_may_list_hosts_and_are_named_without_secrets(url: str, label: str) -> None:
    settings = load_settings({"DATABASE_URL": url})
    assert (settings.dsn, settings.listen_dsn, settings.database_label) == (url, url, label)


def test_shipped_engines_have_their_urls_and_any_other_name_is_one_too() -> None:
    engines = load_settings(
        {
            "ORCHESTRATOR_ENGINES__MY_ENGINE__URL": "https://e.example/base/",
            "ORCHESTRATOR_ENGINES__MY_ENGINE__IDEMPOTENT": "true",
            "ORCHESTRATOR_ENGINES__MY_ENGINE__DAILY_BUDGET": "12.50",
            "ORCHESTRATOR_ENGINES__WRITER__COMMAND": '["agent", "--json"]',
            "ORCHESTRATOR_ENGINES__SMS__TIMEOUT_S": "5",
        }
    ).engines
    mine = engines["my_engine"]
    assert (mine.url, mine.idempotent, mine.daily_budget) == ("https://e.example/base", True, Decimal("12.50"))
    assert (engines["writer"].url, engines["writer"].command) == (None, ("agent", "--json"))
    assert (engines["sms"].url, engines["sms"].timeout_s) == ("http://localhost:3002", 5.0)
    assert not engines["sourcing"].configured
    assert set(engines) == {*ENGINE_URLS, "my_engine"}


def test_an_engine_has_a_url_or_a_command_but_not_both() -> None:
    both = {"ORCHESTRATOR_ENGINES__X__URL": "http://x", "ORCHESTRATOR_ENGINES__X__COMMAND": '["x"]'}
    assert problems(both) == ["ORCHESTRATOR_ENGINES__X__COMMAND: must not be set together with URL"]
    assert problems({"ORCHESTRATOR_ENGINES__SMSS__TOKEN": "t"}) == [
        "ORCHESTRATOR_ENGINES__SMSS__URL: must be set, or COMMAND; nearest known engine: sms"
    ]


def test_command_agents_are_told_the_claude_code_path_wherever_it_is_set(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CLAUDE_CODE_PATH=/opt/agent\n")
    environ = {"ORCHESTRATOR_ENGINES__SOURCING__COMMAND": '["agent"]'}
    engines = load_settings(environ, env_file=tmp_path / ".env").engines
    assert engines["sourcing"].claude_code_path == "/opt/agent"
    assert load_settings(environ).engines["sourcing"].claude_code_path == "claude"
    assert problems({"ORCHESTRATOR_ENGINES__SOURCING__CLAUDE_CODE_PATH": "x"})[0].startswith(
        "ORCHESTRATOR_ENGINES__SOURCING__CLAUDE_CODE_PATH: is no setting"
    )


def test_engines_may_be_given_as_values() -> None:
    engine = EngineSettings(name="sms", url="http://127.0.0.1:1")
    assert load_settings({}, engines={"sms": engine}).engines["sms"] == engine


def test_probes_ask_a_url_or_for_a_variable() -> None:
    environ = {
        "ORCHESTRATOR_PROBES__OLLAMA__URL": "http://localhost:11434",
        "ORCHESTRATOR_PROBES__TAVILY__ENV": "TAVILY_KEY",
        "ORCHESTRATOR_PROBES__SENDGRID__ENV": "SENDGRID_KEY",
        "TAVILY_KEY": "x",
        "SENDGRID_KEY": "",
    }
    probes = load_settings(environ).probes
    assert probes["ollama"].url == "http://localhost:11434"
    assert (probes["tavily"].present, probes["sendgrid"].present) == (True, False)


def test_notification_urls_are_a_list_with_commas_or_in_json() -> None:
    for text in ("slack://a/b, mailto://c", '["slack://a/b", "mailto://c"]'):
        urls = load_settings({"ORCHESTRATOR_NOTIFY__URLS": text}).notify.urls
        assert [url.get_secret_value() for url in urls] == ["slack://a/b", "mailto://c"]


SECRETS = {
    "DATABASE_URL": f"postgresql://u:{SECRET}@h/db",
    "ORCHESTRATOR_API__TOKEN": SECRET,
    "ORCHESTRATOR_SECRET_KEY": SECRET,
    "ORCHESTRATOR_SMTP__URL": f"smtp://u:{SECRET}@h:587",
    "ORCHESTRATOR_NOTIFY__URLS": f"slack://{SECRET}",
    "ORCHESTRATOR_WEBHOOKS__SIGNING_SECRET": SECRET,
    "ORCHESTRATOR_ENGINES__SMS__TOKEN": SECRET,
}


def test_secrets_are_in_no_repr_and_no_description() -> None:
    settings = load_settings(SECRETS)
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert SECRET not in str(describe(settings))
    assert {name for name, value, _ in describe(settings) if value == "********"} == set(SECRETS)


def test_secret_values_contain_the_passwords_inside_urls() -> None:
    known = secret_values(load_settings({"DATABASE_URL": "postgresql://u:p%40ss@h/db"}))
    assert {"p%40ss", "p@ss"} <= set(known)


def test_systemd_needs_a_database() -> None:
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: must be set"):
        require_database(load_settings({}), {"INVOCATION_ID": "1"})
    require_database(load_settings({}), {})
    require_database(load_settings({"DATABASE_URL": "postgresql://h/x"}), {"INVOCATION_ID": "1"})


def test_the_secret_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    settings = load_settings({}, home=tmp_path / "a" / "home")
    made = secret_key(settings)
    assert secret_key(settings) == made
    assert len(made.get_secret_value()) >= 43
    assert stat.S_IMODE((settings.home / "secret_key").stat().st_mode) == 0o600
    assert [path.name for path in settings.home.iterdir()] == ["secret_key"]
    assert secret_key(load_settings({"ORCHESTRATOR_SECRET_KEY": "mine"})).get_secret_value() == "mine"


def test_a_secret_key_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(SettingsError, match=r"^ORCHESTRATOR_SECRET_KEY: "):
        secret_key(load_settings({}, home=tmp_path / "home"))


def test_hours_may_cross_midnight() -> None:
    night, day = Hours.parse("21:00-08:00"), Hours.parse("09:30-17:00")
    assert [night.contains(time(hour)) for hour in (20, 21, 0, 7, 8)] == [False, True, True, True, False]
    assert [day.contains(time(hour)) for hour in (9, 10, 16, 17)] == [False, True, True, False]
    assert str(night) == "21:00-08:00"


@given(st.text(max_size=40), st.sampled_from(sorted(CONTRACT)))
def test_any_text_is_taken_or_refused_by_name(text: str, name: str) -> None:
    try:
        settings = load_settings({name: text})
    except SettingsError as refused:
        assert str(refused).startswith(name) or name == "ORCHESTRATOR_API__HOST"  # noqa: PT017
    else:
        assert isinstance(settings, Settings)


def test_reading_the_environment_alone_imports_nothing_heavy() -> None:
    code = "import sys; import daemon.settings as s; s.load_settings({}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic_settings", "structlog", "rich", "aiohttp", "asyncpg"} & set(loaded)
