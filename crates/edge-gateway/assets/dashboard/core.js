"use strict";
// What every view stands on: elements, words for figures, the REST client, the state.
const M = { views: {} };

/** Makes an element: h("p", { class: "note", onclick: f }, "text", child). Text never becomes markup. */
M.h = (tag, props = {}, ...children) => {
  const svg = ["svg", "path", "rect", "g", "text", "circle", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};
const h = M.h, $ = (id) => document.getElementById(id);

const SHAPES = {
  healthy: "M6 0a6 6 0 1 1 0 12A6 6 0 0 1 6 0z", degraded: "M6 .5 12 11.5H0z", unhealthy: "M1 1h10v10H1z",
  unknown: "M6 0a6 6 0 1 1 0 12A6 6 0 0 1 6 0zm0 2.2a3.8 3.8 0 1 0 0 7.6 3.8 3.8 0 0 0 0-7.6z",
};
const SHAPE_OF = { ready: "healthy", warning: "degraded", pending: "degraded", critical: "unhealthy", firing: "unhealthy", resolved: "unknown", info: "unknown" };
/** A mark that tells by shape, not only by colour. */
M.mark = (status) => h("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, h("path", { d: SHAPES[SHAPE_OF[status] ?? status] ?? SHAPES.unknown }));
M.status = (status, text = status) => h("span", { class: "st " + status, title: text === status ? null : status }, M.mark(status), h("span", {}, text));
M.chip = (text, kind = text) => h("span", { class: "chip " + kind }, text);

// ---- words for figures
const none = (value) => value === null || value === undefined || Number.isNaN(value);
M.count = (value) => none(value) ? "–" : Math.abs(value) >= 1e6 ? (value / 1e6).toFixed(2) + " M" : Math.round(value).toLocaleString("en");
M.rate = (value) => none(value) ? "–" : value >= 100 ? Math.round(value).toLocaleString("en") : value >= 10 ? value.toFixed(1) : value.toFixed(2).replace(/\.?0+$/, "");
M.percent = (share) => none(share) ? "–" : (share * 100).toFixed(share > 0.9995 || share === 0 ? 0 : 1) + " %";
M.bytes = (value) => { if (none(value)) return "–"; let n = value; for (const unit of ["B", "KiB", "MiB", "GiB"]) { if (n < 1024) return (n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)) + " " + unit; n /= 1024; } return n.toFixed(1) + " TiB"; };
M.seconds = (s) => none(s) ? "–" : s === 0 ? "0 ms" : s < 0.001 ? (s * 1e6).toFixed(0) + " µs" : s < 1 ? (s * 1000).toFixed(s < 0.01 ? 1 : 0) + " ms" : s < 90 ? s.toFixed(s < 10 ? 1 : 0) + " s" : M.span(s);
M.span = (s) => s < 90 ? Math.round(s) + " s" : s < 5400 ? Math.round(s / 60) + " min" : s < 172800 ? Math.round(s / 3600) + " h" : Math.round(s / 86400) + " d";
M.ago = (text) => none(text) ? "–" : M.span(Math.max(0, (Date.now() - new Date(text)) / 1000)) + " ago";
M.time = (text) => none(text) ? "–" : new Date(text).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

// ---- state and session
M.state = { key: sessionStorage.getItem("mainstay.key"), figures: null, figuresAt: 0, components: null, componentsAt: 0, version: "", live: "off", fault: "" };
M.listeners = new Set();
M.changed = (what) => { for (const tell of [...M.listeners]) tell(what); };
M.credentials = () => { const key = M.state.key; return !key ? {} : key.split(".").length === 3 ? { authorization: "Bearer " + key } : { "x-api-key": key }; };

/** Asks the edge; a problem document becomes an error with its words. */
M.ask = async (path, { method = "GET", body, allow = [] } = {}) => {
  const headers = { ...M.credentials(), ...(body ? { "content-type": "application/json" } : {}) };
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(6000), cache: "no-store" });
  if (!answer.ok && !allow.includes(answer.status)) {
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 401 && M.state.key) M.signOut("Those credentials are not accepted any more.");
    throw Object.assign(new Error(problem.detail ?? "HTTP " + answer.status), { status: answer.status, code: problem.code });
  }
  return answer.json();
};
M.signIn = async (key) => {
  M.state.key = key;
  // Tells whether the key is good, and gives everything to show at once.
  let first;
  try { first = await M.ask("/monitoring/dashboard"); } catch (error) { M.state.key = null; throw error; }
  const now = Date.now();
  Object.assign(M.state, { figures: first.figures, figuresAt: now, components: first.components, componentsAt: now, version: first.version });
  sessionStorage.setItem("mainstay.key", key);
  M.changed("session");
};
M.signOut = (why = "") => {
  Object.assign(M.state, { key: null, figures: null, figuresAt: 0, fault: why });
  sessionStorage.removeItem("mainstay.key");
  M.changed("session");
};
M.toast = (text) => { const box = $("toast"); box.textContent = text; box.classList.add("on"); clearTimeout(M.toast.timer); M.toast.timer = setTimeout(() => box.classList.remove("on"), 4000); };

// ---- small pieces that several views use
M.card = (title, body, { span = "", tools } = {}) => h("section", { class: "card " + span, "aria-label": title },
  tools ? h("div", { class: "head" }, h("h2", {}, title), tools) : h("h2", {}, title), body);
M.empty = (text) => h("div", { class: "empty" }, M.mark("healthy"), h("span", {}, text));
M.fault = (what, error) => h("div", { class: "fault", role: "alert" }, M.mark("unhealthy"), h("span", {}, what + ": " + error));
M.wait = () => h("div", { class: "wait", "aria-busy": "true" }, "Loading…");
M.meter = (share) => {
  const level = h("i");
  level.style.width = Math.min(100, share * 100).toFixed(1) + "%";
  const kind = share > 0.95 ? "critical" : share > 0.8 ? "warning" : "";
  return h("div", { class: "meter " + kind, role: "meter", "aria-label": "share in use", "aria-valuenow": Math.round(share * 100), "aria-valuemin": 0, "aria-valuemax": 100 }, level);
};
M.facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
/** A table; a column is [title, cell(row), "n" for numbers]. */
M.table = (columns, rows, empty) => rows.length === 0 ? M.empty(empty) : h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": columns[0][0] + " table" }, h("table", {},
  h("thead", {}, h("tr", {}, columns.map(([title, , kind]) => h("th", { class: kind, scope: "col" }, title)))),
  h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row))))))));
/** Asks again and again while its view is shown; shows what came, or why nothing did, keeping what was there. */
M.polled = (every, load, render, what) => {
  const box = h("div", {}, M.wait());
  let known = false, timer, gone = false;
  const turn = async () => {
    try { box.replaceChildren(render(await load())); known = true; box.classList.remove("stale"); box.title = ""; }
    catch (error) {
      if (gone || error.status === 401) return;
      if (known) { box.classList.add("stale"); box.title = "not fresh: " + error.message; } else box.replaceChildren(M.fault(what ?? "Cannot be shown", error.message));
    }
    if (!gone) timer = setTimeout(turn, every);
  };
  turn();
  M.onLeave(() => { gone = true; clearTimeout(timer); });
  return box;
};
M.leaving = [];
M.onLeave = (act) => M.leaving.push(act);
