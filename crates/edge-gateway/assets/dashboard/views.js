"use strict";
// Cache, WebSockets, database.

const tileOf = (name, value, note, spark, unit) => h("div", { class: "card tile" + (spark ? "" : " plain") }, h("span", { class: "name" }, name), h("span", { class: "value" }, value, unit ? h("small", {}, " " + unit) : null), h("span", { class: "note" }, note ?? ""), spark ? M.spark(spark) : null);
const absent = (root, part, name) => {
  const reason = M.state.figures?.parts[part]?.reason;
  root.replaceChildren(M.state.figures ? M.fault(`No figures of ${name}`, reason ?? "no answer") : M.wait());
};

M.views.cache = (root) => {
  const tiles = h("div", { class: "tiles" }), layers = h("div"), spaces = h("div");
  const reads = M.live("Reads per second", [["memory", "--c1", M.rate, "l1"], ["Redis", "--c2", M.rate, "l2"], ["missed", "--c5", M.rate, "misses"]], { height: 290 });
  const memory = M.live("Memory used", [["memory", "--c1", M.bytes, "memory"]], { words: M.bytes });
  const invalidations = M.polled(3000, () => M.ask("/monitoring/cache/invalidation-metrics"), ({ invalidations: i }) => M.facts([
    ["Invalidations", M.count(i.total) + (i.perSecond ? ` (${M.rate(i.perSecond)}/s)` : "")], ["By key, tag, namespace", `${M.count(i.keys)} · ${M.count(i.tags)} · ${M.count(i.namespaces)}`],
    ["Failed", M.count(i.failures)], ["Log read to its end", i.current ? M.status("healthy", "yes") : M.status("unhealthy", "no")], ["Applied after, mean", M.seconds(i.lagSecondsMean)], ["Applied after, at most", M.seconds(i.lagSecondsMax)], ["Replays, flushes", `${M.count(i.replays)} · ${M.count(i.flushes)}`]]), "Invalidations cannot be shown");
  const keyStats = (render) => M.polled(5000, () => M.ask("/monitoring/cache/key-stats"), render, "Key figures cannot be shown");
  const keys = keyStats((stats) => M.table([["Hot key", (key) => [h("code", {}, key.key), h("span", { class: "sub" }, key.namespace)]], ["Reads", (key) => M.count(key.reads), "n"], ["Share", (key) => M.percent(key.share), "n"]], stats.hotKeys.slice(0, 8), "No key stands out."));
  const patterns = keyStats((stats) => M.table([["Pattern", (one) => [h("code", {}, one.pattern), h("span", { class: "sub" }, one.namespace)]], ["Keys", (one) => M.count(one.keys), "n"], ["Size", (one) => M.bytes(one.bytes), "n"], ["Mean TTL", (one) => M.seconds(one.meanTtlSeconds), "n"]], stats.patterns.slice(0, 8), "No entries yet."));
  root.append(tiles, h("div", { class: "grid" }, M.card("Reads per second, by where they were answered", reads.box, { span: "s8" }), M.card("Redis", layers, { span: "s4" }), M.card("Memory used", memory.box, { span: "s4" }), M.card("Invalidation", invalidations, { span: "s4" }), M.card("Namespaces", spaces, { span: "s4" }), M.card("Hot keys", keys, { span: "s6" }), M.card("Keys by pattern", patterns, { span: "s6" })));
  return (what) => {
    if (what === "components") return;
    const cache = M.state.figures?.cache;
    if (!cache) return absent(tiles, "cache", "the cache");
    const { cacheHitStats: hits, memory: m, operations: o, redisStats: redis } = cache;
    tiles.replaceChildren(tileOf("Hit rate", M.percent(hits.hitRate), hits.hitRate === null ? "no reads yet" : `${M.count(hits.hits)} of ${M.count(hits.gets)} reads`), tileOf("Reads", M.rate(M.latest("reads")), `${M.seconds(o.getSecondsMean)} on average`, "reads", "/s"), tileOf("Writes", M.rate(M.latest("sets")), `${M.seconds(o.setSecondsMean)} on average`, "sets", "/s"), tileOf("In memory", M.count(m.entries), `${M.bytes(m.bytes)} of ${M.bytes(m.capacityBytes)}`, "memory", "entries"), tileOf("Errors", M.count(o.errors), `${M.count(m.evictions)} evicted, ${M.count(m.expirations)} expired`));
    const info = redis.redisInfo ?? {};
    layers.replaceChildren(M.facts([["State", redis.type === "none" ? "not configured" : M.status(redis.available ? "healthy" : "unhealthy", redis.available ? "available" : "not available")], ["Kind", redis.type], redis.primary && ["Primary", redis.primary], redis.breaker && ["Breaker", redis.breaker], redis.sentinel && ["Sentinels reached", `${redis.sentinel.reachable} of ${redis.sentinel.configured}`],
      ...Object.entries(info).slice(0, 6).map(([name, value]) => [name.replaceAll("_", " "), /bytes|memory/.test(name) && /^\d+$/.test(value) ? M.bytes(+value) : value])]));
    spaces.replaceChildren(M.table([["Namespace", (one) => one.namespace], ["Reads", (one) => M.count(one.gets), "n"], ["Hits", (one) => M.percent(one.gets ? one.hits / one.gets : null), "n"], ["Writes", (one) => M.count(one.sets), "n"]], [...cache.namespaces].sort((one, other) => other.gets - one.gets).slice(0, 20), "No namespace has been used yet."));
    reads.update(); memory.update();
  };
};

