#!/usr/bin/env python3
"""Writes the dashboards: python3 deploy/grafana/generate.py [--check]

Each is a list of rows of panels below. The files in dashboards/ are what this prints; --check tells whether they are.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
NOT_OK = ',code!="OK"'
SOURCE = {"type": "prometheus", "uid": "prometheus"}


def panel(title, *queries, unit="short", kind="timeseries", what="", low_is_bad=None, thresholds=()):
    """Makes a panel; a query is (expression, legend). Thresholds are (colour, from) pairs."""
    steps = [{"color": "green", "value": None}] + [{"color": colour, "value": at} for colour, at in thresholds]
    if low_is_bad is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": low_is_bad}]
    custom = {"fillOpacity": 8, "lineWidth": 1, "showPoints": "never"} if kind == "timeseries" else {}
    if thresholds and kind == "timeseries":
        custom["thresholdsStyle"] = {"mode": "dashed"}
    return {
        "title": title,
        "description": what,
        "type": kind,
        "datasource": SOURCE,
        "targets": [
            {"datasource": SOURCE, "expr": expression, "legendFormat": legend, "refId": chr(ord("A") + n)}
            for n, (expression, legend) in enumerate(queries)
        ],
        "fieldConfig": {
            "defaults": {"unit": unit, "custom": custom, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}} if kind == "stat" else {},
    }


def rate(metric, labels=""):
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def quantile(q, metric, by="", labels=""):
    return f"histogram_quantile({q}, sum by (le{by}) ({rate(metric + '_bucket', labels)}))"


def latency(title, metric, by="", legend="", labels="", what=""):
    suffix = f" {legend}" if legend else ""
    return panel(
        title,
        (quantile(0.5, metric, by, labels), f"p50{suffix}"),
        (quantile(0.99, metric, by, labels), f"p99{suffix}"),
        unit="s",
        what=what,
    )


def process(service):
    """Rows that every service has."""
    own = f'service="{service}"'
    return [
        [
            panel("ready", (f"min(mainstay_ready{{{own}}})", ""), kind="stat", low_is_bad=1),
            panel("CPU", (rate("mainstay_process_cpu_seconds_total", own), "{{instance}}"), unit="percentunit"),
            panel("memory", (f"mainstay_process_resident_bytes{{{own}}}", "{{instance}}"), unit="bytes"),
            panel("open files", (f"mainstay_process_open_fds{{{own}}}", "{{instance}}")),
        ],
        [
            panel("gRPC calls", (f"sum by (method) ({rate('mainstay_rpc_requests_total', own)})", "{{method}}"), unit="reqps"),
            panel(
                "gRPC errors",
                (f"sum by (method, code) ({rate('mainstay_rpc_requests_total', own + NOT_OK)})", "{{method}} {{code}}"),
                unit="reqps",
            ),
            latency("gRPC time", "mainstay_rpc_request_seconds", labels=own),
            panel("components", (f"mainstay_component_health{{{own}}}", "{{component}}"), what="3 healthy, 2 degraded, 1 unhealthy"),
        ],
    ]


DASHBOARDS = {
    "overview": (
        "Mainstay: overview",
        [
            [
                panel("services ready", ("sum(mainstay_ready)", ""), kind="stat"),
                panel("services not ready", ("sum(mainstay_ready == bool 0)", ""), kind="stat", thresholds=[("red", 1)]),
                panel("alerts: critical", ('sum(mainstay_monitor_alerts_firing{severity="critical"})', ""), kind="stat", thresholds=[("red", 1)]),
                panel("alerts: warning", ('sum(mainstay_monitor_alerts_firing{severity="warning"})', ""), kind="stat", thresholds=[("orange", 1)]),
                panel("cache hit rate", ("mainstay:cache_hit_ratio:1m", ""), unit="percentunit", kind="stat", low_is_bad=0.7),
                panel("clients connected", ("sum(mainstay_ws_connections)", ""), kind="stat"),
            ],
            [
                panel("REST requests", (f"sum by (status) ({rate('mainstay_edge_requests_total')})", "{{status}}"), unit="reqps"),
                latency("REST time", "mainstay_edge_request_seconds"),
                panel("components not healthy", ("mainstay_component_health < 3", "{{service}} {{component}}"), what="2 degraded, 1 unhealthy, 0 unknown"),
            ],
            [
                panel("replica staleness", ("max by (node) (mainstay_replica_node_staleness_seconds)", "{{node}}"), unit="s", thresholds=[("orange", 10), ("red", 30)]),
                panel("cache reads", (f"sum by (layer) ({rate('mainstay_cache_hits_total')})", "hit {{layer}}"), (f"sum({rate('mainstay_cache_misses_total')})", "miss"), unit="reqps"),
                panel("deliveries to clients", (f"sum({rate('mainstay_ws_messages_sent_total')})", "messages"), unit="cps"),
            ],
            [
                panel("CPU per service", (f"sum by (service) ({rate('mainstay_process_cpu_seconds_total')})", "{{service}}"), unit="percentunit"),
                panel("memory per service", ("sum by (service) (mainstay_process_resident_bytes)", "{{service}}"), unit="bytes"),
                panel("gRPC errors", (f"sum by (service, code) ({rate('mainstay_rpc_requests_total', NOT_OK[1:])})", "{{service}} {{code}}"), unit="reqps"),
            ],
        ],
    ),
    "cache": (
        "Mainstay: cache-service",
        [
            [
                panel("hit rate", ("mainstay:cache_hit_ratio:1m", ""), unit="percentunit", kind="stat", low_is_bad=0.7),
                panel("reads", (f"sum by (layer) ({rate('mainstay_cache_hits_total')})", "hit {{layer}}"), (f"sum({rate('mainstay_cache_misses_total')})", "miss"), unit="reqps"),
                panel("writes", (f"sum({rate('mainstay_cache_sets_total')})", "set"), (f"sum({rate('mainstay_cache_deletes_total')})", "delete"), unit="reqps"),
                panel("stale and degraded answers", (f"sum({rate('mainstay_cache_stale_total')})", "stale"), (f"sum({rate('mainstay_cache_degraded_total')})", "degraded"), unit="reqps"),
            ],
            [
                latency("GET inside the engine", "mainstay_cache_op_seconds", by=", layer", legend="{{layer}}", labels='op="get"'),
                panel("memory (L1)", ("mainstay_cache_l1_bytes", "used {{instance}}"), ("mainstay_cache_l1_capacity_bytes", "bound {{instance}}"), unit="bytes"),
                panel("entries and evictions", ("mainstay_cache_l1_entries", "entries"), (rate("mainstay_cache_l1_evictions_total"), "evicted/s")),
                panel("disk (L3)", ("mainstay_cache_l3_bytes", "used {{instance}}"), ("mainstay_cache_l3_capacity_bytes", "bound {{instance}}"), unit="bytes"),
            ],
            [
                panel("Redis answers", ("mainstay_cache_l2_available", "{{instance}}"), kind="stat", low_is_bad=1),
                panel("breaker", ("mainstay_cache_l2_breaker_state", "{{instance}}"), what="0 closed, 1 half open, 2 open"),
                panel("Redis errors", (f"sum by (kind) ({rate('mainstay_cache_l2_errors_total')})", "{{kind}}"), unit="reqps"),
                panel("Sentinels", ("mainstay_cache_sentinels_reachable", "reachable"), ("mainstay_cache_sentinels_configured", "configured")),
            ],
            [
                panel("invalidations", (f"sum by (kind) ({rate('mainstay_cache_invalidations_total')})", "{{kind}}"), unit="reqps"),
                latency("invalidation lag", "mainstay_cache_invalidation_lag_seconds"),
                panel("entries possibly stale", ("mainstay_cache_entries_possibly_stale", "{{instance}}")),
                latency("loads from origins", "mainstay_cache_load_seconds"),
            ],
            *process("cache-service"),
        ],
    ),
    "realtime": (
        "Mainstay: ws-gateway",
        [
            [
                panel("connections", ("mainstay_ws_connections", "{{instance}}")),
                panel("subscriptions and channels", ("mainstay_ws_subscriptions", "subscriptions"), ("mainstay_ws_channels", "channels")),
                panel("publications", (f"sum({rate('mainstay_ws_publications_total')})", "published"), unit="cps"),
                panel("messages", (f"sum({rate('mainstay_ws_messages_sent_total')})", "sent"), (f"sum({rate('mainstay_ws_messages_received_total')})", "received"), unit="cps"),
            ],
            [
                panel("bytes", (f"sum({rate('mainstay_ws_bytes_sent_total')})", "sent"), (f"sum({rate('mainstay_ws_bytes_received_total')})", "received"), unit="Bps"),
                panel("ends of connections", (f"sum by (code) ({rate('mainstay_ws_disconnects_total')})", "{{code}}"), unit="cps"),
                panel("slow clients", (f"sum({rate('mainstay_ws_slow_disconnects_total')})", "disconnected"), unit="cps"),
                panel("recoveries", (f"sum by (recovered) ({rate('mainstay_ws_recoveries_total')})", "recovered: {{recovered}}"), unit="cps"),
            ],
            [
                latency("publish to queue", "mainstay_ws_publish_seconds"),
                panel("histories", ("mainstay_ws_history_bytes", "{{instance}}"), unit="bytes"),
                panel("commands", (f"sum by (method, result) ({rate('mainstay_ws_commands_total')})", "{{method}} {{result}}"), unit="cps"),
                panel("handshakes refused", (f"sum by (reason) ({rate('mainstay_ws_handshakes_refused_total')})", "{{reason}}"), unit="cps"),
            ],
            *process("ws-gateway"),
        ],
    ),
    "database": (
        "Mainstay: replica-service",
        [
            [
                panel("nodes up", ("mainstay_replica_node_up", "{{node}}")),
                panel("who is primary", ("mainstay_replica_node_primary", "{{node}}")),
                panel("breakers", ("max by (node) (mainstay_replica_node_breaker_state)", "{{node}}"), what="0 closed, 1 half open, 2 open"),
                panel("staleness, at most", ("max by (node) (mainstay_replica_node_staleness_seconds)", "{{node}}"), unit="s", thresholds=[("orange", 10), ("red", 30)]),
                panel("lag", ("max by (node) (mainstay_replica_node_lag_bytes)", "{{node}}"), unit="bytes"),
            ],
            [
                panel("statements", (f"sum by (kind, result) ({rate('mainstay_replica_queries_total')})", "{{kind}} {{result}}"), unit="reqps"),
                latency("time of a statement", "mainstay_replica_query_seconds", by=", kind", legend="{{kind}}"),
                panel("why a node was chosen", (f"sum by (reason) ({rate('mainstay_replica_routed_total')})", "{{reason}}"), unit="reqps"),
                panel("second attempts and cancels", (f"sum({rate('mainstay_replica_retries_total')})", "retries"), (f"sum({rate('mainstay_replica_cancels_total')})", "cancels"), unit="reqps"),
            ],
            [
                panel("pools: in use", ("mainstay_replica_pool_in_use", "{{node}} {{role}}")),
                panel("pools: waiting", ("mainstay_replica_pool_waiting", "{{node}} {{role}}")),
                panel("switchover: rows that differ", ("mainstay_replica_switchover_delta", "{{pair}}"), thresholds=[("orange", 10), ("red", 100)]),
                panel("switchover: rows written", (f"sum by (pair, table) ({rate('mainstay_replica_switchover_rows_written_total')})", "{{pair}} {{table}}"), unit="wps"),
                panel("switchover: ready", ("mainstay_replica_switchover_ready", "{{pair}}"), kind="stat", low_is_bad=1),
            ],
            *process("replica-service"),
        ],
    ),
    "monitor": (
        "Mainstay: monitor-service",
        [
            [
                panel("alerts firing", ("mainstay_monitor_alerts_firing", "{{severity}}")),
                panel("pulls", (f"sum by (service, result) ({rate('mainstay_monitor_pulls_total')})", "{{service}} {{result}}"), unit="cps"),
                latency("time of a pull", "mainstay_monitor_pull_seconds"),
                latency("evaluation of all rules", "mainstay_monitor_evaluation_seconds"),
            ],
            [
                panel("series", ("mainstay_monitor_series", "{{instance}}")),
                panel("memory of the history", ("mainstay_monitor_history_bytes", "{{instance}}"), unit="bytes"),
                panel("notifications", (f"sum by (channel, result) ({rate('mainstay_monitor_notifications_total')})", "{{channel}} {{result}}"), unit="cps"),
                panel("store: failures and drops", (rate("mainstay_monitor_store_failures_total"), "failures"), (rate("mainstay_monitor_store_dropped_total"), "dropped"), unit="cps"),
            ],
            *process("monitor-service"),
        ],
    ),
    "edge": (
        "Mainstay: edge-gateway",
        [
            [
                panel("requests", (f"sum by (status) ({rate('mainstay_edge_requests_total')})", "{{status}}"), unit="reqps"),
                panel("busiest routes", (f"topk(10, sum by (method, route) ({rate('mainstay_edge_requests_total')}))", "{{method}} {{route}}"), unit="reqps"),
                panel("slowest routes, p95", (f"topk(10, {quantile(0.95, 'mainstay_edge_request_seconds', by=', method, route')})", "{{method}} {{route}}"), unit="s", thresholds=[("orange", 0.1), ("red", 0.2)]),
                panel("in flight", ("mainstay_edge_in_flight", "{{instance}}")),
            ],
            [
                panel("limited", (f"sum by (class) ({rate('mainstay_edge_limited_total')})", "{{class}}"), unit="reqps"),
                panel("shed", (rate("mainstay_edge_shed_total"), "{{instance}}"), unit="reqps"),
                panel("bad credentials", (rate("mainstay_edge_unauthorized_total"), "{{instance}}"), unit="reqps"),
            ],
            *process("edge-gateway"),
        ],
    ),
}


def dashboard(uid, title, rows):
    panels, top = [], 0
    for row in rows:
        width = 24 // len(row)
        height = 4 if all(item["type"] == "stat" for item in row) else 8
        for column, item in enumerate(row):
            place = {"x": column * width, "y": top, "w": width, "h": height}
            panels.append({**item, "id": len(panels) + 1, "gridPos": place})
        top += height
    return {
        "uid": f"mainstay-{uid}",
        "title": title,
        "tags": ["mainstay"],
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "schemaVersion": 39,
        "links": [{"type": "dashboards", "tags": ["mainstay"], "title": "Mainstay", "asDropdown": True}],
        "panels": panels,
    }


def main():
    stale = []
    for uid, (title, rows) in DASHBOARDS.items():
        path = HERE / "dashboards" / f"{uid}.json"
        text = json.dumps(dashboard(uid, title, rows), indent=1) + "\n"
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(path.name)
        else:
            path.write_text(text)
    if stale:
        sys.exit(f"not what generate.py writes: {', '.join(stale)}; run python3 deploy/grafana/generate.py")


main()
