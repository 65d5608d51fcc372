//! The long look: is every figure there, of the right kind, true, consistent and quick, and do alerts come?

use std::time::{Duration, Instant};

use http::Method;
use mainstay_openmetrics::{Dialect, Limits, parse_as};
use serde_json::{Value, json};

use crate::check::{Check, Outcome, Verdict, ensure, pass};
use crate::shape::Kind::{List, Number, NumberOrNull, Object, OneOf, Some as NotEmpty, Text, Time, Truth};
use crate::smoke::{list, redis, skipped, word};
use crate::target::Target;

const UNIFIED: &str = "1 unified endpoints";
const PARTITIONS: &str = "2 partition endpoints";
const CACHE: &str = "3 cache endpoints";
const REPLICAS: &str = "4 replica endpoints";
const FIELDS: &str = "5 fields of health and metrics";
const ALERTS: &str = "6 alerts, by causing one";
const CONSISTENCY: &str = "7 consistency between endpoints";
const TIMES: &str = "8 response times";
const HEALTH: &str = "9 health of the replicas";
const INTEGRATION: &str = "10 monitoring integration";
const CONTINUOUS: &str = "11 fit for continuous use";

const METRICS: &str = "/monitoring/unified/metrics";
const STATUS: &str = "/health/status";
const INVALIDATION: &str = "/monitoring/cache/invalidation-metrics";
const STATS: &str = "/cache/stats";
const HEALTH_WORDS: crate::shape::Kind = OneOf(&["healthy", "degraded", "unhealthy"]);

pub(crate) fn checks() -> Vec<Check> {
    let mut all = fields();
    all.extend(doings());
    all
}

fn fields() -> Vec<Check> {
    let unified = |name, pointer, kind| Check::field(UNIFIED, name, METRICS, pointer, kind);
    let partitions =
        |name, pointer, kind| Check::field(PARTITIONS, name, "/monitoring/partitions/metrics", pointer, kind);
    let cache = |name, path, pointer, kind| Check::field(CACHE, name, path, pointer, kind);
    let replicas = |name, path, pointer, kind| Check::field(REPLICAS, name, path, pointer, kind);
    let health = |name, path, pointer, kind| Check::field(FIELDS, name, path, pointer, kind);
    vec![
        unified("system.status", "/system/status", HEALTH_WORDS),
        unified("system.uptime", "/system/uptime", Number),
        unified("cache", "/cache", Object),
        unified("replicas", "/replicas", Object),
        unified("websockets", "/websockets", Object),
        unified("partitions", "/partitions", Object),
        unified("alerts.critical", "/alerts/critical", Number),
        unified("alerts.warning", "/alerts/warning", Number),
        unified("alerts.recent", "/alerts/recent", List),
        Check::field(UNIFIED, "quick check: status", "/monitoring/unified/health", "/status", HEALTH_WORDS),
        Check::field(UNIFIED, "alerts: firing", "/monitoring/unified/alerts", "/firing/critical", Number),
        partitions("tables", "/tables", List),
        partitions("switchoverReadiness.ready", "/switchoverReadiness/ready", Truth),
        partitions("switchoverReadiness.tables", "/switchoverReadiness/tables", Object),
        Check::field(
            PARTITIONS,
            "table-stats: tables",
            "/monitoring/partitions/table-stats",
            "/tables",
            List,
        ),
        cache("cacheHitStats.gets", INVALIDATION, "/cacheHitStats/gets", Number),
        cache("cacheHitStats.hits", INVALIDATION, "/cacheHitStats/hits", Number),
        cache("cacheHitStats.hitRate", INVALIDATION, "/cacheHitStats/hitRate", NumberOrNull),
        cache("invalidations.total", INVALIDATION, "/invalidations/total", Number),
        cache("invalidations.perSecond", INVALIDATION, "/invalidations/perSecond", Number),
        cache("invalidations.failures", INVALIDATION, "/invalidations/failures", Number),
        cache("operations: GET time", INVALIDATION, "/operations/getSecondsMean", Number),
        cache(
            "redisStats.type",
            STATS,
            "/redisStats/type",
            OneOf(&["none", "single", "sentinel", "cluster"]),
        ),
        cache("redisStats.available", STATS, "/redisStats/available", Truth),
        cache("redisStats.redisInfo", STATS, "/redisStats/redisInfo", Object),
        cache("memory.bytes", STATS, "/memory/bytes", Number),
        cache("memory.capacityBytes", STATS, "/memory/capacityBytes", Number),
        cache("namespaces", STATS, "/namespaces", List),
        cache("hot keys", "/monitoring/cache/key-stats", "/hotKeys", List),
        cache("key patterns", "/monitoring/cache/key-stats", "/patterns", List),
        replicas("topology: primary", "/database/info", "/primary", Text),
        replicas("topology: nodes", "/database/info", "/nodes", NotEmpty),
        replicas(
            "topology: role as observed",
            "/database/info",
            "/nodes/0/role",
            OneOf(&["primary", "replica", "unknown"]),
        ),
        replicas("routing policy", "/database/info", "/routing/strategy", Text),
        replicas("health: healthy", "/database/replica/health", "/nodes/0/healthy", Truth),
        replicas("health: seen at", "/database/replica/health", "/nodes/0/seenAt", Time),
        replicas("stats: queries", "/database/replica/stats", "/nodes/0/queries", Number),
        replicas(
            "stats: breaker",
            "/database/replica/stats",
            "/nodes/0/breaker",
            OneOf(&["closed", "half_open", "open"]),
        ),
        replicas("lag: nodes", "/database/replica/lag", "/nodes", NotEmpty),
        replicas("pools: in use", "/database/replica/pool-stats", "/nodes/0/inUse", Number),
        replicas("pools: waiting", "/database/replica/pool-stats", "/nodes/0/waiting", Number),
        health("status", STATUS, "/status", HEALTH_WORDS),
        health("version", STATUS, "/version", Text),
        health("uptime", STATUS, "/uptimeSeconds", Number),
        health("services: freshness", STATUS, "/services/0/freshness", OneOf(&["fresh", "stale", "missing"])),
        health("services: started at", STATUS, "/services/0/startedAt", Time),
        health("components", "/health/components", "/services/0/components", NotEmpty),
        health("realtime: channels", "/realtime/channels", "/channels", List),
        health("realtime: connections", "/monitoring/websocket/connections", "/connections", List),
    ]
}

