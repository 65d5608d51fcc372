"use strict";
// One look tells whether all is well and, if not, what is wrong.

const WORDS = { healthy: "All is well", degraded: "Running, with something missing", unhealthy: "Something is down", unknown: "Looking…" };

/** Services with their components; the edge's own views of its peers are left out: they are the services themselves. */
M.services = () => (M.state.components?.services ?? []).map((service) => ({ ...service, components: service.components.filter((one) => !one.name.includes("@")) }));

M.verdict = () => {
  const { components, figures } = M.state, status = components?.status ?? "unknown";
  const faults = M.services().flatMap((service) => service.freshness === "fresh" || service.freshness === "absent"
    ? service.components.filter((one) => one.status === "unhealthy" || one.status === "degraded").map((one) => ({ status: one.status, text: `${one.name}: ${one.detail || one.status}`, where: service.service, since: one.since }))
    : [{ status: "unhealthy", text: service.reason ?? "does not answer", where: service.service }]);
  const alerts = figures?.alerts, firing = alerts ? alerts.critical + alerts.warning : null;
  // What fires and nobody looks after yet is part of the verdict too.
  const open = (alerts?.recent ?? []).filter((alert) => alert.state === "firing" && alert.level !== "info" && !alert.acknowledgement);
  const said = open.filter((alert) => !faults.some((fault) => fault.text.startsWith(alert.subject + ":")));
  faults.push(...said.map((alert) => ({ status: alert.level, text: alert.summary, where: alert.source, since: alert.firedAt })));
  return { status: status === "healthy" && open.length ? "degraded" : status, needsAttention: status === "healthy" && open.length > 0, faults, firing };
};

/** Memory, and the disk that is fullest. */
M.hostNote = (host) => {
  if (!host) return "not looked at";
  const fullest = Object.entries(host.disks).sort(([, one], [, other]) => other - one)[0];
  return ["memory " + M.percent(host.memoryUsedRatio), fullest && `disk ${M.percent(fullest[1])} at ${fullest[0]}`].filter(Boolean).join(" · ");
};

