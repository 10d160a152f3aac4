"""The cases of tests/alerts/run: for each alert series that fire it, and similar ones that do not.

fires, fires_too (a list), quiet: the series, in the notation of promtool, one value each 15 s. labels: those of the alert, beside its severity. texts: its
annotations where they depend on labels and value. for: the seconds for which the condition has to last, and onset: the second in which
it begins (0).
"""

A, B = 'job="hubs",instance="a"', 'job="hubs",instance="b"'
ON_A = {"job": "hubs", "instance": "a"}
JOB = {"job": "hubs"}


def series(metric, labels, values):
    return {f"wardcast_{metric}{{{labels}}}": values}


def constant(value):
    return f"{value}x60"


def rising(step):
    return f"0+{step}x60"


# A series that begins late, with its first event, in the last two minutes before the alerts are looked at.
FIRST_LATE = "_x35 1x25"


def buckets(metric, labels, slow_percent):
    """A histogram in which this share of 100 observations per 15 s takes between 0.25 and 1 s, and the others less."""
    return {
        f'wardcast_{metric}_bucket{{{labels},le="0.25"}}': rising(100 - slow_percent),
        f'wardcast_{metric}_bucket{{{labels},le="1.0"}}': rising(100),
        f'wardcast_{metric}_bucket{{{labels},le="+Inf"}}': rising(100),
    }


def shares(metric, failed, answered):
    """Calls, of which so many fail and succeed in 15 s."""
    return {
        **series(metric, f'{A},method="publish",result="error"', rising(failed)),
        **series(metric, f'{A},method="publish",result="ok"', rising(answered)),
    }


def failing_share(metric, method, calls, onset):
    """A case of an alert on the share of calls that fail, once there are enough calls."""
    return {
        "fires": shares(metric, 10, 20),
        "quiet": {**shares(metric, 3, 27),
                  # So few that one client is a fifth.
                  **series(metric, f'job="quiet",instance="c",method="{method}",result="error"', rising(1))},
        "labels": JOB,
        "texts": {"summary": f"More than a fifth of the {calls} of hubs fail"},
        "for": 300,
        "onset": onset,
    }


