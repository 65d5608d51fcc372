"use strict";
// Series over time: what the page saw itself, after what the monitor remembers from before.

/** Points kept of one figure: a quarter of an hour of seconds. */
const KEPT = 900;
/** Figures of the stream: `of` reads one, counters become a rate per second. `metric` is its name in the history. */
M.FIGURES = {
  requests: { of: (f) => f.edge?.requestsPerSecond },
  errors: { of: (f) => f.edge?.errorsPerSecond },
  p50: { of: (f) => f.edge?.p50Seconds },
  p95: { of: (f) => f.edge?.p95Seconds },
  p99: { of: (f) => f.edge?.p99Seconds },
  reads: { of: (f) => f.cache?.cacheHitStats.gets, counter: true },
  l1: { of: (f) => f.cache?.cacheHitStats.l1Hits, counter: true },
  l2: { of: (f) => f.cache?.cacheHitStats.l2Hits, counter: true },
  misses: { of: (f) => f.cache?.cacheHitStats.misses, counter: true },
  hits: { of: (f) => f.cache?.cacheHitStats.hits, counter: true },
  sets: { of: (f) => f.cache?.operations.sets, counter: true },
  memory: { of: (f) => f.cache?.memory.bytes },
  connections: { of: (f) => f.websockets?.connections, metric: "mainstay_ws_connections" },
  subscriptions: { of: (f) => f.websockets?.subscriptions, metric: "mainstay_ws_subscriptions" },
  sent: { of: (f) => f.websockets?.messagesSent, counter: true, metric: "mainstay_ws_messages_sent_total" },
  received: { of: (f) => f.websockets?.messagesReceived, counter: true, metric: "mainstay_ws_messages_received_total" },
};
const rings = Object.fromEntries(Object.keys(M.FIGURES).map((name) => [name, { points: [], last: null, seeded: false }]));

/** Takes in one event of the stream. */
M.remember = (figures, at) => {
  for (const [name, figure] of Object.entries(M.FIGURES)) {
    const ring = rings[name], value = figure.of(figures);
    if (value === null || value === undefined) { ring.last = null; ring.points.push([at, null]); }
    else if (!figure.counter) ring.points.push([at, value]);
    else {
      // A counter that falls was started anew: its rate is not known at that moment.
      if (ring.last && at > ring.last[0] && value >= ring.last[1]) ring.points.push([at, (value - ring.last[1]) / (at - ring.last[0])]);
      ring.last = [at, value];
    }
    if (ring.points.length > KEPT) ring.points.splice(0, ring.points.length - KEPT);
  }
};
M.points = (name) => rings[name].points;
M.latest = (name) => { const points = rings[name].points; return points.length ? points[points.length - 1][1] : null; };

/** Fetches the history of a metric, summed over its series; counters as rates. */
M.history = async (metric, { labels = {}, minutes = 15, step = 10 } = {}) => {
  const from = new Date(Date.now() - minutes * 60e3).toISOString().slice(0, 19) + "Z";
  const answer = await M.ask("/monitoring/history?" + new URLSearchParams({ metric, from, step: step + "s", ...labels }));
  const sums = new Map();
  for (const series of answer.series) {
    let before = null;
    for (const point of series.points) {
      const at = new Date(point.at) / 1000, counter = metric.endsWith("_total");
      const value = !counter ? point.last : before && point.last >= before[1] ? (point.last - before[1]) / (at - before[0]) : null;
      before = [at, point.last];
      if (value !== null) sums.set(at, (sums.get(at) ?? 0) + value);
    }
  }
  return [...sums].sort((one, other) => one[0] - other[0]);
};
/** Puts the monitor's history before what the page saw itself; without a monitor the page begins with itself. */
M.seed = async (name) => {
  const { metric } = M.FIGURES[name], ring = rings[name];
  if (ring.seeded || !metric) return;
  ring.seeded = true;
  try {
    const past = await M.history(metric), first = ring.points[0]?.[0] ?? Infinity;
    ring.points.unshift(...past.filter(([at]) => at < first - 1));
  } catch { ring.seeded = false; }
};

/** A line without axes, for tiles. */
M.spark = (name) => {
  const points = M.points(name).filter(([, value]) => value !== null).slice(-120);
  const svg = h("svg", { class: "spark", viewBox: "0 0 100 40", preserveAspectRatio: "none", "aria-hidden": "true" });
  if (points.length < 2) return svg;
  const values = points.map(([, value]) => value), top = Math.max(...values), low = Math.min(0, ...values), width = top - low || 1;
  const [t0, t1] = [points[0][0], points[points.length - 1][0]];
  const line = points.map(([at, value]) => `${(((at - t0) / (t1 - t0)) * 100).toFixed(2)},${(37 - ((value - low) / width) * 32).toFixed(2)}`).join("L");
  svg.append(h("path", { class: "area", d: `M0,40L${line}L100,40Z` }), h("path", { d: "M" + line }));
  return svg;
};

