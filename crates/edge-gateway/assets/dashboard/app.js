"use strict";
// Which view is shown, the event stream, the session.

const VIEWS = [["overview", "Overview"], ["cache", "Cache"], ["websockets", "WebSockets"], ["database", "Database"], ["alerts", "Alerts"], ["performance", "Performance"], ["topology", "Topology"]];
/** Views that public figures are enough for. */
const PUBLIC = ["overview", "topology"];
const SILENT_AFTER = 4000;
let shown = "", update = () => {};

const wantedView = () => VIEWS.find(([name]) => "#" + name === location.hash)?.[0] ?? "overview";

function signIn() {
  const error = h("p", { class: "error", role: "alert" }, M.state.fault), key = h("input", { id: "key", type: "password", autocomplete: "off", required: true, spellcheck: "false" }), go = h("button", { class: "primary", type: "submit" }, "Sign in");
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    go.disabled = true; error.textContent = "";
    try { await M.signIn(key.value.trim()); } catch (failed) { error.textContent = failed.status === 401 ? "Those credentials are not known here." : failed.message; key.select(); } finally { go.disabled = false; }
  } }, h("label", {}, "API key or token", key), error, h("div", { class: "row" }, go));
  return h("section", { class: "card signin", "aria-label": "Sign in" }, h("h1", {}, "Sign in"), h("p", {}, "Figures and alerts need an API key or a JWT with the role viewer or higher. It is kept in this tab only."), form);
}

function show() {
  const view = wantedView(), locked = !M.state.key && !PUBLIC.includes(view);
  const wanted = view + (M.state.key ? "+" : "-");
  for (const link of $("nav").children) link.toggleAttribute("aria-current", false), link.hash === "#" + view && link.setAttribute("aria-current", "page");
  $("signout").hidden = !M.state.key;
  if (wanted === shown) return;
  shown = wanted;
  for (const leave of M.leaving.splice(0)) leave();
  const main = $("main");
  main.replaceChildren();
  document.title = `${VIEWS.find(([name]) => name === view)[1]} · Mainstay`;
  if (locked) { update = () => {}; main.append(signIn()); $("key").focus(); return; }
  update = view === "overview" && !M.state.key ? publicOverview(main) : M.views[view](main);
  update();
}
/** Without credentials: whether all is well, and the way in. */
function publicOverview(root) {
  const whole = h("div", { class: "skeleton" });
  const redraw = M.views.overview(whole), [hero, , , below] = whole.children;
  root.append(hero, h("div", { class: "grid" }, h("div", { class: "s7" }, below.firstElementChild), h("div", { class: "s5" }, signIn())));
  return (what) => { if (what !== "figures") redraw("components"); };
}

function told() {
  const silent = Date.now() - M.state.figuresAt > SILENT_AFTER, edgeAway = Date.now() - M.state.componentsAt > SILENT_AFTER + 2000, live = $("live");
  const text = edgeAway && M.state.componentsAt ? "the edge does not answer" : !M.state.key ? "public figures" : silent ? (M.state.live === "lost" ? "reconnecting…" : "connecting…") : "live";
  live.className = "live " + (text === "live" || text === "public figures" ? "on" : edgeAway ? "off" : "");
  if (live.textContent !== text) live.textContent = text;
  document.body.classList.toggle("away", edgeAway && M.state.componentsAt > 0);
  const { firing } = M.verdict(), link = $("nav").querySelector("a[href='#alerts']"), badge = link.querySelector("b");
  badge?.remove();
  if (firing) link.append(h("b", { class: M.state.figures.alerts.critical ? "critical" : "warning", "aria-label": `${firing} firing` }, String(firing)));
  $("foot").replaceChildren(h("span", {}, M.state.version ? "Mainstay " + M.state.version : ""), h("span", {}, M.state.componentsAt ? "as of " + new Date(Math.max(M.state.componentsAt, M.state.figuresAt)).toLocaleTimeString() : ""), h("a", { href: "/docs" }, "API documentation"), h("a", { href: "/health/status" }, "Health"));
}

