//! The quick look: does the stack serve, and is it whole?

use http::Method;
use serde_json::{Value, json};

use crate::check::{Check, Outcome, Verdict, ensure, pass};
use crate::shape::Kind;
use crate::target::Target;

const HEALTH: &str = "system health";
const PARTITIONS: &str = "partition sync";
const CACHE_SPEED: &str = "cache performance";
const REPLICAS: &str = "replicas";
const ALERTS: &str = "alerts";
const CACHE: &str = "cache service";
const UNIFIED: &str = "unified metrics";
const FUNCTIONS: &str = "functions, with credentials";

const INVALIDATION: &str = "/monitoring/cache/invalidation-metrics";

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check::doing(HEALTH, "the edge is alive", |target| Box::pin(is_200(target, "/health/liveness"))),
        Check::doing(HEALTH, "the edge is ready", |target| Box::pin(is_200(target, "/health/readiness"))),
        Check::doing(HEALTH, "every service is healthy", |target| Box::pin(every_service_is_healthy(target))),
        Check::doing(HEALTH, "every component is healthy", |target| Box::pin(every_component(target))),
        Check::doing(PARTITIONS, "row counts are told", |target| Box::pin(row_counts(target))),
        Check::doing(PARTITIONS, "row counts differ by at most 10", |target| Box::pin(row_delta(target))),
        Check::doing(PARTITIONS, "no compared row differs", |target| Box::pin(parity(target))),
        Check::doing(PARTITIONS, "no partition ahead is missing", |target| {
            Box::pin(future_partitions(target))
        }),
        Check::doing(PARTITIONS, "readiness names its reasons", |target| Box::pin(readiness(target))),
        Check::doing(CACHE_SPEED, "hit rate is at least 70 %", |target| Box::pin(hit_rate(target))),
        Check::doing(CACHE_SPEED, "a GET takes less than 50 ms", |target| {
            Box::pin(mean_below(target, "/operations/getSecondsMean", 0.05))
        }),
        Check::doing(CACHE_SPEED, "a SET takes less than 100 ms", |target| {
            Box::pin(mean_below(target, "/operations/setSecondsMean", 0.1))
        }),
        Check::doing(CACHE_SPEED, "invalidations do not fail", |target| Box::pin(invalidations(target))),
        Check::doing(REPLICAS, "there is a primary", |target| Box::pin(primary(target))),
        Check::doing(REPLICAS, "every replica is healthy", |target| Box::pin(replicas_healthy(target))),
        Check::doing(REPLICAS, "no replica is over 10 s stale", |target| Box::pin(replica_lag(target))),
        Check::doing(ALERTS, "no critical alert is firing", |target| Box::pin(no_critical(target))),
        Check::field(
            ALERTS,
            "the history of alerts is there",
            "/monitoring/unified/alerts",
            "/alerts",
            Kind::List,
        ),
        Check::doing(CACHE, "Redis is there", |target| Box::pin(redis(target))),
        Check::field(CACHE, "memory is bounded", "/cache/stats", "/memory/capacityBytes", Kind::Number),
        Check::doing(UNIFIED, "all parts answer", |target| Box::pin(complete(target))),
        Check::doing(UNIFIED, "OpenMetrics are served", |target| Box::pin(open_metrics(target))),
        Check::doing(FUNCTIONS, "a value is stored, read and deleted", |target| Box::pin(round_trip(target))),
        Check::doing(FUNCTIONS, "a read reaches a replica", |target| Box::pin(read_query(target))),
        Check::doing(FUNCTIONS, "a publication is taken", |target| Box::pin(publish(target))),
        Check::doing(FUNCTIONS, "nobody gets in without credentials", |target| Box::pin(closed(target))),
    ]
}

async fn is_200(target: &Target, path: &str) -> Outcome {
    let answer = target.get_as_nobody(path).await?;
    ensure(answer.status == 200, || format!("answers {}: {}", answer.status, answer.text()))?;
    pass("")
}

async fn every_service_is_healthy(target: &Target) -> Outcome {
    let answer = target.get_as_nobody("/health/status").await?.json()?;
    let services = list(&answer, "/services")?;
    let names: Vec<_> = services.iter().filter_map(|service| service["service"].as_str()).collect();
    for wanted in ["edge-gateway", "cache-service", "ws-gateway", "replica-service", "monitor-service"] {
        ensure(names.contains(&wanted), || format!("{wanted} is not there"))?;
    }
    let sick: Vec<_> =
        services.iter().filter(|service| service["status"] != "healthy").map(described).collect();
    ensure(sick.is_empty(), || sick.join("; "))?;
    pass(format!("{} instances", services.len()))
}