const colour = (name) => {
  // light-dark() is resolved by the browser only in a real property.
  const probe = $("live"), before = probe.style.color;
  probe.style.color = `var(${name})`;
  const seen = getComputedStyle(probe).color;
  probe.style.color = before;
  return seen;
};
const faded = (rgb, share) => rgb.replace(/^rgba?\(([^)]+)\)$/, (_, parts) => `rgba(${parts.split(/[ ,/]+/).slice(0, 3).join(",")},${share})`);

/**
 * A chart of several lines over the same time. `lines` are [title, colour variable, words]; `rows()` gives
 * [[time...], [values...]...]. `bands` are pairs of line numbers that are filled between.
 */
M.chart = (label, lines, rows, { height = 190, bands = [], words = M.rate } = {}) => {
  const box = h("figure", { class: "chart", role: "img", "aria-label": label });
  const nothing = h("div", { class: "nothing" }, "nothing to draw yet");
  let plot = null, width = 0, theme = "";
  const tell = (data) => {
    const now = lines.map(([title, , say]) => { const column = data[lines.findIndex((line) => line[0] === title) + 1]; return `${title} ${(say ?? words)(column?.findLast((value) => value !== null))}`; });
    box.setAttribute("aria-label", `${label}: ${now.join(", ")}`);
  };
  const draw = (data) => {
    const [ink, grid] = [colour("--faint"), faded(colour("--line"), 0.8)];
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const stroke = lines.map(([, name]) => colour(name));
    plot?.destroy();
    box.replaceChildren();
    const short = (ticks) => ticks.length > 1 && ticks[ticks.length - 1] - ticks[0] < 240;
    const clock = (at, seconds) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: seconds ? "2-digit" : undefined, hour12: false });
    // Lines that say the same as the one below them say it once: so do the small figures of what has no fractions, like bytes.
    const said = (ticks) => { const texts = ticks.map((tick) => words(tick)); return texts.map((text, index) => text === texts[index - 1] ? "" : text); };
    // A line needs two points side by side; one alone is a dot.
    const alone = (u, series) => { const column = u.data[series]; return [...column.keys()].filter((at) => (column[at] ?? null) !== null && (column[at - 1] ?? null) === null && (column[at + 1] ?? null) === null); };
    plot = new uPlot({
      width, height, padding: [8, 12, 0, 0], legend: { markers: { width: 0, fill: (_, index) => stroke[index - 1] ?? "transparent" } }, cursor: { points: { size: 7 }, drag: { x: true, y: false } },
      scales: { y: { range: (_, low, top) => [Math.min(0, low), top <= 0 ? 1 : top * 1.08] } },
      axes: [{ ...axis, space: 80, incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600], values: (_, ticks) => ticks.map((at) => clock(at, short(ticks))) }, { ...axis, size: 62, values: (_, ticks) => said(ticks) }],
      series: [{ value: (_, at) => at === null ? "–" : new Date(at * 1000).toLocaleTimeString() },
        ...lines.map(([title, , say], index) => ({ label: title, stroke: stroke[index], width: 1.75, fill: lines.length === 1 ? faded(stroke[index], 0.1) : undefined, spanGaps: false, points: { show: false, filter: alone, size: 5, fill: stroke[index] }, value: (_, value) => (say ?? words)(value) }))],
      // Only then does the legend stay as it is told.
      hooks: { ready: [(u) => u.setLegend({ idx: u.data[0].length - 1 })] },
      bands: bands.map(([from, to]) => ({ series: [from, to], fill: faded(stroke[from - 1], 0.14) })),
    }, data, box);
  };
  const update = () => {
    const data = rows(), wanted = box.clientWidth, seen = document.documentElement.dataset.theme + matchMedia("(prefers-color-scheme: dark)").matches;
    if (!wanted) return;
    if (!data[0].length) { plot?.destroy(); plot = null; box.replaceChildren(nothing); return; }
    if (!plot || theme !== seen || width !== wanted) { [width, theme] = [wanted, seen]; draw(data); } else plot.setData(data);
    // Without a pointer the legend tells the newest figures.
    if (plot.cursor.idx === null || plot.cursor.idx === undefined || plot.cursor.left < 0) plot.setLegend({ idx: data[0].length - 1 });
    tell(data);
  };
  const resized = new ResizeObserver(update);
  resized.observe(box);
  M.onLeave(() => { resized.disconnect(); plot?.destroy(); });
  return { box, update };
};
/** Lines of the stream's figures on one time axis. */
M.live = (label, lines, options) => {
  const names = lines.map((line) => line[3]);
  names.forEach(M.seed);
  const rows = () => {
    const times = [...new Set(names.flatMap((name) => M.points(name).map(([at]) => at)))].sort((one, other) => one - other);
    return [times, ...names.map((name) => { const known = new Map(M.points(name)); return times.map((at) => known.get(at) ?? null); })];
  };
  return M.chart(label, lines, rows, options);
};
