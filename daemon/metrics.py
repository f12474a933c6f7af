"""Every metric of the daemon, under the names that dashboards depend on."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from daemon.histogram import BatchHistogram
from daemon.tally import Tally

FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SLOW = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """One registry per daemon, so that tests may run several in a process."""

    def __init__(self, version: str) -> None:
        self.registry = r = CollectorRegistry()
        self.tasks = Counter("orchestrator_tasks", "Attempts ended", ["kind", "outcome"], registry=r)
        self.task_seconds = BatchHistogram("orchestrator_task_seconds", "Time in the handler", FAST, r, "kind")
        self.event_latency = BatchHistogram(
            "orchestrator_event_latency_seconds", "From the committed row to the start of its handler", FAST, r
        )
        self.queue_tasks = Gauge("orchestrator_queue_tasks", "Tasks in the queue", ["status"], registry=r)
        self.queue_oldest_age = Gauge("orchestrator_queue_oldest_age_seconds", "Age of the oldest due task", registry=r)
        self.leads = Gauge("orchestrator_leads", "Leads per stage", ["pipeline", "stage"], registry=r)
        self.transitions = Tally(
            "orchestrator_transitions", "Stage changes, whoever made them", ["pipeline", "from_stage", "to_stage"], r
        )
        self.invalid_transitions = Tally("orchestrator_invalid_transitions", "Illegal moves asked for", ["pipeline"], r)
        self.engine_calls = Counter("orchestrator_engine_calls", "Calls to engines", ["engine", "outcome"], registry=r)
        self.engine_seconds = Histogram(
            "orchestrator_engine_call_seconds", "Time in a call", ["engine"], buckets=SLOW, registry=r
        )
        self.engine_cost = Counter("orchestrator_engine_cost", "Dollars charged", ["engine"], registry=r)
        self.campaign_runs = Tally("orchestrator_campaign_runs", "Runs ended", ["campaign", "status"], r)
        self.budget_used = Gauge(
            "orchestrator_campaign_budget_used_ratio",
            "Spent and reserved of a campaign's budget",
            ["campaign", "window"],
            registry=r,
        )
        self.sends = Counter("orchestrator_sends", "Messages ended", ["channel", "outcome"], registry=r)
        self.replies = Counter("orchestrator_replies", "Replies classified", ["category"], registry=r)
        self.approvals_pending = Gauge("orchestrator_approvals_pending", "Requests waiting", ["checkpoint"], registry=r)
        self.approvals = Tally("orchestrator_approvals", "Requests decided", ["checkpoint", "decision"], r)
        self.alerts_active = Gauge("orchestrator_alerts_active", "Open alerts", ["type", "severity"], registry=r)
        self.listener_connected = Gauge(
            "orchestrator_listener_connected", "1 while it proves that it listens", registry=r
        )
        self.listener_reconnects = Counter(
            "orchestrator_listener_reconnects", "Listening connections made anew", registry=r
        )
        self.found_by_sweep = Counter("orchestrator_found_by_sweep", "Causes whose task was missing", registry=r)
        self.sweep_seconds = Histogram(
            "orchestrator_sweep_seconds", "Time of a sweep step", ["step"], buckets=SLOW, registry=r
        )
        self.sweep_last_success = Gauge(
            "orchestrator_sweep_last_success_timestamp_seconds", "When a sweep last ended without an error", registry=r
        )
        self.schedule_lag = Gauge(
            "orchestrator_schedule_lag_seconds", "Lateness of the last slot", ["name"], registry=r
        )
        self.leases_lost = Counter("orchestrator_leases_lost", "Outcomes discarded: the lease had gone", registry=r)
        self.tasks_taken_over = Counter(
            "orchestrator_tasks_taken_over", "Attempts freed from daemons that are gone", registry=r
        )
        build = Gauge("orchestrator_build_info", "1", ["version"], registry=r)
        build.labels(version).set(1)
