"use strict";
// Performance and topology.

const SERIES = [
  ["Requests at the edge", "mainstay_edge_requests_total", { service: "edge-gateway" }, M.rate], ["Calls between services", "mainstay_rpc_requests_total", {}, M.rate],
  ["Cache reads", "mainstay_cache_gets_total", {}, M.rate], ["WebSocket clients", "mainstay_ws_connections", {}, M.count], ["Messages sent", "mainstay_ws_messages_sent_total", {}, M.rate],
  ["Resident memory", "mainstay_process_resident_bytes", {}, M.bytes], ["CPU seconds per second", "mainstay_process_cpu_seconds_total", {}, M.rate],
];
const SPANS = [["15 min", 15], ["1 h", 60], ["6 h", 360], ["24 h", 1440]];

M.views.performance = (root) => {
  const routes = M.polled(4000, () => M.ask("/monitoring/performance/endpoints"), (answer) => M.table([["Route", (one) => [h("code", {}, one.name), h("span", { class: "sub" }, one.service)]], ["Per second", (one) => M.rate(one.perSecond), "n"], ["Failed", (one) => M.percent(one.errorShare), "n"], ["Refused", (one) => M.percent(one.refusedShare), "n"], ["p50", (one) => M.seconds(one.p50Seconds ?? one.meanSeconds), "n"], ["p95", (one) => M.seconds(one.p95Seconds), "n"], ["p99", (one) => M.seconds(one.p99Seconds), "n"]], answer.endpoints.slice(0, 25), "Nothing was asked in the last minutes."), "Routes cannot be shown");
  const bottlenecks = M.polled(5000, () => M.ask("/monitoring/performance/bottlenecks"), (answer) => answer.bottlenecks.length === 0 ? M.empty("Nothing holds the system up.") : h("div", {}, answer.bottlenecks.slice(0, 8).map((one) => h("div", { class: "alert" }, M.status(one.score > 0.8 ? "critical" : one.score > 0.5 ? "warning" : "info", ""), h("span", { class: "what" }, one.summary), h("span", { class: "meta" }, M.chip(one.kind, ""), h("span", {}, [one.source, one.subject].filter(Boolean).join(" · ")), (one.evidence ?? []).slice(0, 2).map((proof) => h("code", {}, `${proof.metric} ${M.rate(proof.value)} against ${M.rate(proof.level)}`)))))), "Bottlenecks cannot be shown");
  const forecasts = M.polled(10000, () => M.ask("/monitoring/forecasts"), (answer) => M.table([["Resource", (one) => [one.metric.replace(/^mainstay_/, "").replaceAll("_", " "), h("span", { class: "sub" }, Object.values(one.labels).join(" · "))]], ["Now", (one) => one.limit === 1 ? [M.percent(one.now), M.meter(one.now)] : M.rate(one.now)], ["Expected", (one) => one.limit === 1 ? `${M.percent(one.lower)} – ${M.percent(one.upper)}` : `${M.rate(one.lower)} – ${M.rate(one.upper)}`, "n"], ["Full in", (one) => one.reaches ? M.span(one.reaches.afterSeconds) : "not in sight", "n"]], answer.forecasts.slice(0, 12), "Nothing is known for long enough to foretell anything."), "Forecasts cannot be shown");
  // One figure over time with the band in which it was expected.
  let [series, span] = [SERIES[0], SPANS[0]], data = [[], [], [], []], banded = false;
  const words = (value) => series[3](value);
  const chart = M.chart("A figure over time", [["highest expected", "--c2", words], ["lowest expected", "--c2", words], ["seen", "--c1", words]], () => data, { height: 280, bands: [[1, 2]], words });
  const note = h("p", { class: "sub" });
  const load = async () => {
    const step = Math.max(10, (span[1] * 60) / 240);
    try {
      const past = await M.history(series[1], { labels: series[2], minutes: span[1], step });
      const band = await expected(past);
      data = [past.map(([at]) => at), band.map(([, top]) => top), band.map(([low]) => low), past.map(([, value]) => value)];
      banded = past.length > 13;
      note.textContent = past.length ? (banded ? "The band is where the figure was expected from what came before it (exponentially weighted mean, three standard deviations)." : "Too little is known for a band.") : "The monitor has no history of this figure yet.";
    } catch (error) { note.textContent = "Not fresh: " + error.message; }
    chart.update();
  };
  const choose = (label, choices, now, set) => h("select", { "aria-label": label, onchange: (event) => { set(choices[event.target.value]); load(); } }, choices.map(([text], index) => h("option", { value: index, selected: choices[index] === now }, text)));
  root.append(h("div", { class: "grid" }, M.card("A figure over time, and what was expected of it", h("div", {}, chart.box, note), { span: "s8", tools: h("div", { class: "row" }, choose("Figure", SERIES, series, (to) => { series = to; }), choose("Span", SPANS, span, (to) => { span = to; })) }), M.card("What holds the system up", bottlenecks, { span: "s4" }), M.card("Routes and methods, the busiest first", routes, { span: "s7" }), M.card("Where resources go", forecasts, { span: "s5" })));
  const timer = setInterval(load, 5000);
  M.onLeave(() => clearInterval(timer));
  load();
  return () => {};
};
/** What each point was expected to be from those before it: an exponentially weighted mean with its deviation. */
const expected = async (points) => {
  let mean = null, variance = 0, seen = 0;
  return points.map(([, value]) => {
    const width = 3 * Math.sqrt(variance), band = seen > 12 ? [Math.max(0, mean - width), mean + width] : [null, null];
    if (mean === null) mean = value;
    const off = value - mean;
    mean += 0.15 * off;
    variance = 0.85 * (variance + 0.15 * off * off);
    seen += 1;
    return band;
  });
};