fn doings() -> Vec<Check> {
    vec![
        Check::doing(ALERTS, "a rule is tried before it is set", |target| Box::pin(dry_run(target))),
        Check::doing(ALERTS, "it fires, is acknowledged and ends", |target| Box::pin(alert_by_doing(target))),
        Check::doing(ALERTS, "a rule that is wrong is refused", |target| Box::pin(wrong_rule(target))),
        Check::doing(CONSISTENCY, "both cache answers count alike", |target| Box::pin(cache_counts(target))),
        Check::doing(CONSISTENCY, "status and quick check agree", |target| Box::pin(statuses(target))),
        Check::doing(CONSISTENCY, "the nodes of all database answers", |target| {
            Box::pin(nodes_agree(target))
        }),
        Check::doing(CONSISTENCY, "firing alerts are counted alike", |target| Box::pin(alerts_agree(target))),
        Check::doing(TIMES, STATUS, |target| Box::pin(quick(target, STATUS))),
        Check::doing(TIMES, METRICS, |target| Box::pin(quick(target, METRICS))),
        Check::doing(TIMES, INVALIDATION, |target| Box::pin(quick(target, INVALIDATION))),
        Check::doing(TIMES, "/database/replica/lag", |target| {
            Box::pin(quick(target, "/database/replica/lag"))
        }),
        Check::doing(TIMES, "/health/metrics", |target| Box::pin(quick(target, "/health/metrics"))),
        Check::doing(HEALTH, "one primary takes writes", |target| Box::pin(one_primary(target))),
        Check::doing(HEALTH, "the evidence is younger than 5 s", |target| Box::pin(evidence(target))),
        Check::doing(HEALTH, "every replica streams", |target| Box::pin(streaming(target))),
        Check::doing(INTEGRATION, "Prometheus text is well formed", |target| Box::pin(well_formed(target))),
        Check::doing(INTEGRATION, "OpenMetrics ends as it must", |target| Box::pin(ends_with_eof(target))),
        Check::doing(INTEGRATION, "figures of every service are fresh", |target| Box::pin(all_fresh(target))),
        Check::doing(INTEGRATION, "Redis answers the cache", |target| Box::pin(redis(target))),
        Check::doing(INTEGRATION, "history has points", |target| Box::pin(history(target))),
        Check::doing(INTEGRATION, "OpenAPI lists what was asked", |target| Box::pin(openapi(target))),
        Check::doing(INTEGRATION, "a trace id comes with each answer", |target| Box::pin(traced(target))),
        Check::doing(CONTINUOUS, "uptime grows", |target| Box::pin(uptime_grows(target))),
        Check::doing(CONTINUOUS, "fifty reads in a row succeed", |target| Box::pin(fifty(target))),
        Check::doing(CONTINUOUS, "no background task fails", |target| Box::pin(no_failures(target))),
        Check::doing(CONTINUOUS, "an unknown path is told so", |target| Box::pin(unknown_path(target))),
    ]
}