async fn every_component(target: &Target) -> Outcome {
    let answer = target.get_as_nobody("/health/components").await?.json()?;
    let mut components = Vec::new();
    for service in list(&answer, "/services")? {
        let name = word(service, "service");
        for component in list(service, "/components")? {
            components.push((component["status"].as_str(), format!("{} of {name}", word(component, "name"))));
        }
    }
    ensure(!components.is_empty(), || "no component is told".to_owned())?;
    let with = |status: &str| -> Vec<&str> {
        components.iter().filter(|(found, _)| *found == Some(status)).map(|(_, name)| name.as_str()).collect()
    };
    let unhealthy = with("unhealthy");
    ensure(unhealthy.is_empty(), || format!("unhealthy: {}", unhealthy.join(", ")))?;
    let degraded = with("degraded");
    if !degraded.is_empty() {
        return Ok(Verdict::Warn(format!("degraded: {}", degraded.join(", "))));
    }
    pass(format!("{} components", components.len()))
}

async fn pairs(target: &Target) -> Result<Vec<Value>, String> {
    Ok(list(&target.json_once("/monitoring/partitions/metrics").await?, "/tables")?.clone())
}

const NO_PAIRS: &str = "no pair of tables is configured (switchover.<name> of replica-service)";

async fn row_counts(target: &Target) -> Outcome {
    let pairs = pairs(target).await?;
    for pair in &pairs {
        for field in ["legacyRows", "partitionedRows"] {
            ensure(pair[field].is_u64(), || format!("{} of {} is missing", field, word(pair, "name")))?;
        }
    }
    if pairs.is_empty() {
        Ok(Verdict::Warn(NO_PAIRS.to_owned()))
    } else {
        pass(format!("{} pairs", pairs.len()))
    }
}

async fn row_delta(target: &Target) -> Outcome {
    let mut told = Vec::new();
    for pair in pairs(target).await? {
        let delta = pair["delta"].as_i64().unwrap_or_default().abs();
        let line = format!("{}: {delta}", word(&pair, "name"));
        ensure(delta <= 100, || format!("{line} rows, more than 100"))?;
        if delta > 10 {
            return Ok(Verdict::Warn(format!("{line} rows, more than 10")));
        }
        told.push(line);
    }
    if told.is_empty() { Ok(Verdict::Warn(NO_PAIRS.to_owned())) } else { pass(told.join(", ")) }
}

async fn parity(target: &Target) -> Outcome {
    let pairs = pairs(target).await?;
    for pair in &pairs {
        let verdict = &pair["parity"]["verdict"];
        ensure(verdict != "different", || {
            format!("{}: {}", word(pair, "name"), pair["parity"]["differences"])
        })?;
        if verdict != "equal" {
            return Ok(Verdict::Warn(format!("{} is still being compared", word(pair, "name"))));
        }
    }
    if pairs.is_empty() { Ok(Verdict::Warn(NO_PAIRS.to_owned())) } else { pass("") }
}

async fn future_partitions(target: &Target) -> Outcome {
    let pairs = pairs(target).await?;
    for pair in &pairs {
        let missing = list(pair, "/missingFuture")?;
        ensure(missing.is_empty(), || format!("{} lacks {}", word(pair, "name"), pair["missingFuture"]))?;
    }
    if pairs.is_empty() { Ok(Verdict::Warn(NO_PAIRS.to_owned())) } else { pass("") }
}

async fn readiness(target: &Target) -> Outcome {
    let answer = target.json_once("/monitoring/partitions/metrics").await?;
    let tables = answer.pointer("/switchoverReadiness/tables").and_then(Value::as_object);
    let tables = tables.ok_or("switchoverReadiness.tables is missing")?;
    for (name, table) in tables {
        for check in list(table, "/checks")? {
            ensure(!word(check, "reason").is_empty(), || {
                format!("{name}: {} has no reason", word(check, "name"))
            })?;
        }
    }
    if tables.is_empty() {
        Ok(Verdict::Warn(NO_PAIRS.to_owned()))
    } else {
        pass(answer["switchoverReadiness"]["ready"].to_string())
    }
}