M.views.topology = (root) => {
  const map = h("div", { class: "topology scroll", tabindex: "0", role: "region", "aria-label": "Map of the services" }), table = h("div");
  root.append(M.card("Who stands on whom", map), M.card("Components", table));
  const draw = () => {
    const services = M.services();
    if (!services.length) { map.replaceChildren(M.wait()); return; }
    const [w, hgt, gap, left] = [200, 52, 18, [20, 300, 640]];
    const edge = services.filter((one) => one.endpoint === "self"), behind = services.filter((one) => one.endpoint !== "self");
    const stores = behind.flatMap((service) => service.components.filter((one) => one.kind === "datastore" || one.kind === "upstream").map((one) => ({ ...one, of: service })));
    // A store that several stand on is drawn once for each: whoever loses it is seen.
    const rows = Math.max(behind.length, stores.length, 1), tall = rows * (hgt + gap) + 20;
    const place = (count, index) => 10 + (tall - 20) * ((index + 0.5) / count) - hgt / 2;
    const node = (x, y, status, name, note, stale) => h("g", { class: `node ${status} ${stale ? "stale" : ""}`, transform: `translate(${x},${y})` }, h("title", {}, `${name}: ${status}${note ? ", " + note : ""}`), h("rect", { class: "box", width: w, height: hgt, rx: 10 }), h("g", { class: status, transform: "translate(14,20)" }, h("path", { class: "mark", d: SHAPES[status] ?? SHAPES.unknown })), h("text", { x: 36, y: 23 }, name.length > 22 ? name.slice(0, 21) + "…" : name), h("text", { class: "sub", x: 36, y: 40 }, (note ?? "").length > 27 ? note.slice(0, 26) + "…" : note ?? ""));
    const wire = (x1, y1, x2, y2, status) => h("path", { class: "wire " + ({ unhealthy: "bad", degraded: "warn" }[status] ?? ""), d: `M${x1},${y1}C${(x1 + x2) / 2},${y1} ${(x1 + x2) / 2},${y2} ${x2},${y2}` });
    const parts = [], wires = [], [ey] = [place(1, 0)];
    edge.forEach((one) => parts.push(node(left[0], ey, one.status, one.service, "this door")));
    behind.forEach((service, index) => {
      const y = place(behind.length, index), lost = service.freshness !== "fresh";
      wires.push(wire(left[0] + w, ey + hgt / 2, left[1], y + hgt / 2, lost ? "unhealthy" : service.status === "unhealthy" ? "degraded" : "healthy"));
      parts.push(node(left[1], y, service.status, service.service, service.endpoint.replace("http://", ""), lost));
      stores.forEach((store, at) => {
        if (store.of !== service) return;
        const sy = place(stores.length, at);
        wires.push(wire(left[1] + w, y + hgt / 2, left[2], sy + hgt / 2, store.status));
        parts.push(node(left[2], sy, store.status, store.name, store.detail, lost));
      });
    });
    map.replaceChildren(h("svg", { viewBox: `0 0 ${left[2] + w + 20} ${tall}`, role: "img", "aria-label": `${services.length} services, ${stores.length} things they stand on` }, wires, parts));
    table.replaceChildren(M.table([["Component", (one) => M.status(one.status, one.name)], ["Of", (one) => one.of], ["Kind", (one) => one.kind + (one.critical ? ", critical" : "")], ["Detail", (one) => one.detail || "–"], ["Latency", (one) => M.seconds(one.latencySeconds), "n"], ["Since", (one) => M.ago(one.since), "n"]], services.flatMap((service) => service.components.map((one) => ({ ...one, of: service.service }))), "No component reports."));
  };
  return (what) => { if (what === "components" || !what) draw(); };
};