fn rule() -> Value {
    json!({
        "kind": "threshold", "metric": "mainstay_ready", "labels": { "service": "edge-gateway" }, "warning": 0.5,
        "firesAfter": "0s", "clearsAfter": "0s", "summary": "a check of the alerts: no reason to worry",
    })
}

/// A name of this run's own: two may run at once.
fn rule_path() -> String {
    format!("/monitoring/alerts/rules/check_{}", std::process::id())
}

async fn dry_run(target: &Target) -> Outcome {
    if let Some(verdict) = skipped(target) {
        return Ok(verdict);
    }
    let tried = target.send_json(Method::PUT, &format!("{}?dryRun=true", rule_path()), &rule()).await?;
    ensure(tried.status == 200, || format!("answers {}: {}", tried.status, tried.text()))?;
    let there = target.get(&rule_path()).await?;
    ensure(there.status == 404, || format!("a dry run stored the rule: {}", there.status))?;
    pass("")
}

async fn alert_by_doing(target: &Target) -> Outcome {
    if let Some(verdict) = skipped(target) {
        return Ok(verdict);
    }
    let begun = Instant::now();
    let put = target.send_json(Method::PUT, &rule_path(), &rule()).await?;
    ensure(put.status == 200, || format!("PUT answers {}: {}", put.status, put.text()))?;
    let outcome = fire_and_acknowledge(target, begun).await;
    // Whatever happened, the rule does not stay.
    let deleted = target.send(Method::DELETE, &rule_path(), &[], "".into()).await?;
    let (id, fired_s) = outcome?;
    ensure(deleted.status == 200, || format!("DELETE answers {}", deleted.status))?;
    wait_for(target, "resolved", |alert| alert["id"] == id.as_str()).await?;
    pass(format!("fired after {fired_s:.1} s, over after {:.1} s", begun.elapsed().as_secs_f64()))
}

async fn fire_and_acknowledge(target: &Target, begun: Instant) -> Result<(String, f64), String> {
    let name = format!("check_{}", std::process::id());
    let alert = wait_for(target, "firing", |alert| alert["rule"] == name.as_str()).await?;
    let fired_s = begun.elapsed().as_secs_f64();
    let id = word(&alert, "id");
    let body = json!({ "alertId": id, "comment": "mainstay-checks" });
    let acknowledged = target.send_json(Method::POST, "/monitoring/unified/acknowledge-alert", &body).await?;
    ensure(acknowledged.status == 200, || {
        format!("acknowledging answers {}: {}", acknowledged.status, acknowledged.text())
    })?;
    wait_for(target, "firing", |alert| alert["id"] == id.as_str() && alert["acknowledgement"].is_object())
        .await?;
    Ok((id, fired_s))
}