async function pollComponents() {
  try {
    M.state.components = await M.ask("/health/components", { allow: [503] });
    M.state.componentsAt = Date.now();
    if (!M.state.version) M.state.version = (await M.ask("/health/status", { allow: [503] })).version;
    M.changed("components");
  } catch { M.changed("silence"); }
  setTimeout(pollComponents, document.hidden ? 10000 : 2000);
}

/** Reads the event stream; fetch instead of EventSource, which cannot send credentials. */
async function watch() {
  let last = "", wait = 500;
  for (;;) {
    if (!M.state.key) { await new Promise((on) => setTimeout(on, 300)); continue; }
    const key = M.state.key, stop = new AbortController();
    try {
      const answer = await fetch("/monitoring/live", { headers: { ...M.credentials(), ...(last ? { "last-event-id": last } : {}) }, cache: "no-store", signal: stop.signal });
      if (answer.status === 401) { M.signOut("Those credentials are not accepted any more."); continue; }
      if (!answer.ok) throw new Error("HTTP " + answer.status);
      M.state.live = "on"; wait = 500;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; M.state.key === key;) {
        // A stream that says nothing for long is as good as broken.
        const timer = setTimeout(() => stop.abort(), 15000);
        const { value, done } = await reader.read().finally(() => clearTimeout(timer));
        if (done) break;
        const events = (rest + value).split("\n\n"); rest = events.pop();
        for (const event of events) last = take(event) ?? last;
      }
    } catch { /* tried again below */ } finally { stop.abort(); }
    M.state.live = "lost"; M.changed("silence");
    await new Promise((on) => setTimeout(on, wait)); wait = Math.min(wait * 2, 8000);
  }
}
function take(event) {
  const fields = Object.fromEntries(event.split("\n").map((line) => { const at = line.indexOf(": "); return [line.slice(0, at), line.slice(at + 2)]; }));
  if (fields.event === "figures") {
    M.state.figures = JSON.parse(fields.data); M.state.figuresAt = Date.now();
    M.remember(M.state.figures, Number(fields.id) / 1000);
    M.changed("figures");
  } else if (fields.event === "alert") {
    const alert = JSON.parse(fields.data);
    if (alert.state === "firing" && !alert.acknowledgement) M.toast(alert.summary);
    M.changed("alert");
  }
  return fields.id;
}

const ICONS = { auto: "M12 3a9 9 0 1 0 0 18V3z", light: "M12 7a5 5 0 1 0 0 10 5 5 0 0 0 0-10zM12 1v3M12 20v3M1 12h3M20 12h3M4.2 4.2l2.1 2.1M17.7 17.7l2.1 2.1M4.2 19.8l2.1-2.1M17.7 6.3l2.1-2.1", dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z" };
function theme(to) {
  document.documentElement.dataset.theme = to; localStorage.setItem("mainstay.theme", to);
  const names = { auto: "as the system has them", light: "light", dark: "dark" };
  $("theme").setAttribute("aria-label", "Colours: " + names[to]); $("theme").title = "Colours: " + names[to];
  $("theme").replaceChildren(h("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, h("path", { d: ICONS[to], fill: to === "light" ? "none" : "currentColor", stroke: "currentColor", "stroke-width": 2, "stroke-linecap": "round" })));
  M.changed("figures");
}

$("nav").append(...VIEWS.map(([name, text]) => h("a", { href: "#" + name }, text)));
$("theme").addEventListener("click", () => theme({ auto: "light", light: "dark", dark: "auto" }[document.documentElement.dataset.theme]));
$("signout").addEventListener("click", () => M.signOut());
// Digits go to the views, as long as nobody types.
addEventListener("keydown", (event) => { const view = VIEWS[event.key - 1]; if (view && !event.ctrlKey && !event.altKey && !event.metaKey && !/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) && !$("dialog").open) location.hash = view[0]; });
addEventListener("hashchange", () => { show(); $("main").focus({ preventScroll: true }); scrollTo(0, 0); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => requestAnimationFrame(() => M.changed("figures")));
M.listeners.add((what) => { if (what === "session") show(); else if (what !== "silence") update(what); told(); });
setInterval(told, 1000);
theme(document.documentElement.dataset.theme);
show(); told(); pollComponents(); watch();