M.views.overview = (root) => {
  const hero = h("section", { class: "card verdict", "aria-label": "Verdict", "aria-live": "polite" });
  const tiles = h("div", { class: "tiles" }), services = h("div", { class: "services" }), alerts = h("div");
  const traffic = M.live("Requests per second", [["requests", "--c1", M.rate, "requests"], ["errors", "--c5", M.rate, "errors"]]);
  const latency = M.live("Time to answer", [["p50", "--c1", M.seconds, "p50"], ["p95", "--c3", M.seconds, "p95"], ["p99", "--c5", M.seconds, "p99"]], { words: M.seconds });
  let told = "";
  root.append(hero, tiles,
    h("div", { class: "grid" }, M.card("Requests at this door", traffic.box, { span: "s6" }), M.card("Time to answer", latency.box, { span: "s6" })),
    h("div", { class: "grid" }, M.card("Services and what they stand on", services, { span: "s8" }), M.card("Latest alerts", alerts, { span: "s4", tools: h("a", { href: "#alerts" }, "All alerts") })));

  const showVerdict = () => {
    const { status, needsAttention, faults, firing } = M.verdict(), uptime = M.state.figures?.system.uptime;
    const seen = JSON.stringify([status, Math.floor((uptime ?? 0) / 30), faults.map((fault) => fault.text), firing]);
    if (seen === told) return;
    told = seen;
    hero.className = "card verdict " + status;
    const mark = M.mark(status);
    mark.setAttribute("class", "mark st " + status);
    mark.style.fill = "var(--s)";
    hero.replaceChildren(h("div", { class: status }, mark), h("div", {}, h("h1", {}, needsAttention ? "Running, but look at this" : WORDS[status]),
      faults.length ? h("ul", {}, faults.slice(0, 6).map((fault) => h("li", {}, M.status(fault.status, ""), " ", fault.text, h("span", { class: "sub" }, ` · ${fault.where}${fault.since ? " · since " + M.time(fault.since) : ""}`))), faults.length > 6 ? h("li", {}, `and ${faults.length - 6} more`) : null)
        : h("p", {}, status === "healthy" ? "Every service answers, and everything they stand on works as configured." : M.state.components ? "No component says why: see below." : "")),
      h("div", { class: "side" }, firing ? h("a", { href: "#alerts" }, `${firing} alert${firing === 1 ? "" : "s"} firing`) : firing === 0 ? "No alert fires" : "", uptime ? h("div", {}, "up " + M.span(uptime)) : null));
  };
  const tile = (href, name, value, unit, note, spark) => h("a", { class: "card tile" + (spark ? "" : " plain"), href }, h("span", { class: "name" }, name), h("span", { class: "value" }, value, unit ? h("small", {}, " " + unit) : null), h("span", { class: "note" }, note), spark ? M.spark(spark) : null);
  const showTiles = () => {
    const f = M.state.figures;
    if (!f) return;
    const { cache, websockets, replicas, edge, host, parts } = f, away = (part) => parts[part]?.reason ?? "no answer";
    const nodes = replicas?.nodes ?? [], good = nodes.filter((node) => node.health === "healthy").length;
    tiles.replaceChildren(...[
      edge && tile("#performance", "Requests", M.rate(edge.requestsPerSecond), "/s", M.percent(edge.requestsPerSecond ? edge.errorsPerSecond / edge.requestsPerSecond : 0) + " failed", "requests"),
      edge && tile("#performance", "95 % answered within", M.seconds(edge.p95Seconds), "", edge.p50Seconds ? "half within " + M.seconds(edge.p50Seconds) : "no request in the last 10 s", "p95"),
      tile("#cache", "Cache hits", cache ? M.percent(cache.cacheHitStats.hitRate) : "–", "", cache ? (cache.cacheHitStats.hitRate === null ? "no reads yet" : M.rate(M.latest("reads")) + " reads/s") : away("cache"), "reads"),
      tile("#cache", "Redis", cache ? (cache.redisStats.available ? "up" : cache.redisStats.type === "none" ? "none" : "away") : "–", "", cache ? cache.redisStats.type + (cache.redisStats.primary ? " · " + cache.redisStats.primary : "") : away("cache"), "memory"),
      tile("#websockets", "WebSocket clients", websockets ? M.count(websockets.connections) : "–", "", websockets ? M.rate(M.latest("sent")) + " messages/s" : away("websockets"), "connections"),
      tile("#database", "PostgreSQL nodes", replicas ? `${good}` : "–", replicas ? `of ${nodes.length} well` : "", replicas ? (replicas.primary ? "primary: " + replicas.primary : "no primary known") : away("replicas")),
      tile("#performance", "Host", M.percent(host?.hosts[0]?.cpuUsedRatio), "CPU", host ? M.hostNote(host.hosts[0]) : away("host")),
    ].filter(Boolean));
  };
  const showServices = () => services.replaceChildren(...M.services().map((service) => h("div", { class: "service" },
    h("h3", {}, M.status(service.status, service.service)),
    h("p", { class: "where" }, service.endpoint === "self" ? "this door" : service.endpoint.replace("http://", ""), service.freshness === "stale" ? ` · as of ${M.span(service.ageSeconds)} ago` : ""),
    service.reason && service.freshness !== "fresh" ? h("p", { class: "sub" }, service.reason) : null,
    h("ul", {}, service.components.map((one) => h("li", { class: one.status === "healthy" || one.status === "unknown" ? "" : "wrap" }, M.status(one.status, one.name), h("span", { title: one.detail }, one.status === "healthy" && one.latencySeconds ? M.seconds(one.latencySeconds) : one.detail)))))));
  const showAlerts = () => {
    const recent = M.state.figures?.alerts?.recent;
    alerts.replaceChildren(!M.state.figures ? M.wait() : !recent ? M.fault("Alerts cannot be shown", M.state.figures.parts.alerts?.reason ?? "no answer") : recent.length === 0 ? M.empty("No alert so far.")
      : h("div", {}, recent.slice(0, 6).map((alert) => h("div", { class: "alert " + alert.state }, M.status(alert.state === "resolved" ? "resolved" : alert.level, ""), h("span", { class: "what" }, alert.summary), h("span", { class: "meta" }, alert.state, h("span", {}, M.ago(alert.resolvedAt ?? alert.firedAt ?? alert.startedAt)), alert.acknowledgement ? "acknowledged" : null)))));
  };
  return (what) => {
    if (what === "components" || !what) { showServices(); showVerdict(); }
    if (what === "figures" || !what) { showTiles(); showAlerts(); showVerdict(); traffic.update(); latency.update(); }
  };
};