/// Asks for alerts of `state` until one is as wanted, for 15 s at most.
async fn wait_for(target: &Target, state: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value, String> {
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let answer = target.json(&format!("/monitoring/unified/alerts?state={state}")).await?;
        if let Some(found) = list(&answer, "/alerts")?.iter().find(|alert| wanted(alert)) {
            return Ok(found.clone());
        }
        ensure(Instant::now() < until, || format!("the alert was not {state} within 15 s"))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn wrong_rule(target: &Target) -> Outcome {
    if let Some(verdict) = skipped(target) {
        return Ok(verdict);
    }
    let wrong = json!({ "kind": "threshold", "metric": "m", "firesAfter": "48h" });
    let answer = target.send_json(Method::PUT, &rule_path(), &wrong).await?;
    ensure(answer.status == 400, || format!("answers {}", answer.status))?;
    let errors = answer.json()?["errors"].as_array().map_or(0, Vec::len);
    ensure(errors >= 2, || format!("names {errors} of 2 wrong fields"))?;
    pass("")
}

async fn cache_counts(target: &Target) -> Outcome {
    let earlier = target.json(STATS).await?["cacheHitStats"]["gets"].as_u64();
    let later = target.json(INVALIDATION).await?["cacheHitStats"]["gets"].as_u64();
    let (Some(earlier), Some(later)) = (earlier, later) else { return Err("gets is missing".to_owned()) };
    ensure(later >= earlier, || format!("{later} gets after {earlier}"))?;
    pass(format!("{earlier}, then {later}"))
}

async fn statuses(target: &Target) -> Outcome {
    let quick = word(&target.json("/monitoring/unified/health").await?, "status");
    let status = word(&target.json(STATUS).await?, "status");
    ensure(quick == status, || format!("{quick}, but {status}"))?;
    pass(status)
}

async fn nodes_agree(target: &Target) -> Outcome {
    let mut seen: Option<Vec<String>> = None;
    for path in ["info", "replica/health", "replica/stats", "replica/lag", "replica/pool-stats"] {
        let answer = target.json(&format!("/database/{path}")).await?;
        let mut nodes: Vec<_> = list(&answer, "/nodes")?.iter().map(|node| word(node, "node")).collect();
        nodes.sort();
        if let Some(seen) = &seen {
            ensure(*seen == nodes, || format!("{path} tells of {nodes:?}, others of {seen:?}"))?;
        }
        seen = Some(nodes);
    }
    pass(seen.unwrap_or_default().join(", "))
}

async fn alerts_agree(target: &Target) -> Outcome {
    let merged = target.json(METRICS).await?["alerts"].clone();
    let listed = target.json("/monitoring/unified/alerts").await?["firing"].clone();
    for level in ["critical", "warning", "info"] {
        if merged[level] != listed[level] {
            return Ok(Verdict::Warn(format!(
                "{level}: {} and a moment later {}",
                merged[level], listed[level]
            )));
        }
    }
    pass("")
}

async fn quick(target: &Target, path: &str) -> Outcome {
    let mut took = Vec::new();
    for _ in 0..7 {
        let answer = target.get(path).await?;
        ensure(answer.status == 200, || format!("answers {}", answer.status))?;
        took.push(answer.took.as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    let median = took[took.len() / 2];
    ensure(median <= target.environment.too_slow_ms, || format!("median {median:.1} ms"))?;
    if median > target.environment.slow_ms {
        return Ok(Verdict::Warn(format!("median {median:.1} ms")));
    }
    pass(format!("median {median:.1} ms"))
}

async fn one_primary(target: &Target) -> Outcome {
    let health = target.json("/database/replica/health").await?;
    let writers = list(&health, "/nodes")?.iter().filter(|node| node["writes"] == true);
    let names: Vec<_> = writers.map(|node| word(node, "node")).collect();
    ensure(names.len() == 1, || format!("{} nodes take writes: {}", names.len(), names.join(", ")))?;
    pass(names.join(""))
}

async fn evidence(target: &Target) -> Outcome {
    let lag = target.json("/database/replica/lag").await?;
    for node in replicas(&lag)? {
        let age = node["evidenceAgeSeconds"].as_f64();
        let age = age.ok_or_else(|| format!("nothing is known of {}", word(node, "node")))?;
        ensure(age <= 5.0, || format!("{}: {age:.1} s", word(node, "node")))?;
    }
    pass("")
}

/// All nodes but the primary; one that is neither has not been seen since the service began.
fn replicas(lag: &Value) -> Result<Vec<&Value>, String> {
    let others: Vec<_> = list(lag, "/nodes")?.iter().filter(|node| node["role"] != "primary").collect();
    for node in &others {
        ensure(node["role"] == "replica", || format!("{} is not there", word(node, "node")))?;
    }
    Ok(others)
}

async fn streaming(target: &Target) -> Outcome {
    let lag = target.json("/database/replica/lag").await?;
    for node in replicas(&lag)? {
        ensure(node["receiver"] == "streaming", || {
            format!("{}: receiver {}", word(node, "node"), node["receiver"])
        })?;
        ensure(node["replayPaused"] == false, || format!("replay of {} is paused", word(node, "node")))?;
    }
    pass("")
}

/// By the rules of the Prometheus text format: a family's lines stand together, names and labels parse.
async fn well_formed(target: &Target) -> Outcome {
    let answer =
        target.send(Method::GET, "/health/metrics", &[("accept", "text/plain;version=0.0.4")], "".into());
    let text = answer.await?.text();
    let exposition =
        parse_as(&text, Dialect::Prometheus, Limits::default()).map_err(|error| error.to_string())?;
    pass(format!("{} families", exposition.families.len()))
}

async fn ends_with_eof(target: &Target) -> Outcome {
    let accept = [("accept", "application/openmetrics-text;version=1.0.0")];
    let answer = target.send(Method::GET, "/health/metrics", &accept, "".into()).await?;
    ensure(answer.header("content-type").starts_with("application/openmetrics-text"), || {
        format!("content-type is {}", answer.header("content-type"))
    })?;
    ensure(answer.text().ends_with("# EOF\n"), || "does not end with # EOF".to_owned())?;
    pass("")
}

async fn all_fresh(target: &Target) -> Outcome {
    let answer = target.get_as_nobody(STATUS).await?.json()?;
    let services = list(&answer, "/services")?;
    let old: Vec<_> = services.iter().filter(|service| service["freshness"] != "fresh").collect();
    let told = |service: &&Value| format!("{} is {}", word(service, "service"), word(service, "freshness"));
    ensure(old.is_empty(), || old.iter().map(told).collect::<Vec<_>>().join(", "))?;
    pass(format!("{} services", services.len()))
}

async fn history(target: &Target) -> Outcome {
    let path = "/monitoring/history?metric=mainstay_ready&step=1s";
    let answer = target.json(path).await?;
    let series = list(&answer, "/series")?;
    ensure(!series.is_empty(), || "no series of mainstay_ready".to_owned())?;
    let points =
        series.iter().filter_map(|series| series["points"].as_array()).map(Vec::len).max().unwrap_or(0);
    ensure(points > 0, || "no points of mainstay_ready".to_owned())?;
    pass(format!("{} series, {points} points", series.len()))
}

async fn openapi(target: &Target) -> Outcome {
    let document = target.get_as_nobody("/openapi.json").await?.json()?;
    let paths = document["paths"].as_object().ok_or("paths is missing")?;
    for path in
        [STATUS, METRICS, INVALIDATION, STATS, "/database/replica/lag", "/monitoring/partitions/metrics"]
    {
        ensure(paths.contains_key(path), || format!("{path} is not in it"))?;
    }
    pass(format!("{} paths", paths.len()))
}

async fn traced(target: &Target) -> Outcome {
    let answer = target.get(STATUS).await?;
    for header in ["x-request-id", "traceparent"] {
        ensure(!answer.header(header).is_empty(), || format!("{header} is missing"))?;
    }
    pass(answer.header("traceparent"))
}

async fn uptime_grows(target: &Target) -> Outcome {
    let uptime = async || {
        let answer = target.json(STATUS).await?;
        answer["uptimeSeconds"].as_f64().ok_or_else(|| "uptimeSeconds is missing".to_owned())
    };
    let earlier = uptime().await?;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let later = uptime().await?;
    ensure(later > earlier, || format!("{later} after {earlier}: it was restarted, or stands still"))?;
    pass(format!("{later:.0} s"))
}

async fn fifty(target: &Target) -> Outcome {
    for n in 1..=50 {
        let answer = target.get("/monitoring/unified/health").await?;
        ensure(answer.status == 200, || format!("read {n} answers {}", answer.status))?;
    }
    pass("")
}

async fn no_failures(target: &Target) -> Outcome {
    let total = async || {
        let text = target.get_as_nobody("/health/metrics").await?.text();
        let lines = text.lines().filter(|line| line.starts_with("mainstay_work_panics_total"));
        Ok::<f64, String>(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    };
    let panics = total().await?;
    ensure(panics == 0.0, || format!("{panics} tasks panicked"))?;
    pass("")
}

async fn unknown_path(target: &Target) -> Outcome {
    let answer = target.get("/no/such/path").await?;
    ensure(answer.status == 404, || format!("answers {}", answer.status))?;
    ensure(answer.header("content-type") == "application/problem+json", || {
        "is no problem document".to_owned()
    })?;
    pass("")
}