async fn hit_rate(target: &Target) -> Outcome {
    let answer = target.json_once(INVALIDATION).await?;
    let stats = &answer["cacheHitStats"];
    let gets = stats["gets"].as_u64().ok_or("cacheHitStats.gets is missing")?;
    if gets < 100 {
        return pass(format!("{gets} reads yet: too few to say"));
    }
    let rate = stats["hitRate"].as_f64().ok_or("cacheHitStats.hitRate is missing")?;
    ensure(rate >= 0.5, || format!("{:.1} % of {gets} reads", rate * 100.0))?;
    if rate < 0.7 {
        return Ok(Verdict::Warn(format!("{:.1} % of {gets} reads", rate * 100.0)));
    }
    pass(format!("{:.1} % of {gets} reads", rate * 100.0))
}

async fn mean_below(target: &Target, pointer: &'static str, most_s: f64) -> Outcome {
    let answer = target.json_once(INVALIDATION).await?;
    let mean =
        answer.pointer(pointer).and_then(Value::as_f64).ok_or_else(|| format!("{pointer} is missing"))?;
    ensure(mean <= most_s, || format!("{:.1} ms on average", mean * 1e3))?;
    pass(format!("{:.2} ms on average", mean * 1e3))
}

async fn invalidations(target: &Target) -> Outcome {
    let answer = target.json_once(INVALIDATION).await?;
    let figures = &answer["invalidations"];
    let (total, failures) = (figures["total"].as_u64(), figures["failures"].as_u64());
    let (Some(total), Some(failures)) = (total, failures) else {
        return Err("invalidations.total or .failures is missing".to_owned());
    };
    ensure(failures * 10 <= total.max(failures), || format!("{failures} failures, {total} invalidations"))?;
    ensure(figures["current"] == true, || "the invalidation log is not read to its end".to_owned())?;
    pass(format!("{total} done, {failures} failed"))
}

async fn primary(target: &Target) -> Outcome {
    let info = target.json_once("/database/info").await?;
    let primary = word(&info, "primary");
    ensure(!primary.is_empty(), || "no node is the primary".to_owned())?;
    pass(primary)
}

async fn replicas_healthy(target: &Target) -> Outcome {
    let health = target.json_once("/database/replica/health").await?;
    let nodes = list(&health, "/nodes")?;
    let sick: Vec<_> = nodes
        .iter()
        .filter(|node| node["healthy"] != true)
        .map(|node| format!("{}: {}", word(node, "node"), word(node, "detail")))
        .collect();
    ensure(sick.is_empty(), || sick.join("; "))?;
    ensure(nodes.iter().any(|node| node["role"] == "replica"), || "there is no replica".to_owned())?;
    pass(format!("{} nodes", nodes.len()))
}

async fn replica_lag(target: &Target) -> Outcome {
    let lag = target.json_once("/database/replica/lag").await?;
    let mut most = 0.0_f64;
    for node in list(&lag, "/nodes")?.iter().filter(|node| node["role"] == "replica") {
        let stale = node["stalenessSeconds"].as_f64();
        let stale = stale.ok_or_else(|| format!("nothing is proven about {}", word(node, "node")))?;
        ensure(stale <= 30.0, || format!("{} is up to {stale:.1} s stale", word(node, "node")))?;
        most = most.max(stale);
    }
    if most > 10.0 {
        Ok(Verdict::Warn(format!("up to {most:.1} s")))
    } else {
        pass(format!("up to {most:.2} s"))
    }
}

/// An alert about the host that the checks run on is the host's matter.
async fn no_critical(target: &Target) -> Outcome {
    let answer = target.json("/monitoring/unified/alerts?state=firing").await?;
    let critical = list(&answer, "/alerts")?.iter().filter(|alert| alert["level"] == "critical");
    let (host, ours): (Vec<&Value>, Vec<&Value>) = critical.partition(|alert| alert["source"] == "host");
    ensure(ours.is_empty(), || {
        ours.iter().map(|alert| word(alert, "summary")).collect::<Vec<_>>().join("; ")
    })?;
    if let Some(alert) = host.first() {
        return Ok(Verdict::Warn(word(alert, "summary")));
    }
    pass("")
}

pub(crate) async fn redis(target: &Target) -> Outcome {
    let stats = target.json_once("/cache/stats").await?;
    let redis = &stats["redisStats"];
    if redis["type"] == "none" {
        return Ok(Verdict::Warn("the cache runs on its own memory: no Redis is configured".to_owned()));
    }
    ensure(redis["available"] == true, || format!("not available, breaker {}", redis["breaker"]))?;
    pass(word(redis, "primary"))
}