CASES = {
    "WardcastDown": {
        "fires": {},
        "quiet": series("connections", A, constant(0)),
        "labels": {},
        "for": 60,
    },
    "WardcastBrokerDown": {
        "fires": {**series("broker_up", A, constant(0)), **series("broker_up", B, constant(1))},
        "quiet": series("broker_up", A, constant(1)),
        "labels": ON_A,
        "texts": {"summary": "a cannot use its broker"},
        "for": 30,
    },
    "WardcastNodesDisagree": {
        "fires": {**series("nodes", A, constant(2)), **series("nodes", B, constant(1))},
        "quiet": {**series("nodes", A, constant(2)), **series("nodes", B, constant(2)),
                  **series("nodes", 'job="others",instance="c"', constant(1))},
        "labels": JOB,
        "texts": {"summary": "The nodes of hubs do not see each other"},
        "for": 30,
    },
    "WardcastSettingsConflict": {
        "fires": {**series("settings_conflict", f'{A},setting="redis_servers"', constant(1)),
                  **series("settings_conflict", f'{B},setting="redis_servers"', constant(0))},
        "quiet": series("settings_conflict", f'{A},setting="key_layout"', constant(0)),
        "labels": {**ON_A, "setting": "redis_servers"},
        "texts": {"summary": "a is configured differently from the nodes before it: redis_servers"},
        "for": 30,
    },
    "WardcastMassDisconnect": {
        # 200 of 300 connections are left.
        "fires": {**series("connections", A, "200x36 100x20"), **series("connections", B, constant(100))},
        "quiet": {**series("connections", A, "200x36 140x20"), **series("connections", 'job="small",instance="c"', "90x36 0x20")},
        "labels": JOB,
        "texts": {"summary": "hubs has lost a third of its connections within two minutes"},
    },
    "WardcastDeliveriesDropped": {
        "fires": {**series("deliveries_dropped_total", A, rising(1)), **series("deliveries_dropped_total", B, constant(7))},
        "quiet": series("deliveries_dropped_total", A, constant(7)),
        "labels": ON_A,
        "texts": {"summary": "a is overloaded",
                  "description": "Hubs had no room for 20 publications (limits.hub_queue_bytes). Subscribers with positions recover them."},
    },
    "WardcastLostWrites": {
        "fires": series("gaps_total", f'{A},outcome="lost_writes"', "0x30 1x30"),
        "quiet": {**series("gaps_total", f'{A},outcome="told"', rising(1)), **series("gaps_total", f'{A},outcome="lost_writes"', constant(1))},
        "labels": {**ON_A, "outcome": "lost_writes"},
    },
    "WardcastProbeSlow": {
        "fires": {**series("broker_probe_microseconds", f'{A},server="redis:6379"', constant(150000)),
                  **series("broker_probe_microseconds", f'{B},server="redis:6379"', constant(500))},
        "quiet": series("broker_probe_microseconds", f'{A},server="redis:6379"', constant(99000)),
        "labels": {**JOB, "server": "redis:6379"},
        "texts": {"summary": "PUB/SUB through redis:6379 takes more than 100 ms"},
        "for": 120,
    },
    "WardcastBusRefused": {
        "fires": series("bus_refused_total", f'{A},reason="forged"', rising(1)),
        "fires_too": [series("bus_refused_total", f'{A},reason="forged"', FIRST_LATE)],
        "quiet": series("bus_refused_total", f'{A},reason="forged"', constant(5)),
        "labels": {**JOB, "reason": "forged"},
        "texts": {"summary": "Messages on the bus are refused: forged"},
    },
    "WardcastTokensRefused": {
        # Together more than one per second.
        "fires": {**series("handshakes_refused_total", f'{A},reason="token"', rising(10)),
                  **series("handshakes_refused_total", f'{B},reason="token"', rising(10))},
        "quiet": {**series("handshakes_refused_total", f'{A},reason="token"', rising(10)),
                  **series("handshakes_refused_total", f'{A},reason="origin"', rising(50))},
        "labels": JOB,
        "for": 300,
        "onset": 240,
    },
    "WardcastKeySetMissing": {
        "fires": {**series("key_sets_missing", A, constant(2)), **series("key_sets_missing", B, constant(0))},
        "quiet": series("key_sets_missing", A, constant(0)),
        "labels": ON_A,
        "texts": {"summary": "a does not have the keys of 2 identity providers"},
        "for": 60,
    },
    "WardcastHookFailing": {
        "fires": {**series("hook_calls_total", f'{A},hook="connect",outcome="timeout"', rising(1)),
                  **series("hook_calls_total", f'{A},hook="rpc",outcome="answered"', rising(9))},
        "quiet": {**series("hook_calls_total", f'{A},hook="connect",outcome="answered"', rising(9)),
                  **series("hook_calls_total", f'{A},hook="connect",outcome="refused"', rising(9)),
                  **series("hook_calls_total", f'{A},hook="connect",outcome="timeout"', constant(3))},
        "labels": {**JOB, "hook": "connect"},
        "texts": {"summary": "The hook connect fails"},
        "for": 120,
        "onset": 15,
    },
    "WardcastBrokerSlow": {
        "fires": {**buckets("broker_seconds", f'{A},operation="publish"', 5), **buckets("broker_seconds", f'{B},operation="publish"', 0)},
        "quiet": {**buckets("broker_seconds", f'{A},operation="publish"', 0), **buckets("broker_seconds", f'{A},operation="survey"', 90)},
        "labels": ON_A,
        "texts": {"summary": "One in a hundred publications of a takes Redis longer than half a second"},
        "for": 300,
        "onset": 15,
    },
    "WardcastHookEventsLost": {
        "fires": series("hook_events_total", f'{A},outcome="dropped"', rising(1)),
        "quiet": {**series("hook_events_total", f'{A},outcome="sent"', rising(9)), **series("hook_events_total", f'{A},outcome="failed"', rising(9)),
                  **series("hook_events_total", f'{A},outcome="refused"', constant(4))},
        "labels": {**ON_A, "outcome": "dropped"},
        "texts": {"summary": "a has dropped events for the backend"},
    },
    "WardcastBusLag": {
        "fires": buckets("bus_lag_seconds", f'{A},server="redis:6379"', 5),
        "quiet": {f'wardcast_bus_lag_seconds_bucket{{{A},server="redis:6379",le="{bound}"}}': rising(100) for bound in ("0.032", "+Inf")},
        "labels": {**ON_A, "server": "redis:6379"},
        "texts": {"summary": "Messages through redis:6379 reach the hubs of a after more than 100 ms"},
        "for": 300,
        "onset": 15,
    },
    "WardcastHubSlow": {
        "fires": {**series("hub_delay_seconds", A, constant(0.2)), **series("hub_delay_seconds", B, constant(0.001))},
        "quiet": series("hub_delay_seconds", A, constant(0.09)),
        "labels": ON_A,
        "texts": {"summary": "A message waits 200ms for a hub of a"},
        "for": 60,
    },
    "WardcastQueueFilling": {
        "fires": {**series("queue_ratio", f'{A},queue="outboxes"', constant(0.9)), **series("queue_ratio", f'{A},queue="audit"', constant(0.1))},
        "quiet": series("queue_ratio", f'{A},queue="outboxes"', constant(0.75)),
        "labels": {**ON_A, "queue": "outboxes"},
        "texts": {"summary": "The queue outboxes of a is 90% full"},
        "for": 60,
    },
    "WardcastCommandsFail": failing_share("commands_total", "ping", "commands", 165),
    "WardcastApiCallsFail": failing_share("api_calls_total", "info", "calls of the server API", 30),
    "WardcastRevocationsUnconfirmed": {
        "fires": series("revocations_unconfirmed_total", A, rising(1)),
        "quiet": series("revocations_unconfirmed_total", A, constant(2)),
        "labels": ON_A,
    },
    "WardcastLogoutFailed": {
        "fires": {**series("backchannel_logouts_total", f'{A},outcome="failed"', "0x30 1x30"),
                  **series("backchannel_logouts_total", f'{B},outcome="obeyed"', rising(9))},
        "quiet": {**series("backchannel_logouts_total", f'{A},outcome="obeyed"', rising(9)),
                  **series("backchannel_logouts_total", f'{A},outcome="refused"', rising(9)),
                  **series("backchannel_logouts_total", f'{B},outcome="failed"', constant(1))},
        "labels": {**ON_A, "outcome": "failed"},
        "texts": {"summary": "a could not obey a logout at an identity provider"},
    },
    "WardcastAuditLinesLost": {
        "fires": series("audit_lines_total", f'{A},outcome="lost"', rising(1)),
        "quiet": {**series("audit_lines_total", f'{A},outcome="written"', rising(9)), **series("audit_lines_total", f'{A},outcome="lost"', constant(1))},
        "labels": {**ON_A, "outcome": "lost"},
        "texts": {"summary": "a has lost lines of its audit log"},
    },
}