M.views.websockets = (root) => {
  const tiles = h("div", { class: "tiles" }), nodes = h("div");
  const clients = M.live("Connected clients", [["clients", "--c1", M.count, "connections"], ["subscriptions", "--c2", M.count, "subscriptions"]], { words: M.count });
  const messages = M.live("Messages per second", [["sent", "--c1", M.rate, "sent"], ["received", "--c4", M.rate, "received"]]);
  const connections = M.polled(3000, () => M.ask("/monitoring/websocket/connections?limit=50"), (answer) => h("div", {}, M.table([["User", (one) => [one.user || "anonymous", h("span", { class: "sub" }, [one.clientName, one.clientVersion].filter(Boolean).join(" ") || one.remote)]], ["Since", (one) => M.ago(one.connectedAt)], ["Channels", (one) => h("span", { title: one.channels.join(", ") }, M.count(one.channels.length)), "n"], ["Ping", (one) => M.seconds(one.pingSeconds), "n"], ["Waiting", (one) => M.bytes(one.queueBytes), "n"], ["Sent", (one) => M.count(one.messagesSent), "n"]], answer.connections, "Nobody is connected."), answer.total > answer.connections.length ? h("p", { class: "sub" }, `${answer.connections.length} of ${M.count(answer.total)} shown`) : null), "Connections cannot be shown");
  const channels = M.polled(5000, () => M.ask("/realtime/channels?limit=30"), (answer) => M.table([["Channel", (one) => h("code", {}, one.name)], ["Listeners", (one) => M.count(one.subscribers), "n"]], [...answer.channels].sort((one, other) => other.subscribers - one.subscribers), "Nobody listens to a channel."), "Channels cannot be shown");
  root.append(tiles, h("div", { class: "grid" }, M.card("Clients", clients.box, { span: "s6" }), M.card("Messages per second", messages.box, { span: "s6" }), M.card("Gateway nodes", nodes, { span: "s8" }), M.card("Channels", channels, { span: "s4" }), M.card("Connections", connections)));
  return (what) => {
    if (what === "components") return;
    const ws = M.state.figures?.websockets;
    if (!ws) return absent(tiles, "websockets", "the WebSocket gateway");
    tiles.replaceChildren(tileOf("Clients", M.count(ws.connections), `on ${ws.nodes.length} node${ws.nodes.length === 1 ? "" : "s"}`, "connections"), tileOf("Subscriptions", M.count(ws.subscriptions), ws.connections ? M.rate(ws.subscriptions / ws.connections) + " per client" : "", "subscriptions"), tileOf("Messages out", M.rate(M.latest("sent")), M.count(ws.messagesSent) + " since start", "sent", "/s"), tileOf("Messages in", M.rate(M.latest("received")), M.count(ws.messagesReceived) + " since start", "received", "/s"), tileOf("Dropped as too slow", M.count(ws.slowDisconnects), "clients since start"));
    nodes.replaceChildren(M.table([["Node", (one) => [one.id, h("span", { class: "sub" }, one.endpoint)]], ["State", (one) => one.draining ? M.status("degraded", "draining") : M.status("healthy", "open")], ["Clients", (one) => [`${M.count(one.connections)} of ${M.count(one.maxConnections)}`, M.meter(one.connections / (one.maxConnections || 1))]], ["Users", (one) => M.count(one.users), "n"], ["Channels", (one) => M.count(one.channels), "n"], ["Up", (one) => M.ago(one.startedAt), "n"]], ws.nodes, "No node is known."));
    clients.update(); messages.update();
  };
};