async fn complete(target: &Target) -> Outcome {
    let answer = target.get("/monitoring/unified/metrics").await?;
    ensure(answer.status == 200, || format!("answers {}", answer.status))?;
    let completeness = answer.header("x-mainstay-completeness").to_owned();
    ensure(completeness == "full", || format!("{completeness}: a part is missing"))?;
    let status = word(&answer.json()?["system"], "status");
    ensure(status != "unhealthy", || "system.status is unhealthy".to_owned())?;
    if status != "healthy" {
        return Ok(Verdict::Warn(status));
    }
    pass(status)
}

async fn open_metrics(target: &Target) -> Outcome {
    let answer = target.get_as_nobody("/health/metrics").await?;
    ensure(answer.status == 200, || format!("answers {}", answer.status))?;
    let text = answer.text();
    for service in ["edge-gateway", "cache-service", "ws-gateway", "replica-service", "monitor-service"] {
        let label = format!("mainstay_ready{{service=\"{service}\"");
        ensure(text.contains(&label), || format!("nothing of {service} is in it"))?;
    }
    pass(format!("{} KiB", answer.body.len() / 1024))
}

/// Says why a check that writes is left out here, where it is.
pub(crate) fn skipped(target: &Target) -> Option<Verdict> {
    if !target.has_token() {
        return Some(Verdict::Warn("skipped: AUTH_TOKEN is not set".to_owned()));
    }
    (!target.environment.changes)
        .then(|| Verdict::Warn(format!("skipped: {} allows no changes", target.environment.name)))
}

async fn round_trip(target: &Target) -> Outcome {
    if let Some(verdict) = skipped(target) {
        return Ok(verdict);
    }
    let path = format!("/cache/checks/smoke-{}", std::process::id());
    let value = format!("value of {path}");
    let headers = [("content-type", "text/plain"), ("x-cache-ttl", "1m")];
    let put = target.send(Method::PUT, &path, &headers, value.clone().into()).await?;
    ensure((200..300).contains(&put.status), || format!("PUT answers {}: {}", put.status, put.text()))?;
    let got = target.get(&path).await?;
    ensure(got.status == 200 && got.text() == value, || {
        format!("GET answers {}: {}", got.status, got.text())
    })?;
    let layer = got.header("x-cache").to_owned();
    let deleted = target.send(Method::DELETE, &path, &[], "".into()).await?;
    ensure((200..300).contains(&deleted.status), || format!("DELETE answers {}", deleted.status))?;
    let gone = target.get(&path).await?;
    ensure(gone.status == 404, || format!("GET after DELETE answers {}", gone.status))?;
    pass(format!("read from {layer}"))
}

async fn read_query(target: &Target) -> Outcome {
    if !target.has_token() {
        return Ok(Verdict::Warn("skipped: AUTH_TOKEN is not set".to_owned()));
    }
    let body = json!({ "sql": "select 40 + $1::int as answer", "params": [2] });
    let answer = target.send_json(Method::POST, "/database/query", &body).await?;
    ensure(answer.status == 200, || format!("answers {}: {}", answer.status, answer.text()))?;
    let answer = answer.json()?;
    ensure(answer.to_string().contains("42"), || format!("40 + 2 is {answer}"))?;
    pass(word(&answer, "node"))
}

async fn publish(target: &Target) -> Outcome {
    if let Some(verdict) = skipped(target) {
        return Ok(verdict);
    }
    let body = json!({ "channel": "checks", "data": { "from": "mainstay-checks" } });
    let answer = target.send_json(Method::POST, "/realtime/publish", &body).await?;
    ensure(answer.status == 200, || format!("answers {}: {}", answer.status, answer.text()))?;
    pass("")
}

async fn closed(target: &Target) -> Outcome {
    for path in ["/cache/stats", "/database/info", "/monitoring/unified/metrics"] {
        let answer = target.get_as_nobody(path).await?;
        ensure(answer.status == 401, || format!("{path} answers {} without credentials", answer.status))?;
    }
    pass("")
}

fn described(service: &Value) -> String {
    format!("{} is {}: {}", word(service, "service"), word(service, "status"), word(service, "reason"))
}

/// The list at `pointer`.
pub(crate) fn list<'a>(answer: &'a Value, pointer: &str) -> Result<&'a Vec<Value>, String> {
    answer.pointer(pointer).and_then(Value::as_array).ok_or_else(|| format!("{pointer} is no list"))
}

/// The text of a field, or "".
pub(crate) fn word(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}