M.views.database = (root) => {
  const tiles = h("div", { class: "tiles" });
  const nodes = M.polled(2000, () => Promise.all(["health", "lag", "stats"].map((what) => M.ask("/database/replica/" + what))), ([health, lag, stats]) => {
    const of = (list, node) => list.nodes.find((one) => one.node === node) ?? {};
    return M.table([["Node", (one) => [M.status(one.health, one.node), h("span", { class: "sub" }, one.detail)]], ["Role", (one) => one.role], ["Takes", (one) => [one.reads && "reads", one.writes && "writes"].filter(Boolean).join(", ") || "nothing"],
      ["Behind", (one) => { const l = of(lag, one.node); return one.role === "primary" ? "–" : [M.seconds(l.stalenessSeconds), h("span", { class: "sub" }, l.lagBytes === undefined ? "" : M.bytes(l.lagBytes))]; }, "n"],
      ["Queries", (one) => M.count(of(stats, one.node).queries), "n"], ["Errors", (one) => M.count(of(stats, one.node).errors), "n"], ["Mean", (one) => M.seconds(of(stats, one.node).secondsMean), "n"], ["Probe", (one) => M.seconds(one.probeSeconds), "n"]], health.nodes, "No node is configured.");
  }, "The nodes cannot be shown");
  const pools = M.polled(3000, () => M.ask("/database/replica/pool-stats"), (answer) => M.table([["Node", (one) => [one.node, h("span", { class: "sub" }, one.pgbouncer ? "through PgBouncer" : "direct")]], ["In use", (one) => [`${one.inUse} of ${one.maxSize}`, M.meter(one.inUse / (one.maxSize || 1))]], ["Waiting", (one) => M.count(one.waiting), "n"], ["Timed out", (one) => M.count(one.timeouts), "n"]], answer.nodes, "No pool is open."), "The pools cannot be shown");
  const checks = M.polled(4000, () => M.ask("/monitoring/partitions/metrics"), ({ tables, switchoverReadiness: ready }) => tables.length === 0 ? M.empty("No table is being moved to partitions.") : h("div", { class: "stack" }, tables.map((table) => h("div", { class: "service" }, h("h3", {}, table.name, " ", M.chip(ready.tables?.[table.name]?.ready ? "ready" : "not ready", ready.tables?.[table.name]?.ready ? "good" : "warning")),
    M.facts([["Rows: legacy, partitioned", `${M.count(table.legacyRows)} · ${M.count(table.partitionedRows)}`], ["Difference", M.count(table.delta)], table.parity && ["Parity", table.parity.verdict ?? table.parity], ["Partitions", M.count(table.partitions)]]),
    h("ul", {}, (ready.tables?.[table.name]?.checks ?? []).map((check) => h("li", { class: "wrap" }, M.status({ pass: "healthy", fail: "unhealthy" }[check.state] ?? "unknown", check.name), h("span", {}, check.reason))))))), "Switchover readiness cannot be shown");
  const lagRows = { times: [], columns: new Map() };
  const lag = M.chart("Age of what replicas show", [["oldest replica", "--c3", M.seconds], ["freshest replica", "--c1", M.seconds]], () => [lagRows.times, ...["max", "min"].map((name) => lagRows.columns.get(name) ?? [])], { words: M.seconds });
  const pollLag = M.polled(2000, async () => { const answer = await M.ask("/database/replica/lag"); const ages = answer.nodes.map((one) => one.stalenessSeconds).filter((age) => typeof age === "number"); return ages; }, (ages) => {
    lagRows.times = [...lagRows.times, Date.now() / 1000].slice(-450);
    for (const [name, pick] of [["max", Math.max], ["min", Math.min]]) lagRows.columns.set(name, [...(lagRows.columns.get(name) ?? []), ages.length ? pick(...ages) : null].slice(-450));
    lag.update();
    return lag.box;
  }, "Lag cannot be shown");
  root.append(tiles, h("div", { class: "grid" }, M.card("Nodes", nodes, { span: "s8" }), M.card("Age of what replicas show", pollLag, { span: "s4" }), M.card("Connection pools", pools, { span: "s5" }), M.card("Switchover to partitions", checks, { span: "s7" })));
  return (what) => {
    if (what === "components") return;
    const db = M.state.figures?.replicas;
    if (!db) return absent(tiles, "replicas", "the database");
    const replicas = db.nodes.filter((node) => node.role === "replica"), reading = replicas.filter((node) => node.reads);
    tiles.replaceChildren(tileOf("Primary", db.primary ?? "none", db.nodes.find((node) => node.node === db.primary)?.address ?? "writes cannot be served"), tileOf("Replicas that take reads", `${reading.length}`, replicas.length === reading.length ? "all of them" : replicas.filter((node) => !node.reads).map((node) => node.node).join(", ") + " do not", null, `of ${replicas.length}`), tileOf("Position", db.nodes.find((node) => node.node === db.primary)?.lsn || "–", "timeline " + (db.nodes.find((node) => node.node === db.primary)?.timeline ?? "–")), tileOf("Reads may be stale by", M.seconds(db.routing.maxStalenessSeconds), "routing: " + db.routing.strategy));
  };
};
