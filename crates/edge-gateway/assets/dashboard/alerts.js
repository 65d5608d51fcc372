"use strict";
// Alerts: what fires, who looks after it, what is kept quiet.

const FOR = [["until it ends", ""], ["30 minutes", "30m"], ["2 hours", "2h"], ["8 hours", "8h"], ["1 day", "1d"]];

/** Asks a question over the page; `send` gets the form's fields and may refuse by throwing. */
M.dialog = (title, text, fields, verb, send) => {
  const box = $("dialog"), error = h("p", { class: "error", role: "alert" }), go = h("button", { class: "primary", type: "submit" }, verb);
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    go.disabled = true;
    try { await send(Object.fromEntries(new FormData(form))); box.close(); } catch (failed) { error.textContent = failed.message; } finally { go.disabled = false; }
  } }, fields, error, h("div", { class: "row" }, h("button", { type: "button", onclick: () => box.close() }, "Cancel"), go));
  box.replaceChildren(h("h2", { id: "dialog-title" }, title), h("p", {}, text), form);
  box.showModal();
};
const field = (label, control) => h("label", {}, label, control);
const pick = (name, choices) => h("select", { name }, choices.map(([text, value]) => h("option", { value }, text)));

M.acknowledge = (alert, done) => M.dialog("Acknowledge", alert.summary, [field("Comment", h("input", { name: "comment", maxlength: 1000, placeholder: "what is being done about it", autocomplete: "off" })), field("Holds", pick("expiresIn", FOR))], "Acknowledge", async ({ comment, expiresIn }) => {
  await M.ask("/monitoring/unified/acknowledge-alert", { method: "POST", body: { alertId: alert.id, comment, ...(expiresIn ? { expiresIn } : {}) } });
  M.toast("Acknowledged.");
  done();
});
M.silence = (alert, done) => M.dialog("Silence", `No notification about ${alert.subject || alert.source} for a time. The alert itself goes on.`, [field("For", pick("duration", FOR.slice(1))), field("What is kept quiet", pick("scope", [["this rule for this subject", "one"], ["everything about this subject", "subject"], ["this rule everywhere", "rule"]])), field("Why", h("input", { name: "comment", required: true, maxlength: 1000, autocomplete: "off" }))], "Silence", async ({ duration, scope, comment }) => {
  const matchers = { one: { rule: alert.rule, subject: alert.subject }, subject: { subject: alert.subject }, rule: { rule: alert.rule } }[scope];
  await M.ask("/monitoring/alerts/silences", { method: "POST", body: { matchers, duration, comment } });
  M.toast("Silenced.");
  done();
});

M.views.alerts = (root) => {
  let wanted = "open", shown = "";
  const list = h("div", { "aria-live": "polite" }, M.wait()), choices = h("div", { class: "seg", role: "group", "aria-label": "Which alerts" });
  const card = M.card("Alerts", list, { tools: choices });
  const entry = (alert) => {
    const acknowledged = alert.acknowledgement, over = alert.state === "resolved";
    return h("article", { class: "alert " + alert.state, "data-about": alert.subject, "data-state": alert.state },
      M.status(over ? "resolved" : alert.level, ""), h("span", { class: "what" }, alert.summary),
      h("span", { class: "acts" }, over ? null : [acknowledged ? null : h("button", { type: "button", onclick: () => M.acknowledge(alert, load) }, "Acknowledge"), h("button", { type: "button", class: "quiet", onclick: () => M.silence(alert, load) }, "Silence")]),
      h("span", { class: "meta" }, M.chip(alert.state, alert.state === "firing" ? alert.level : alert.state), h("span", {}, alert.source), h("span", {}, over ? `ended ${M.ago(alert.resolvedAt)}` : `since ${M.ago(alert.startedAt).replace(" ago", "")}`), h("span", {}, "rule ", h("code", {}, alert.rule)),
        acknowledged ? h("span", { class: "by" }, `acknowledged by ${acknowledged.by}${acknowledged.comment ? ": " + acknowledged.comment : ""}`) : null));
  };
  const load = async () => {
    try {
      const state = { open: "?state=firing,pending&limit=200", over: "?state=resolved&limit=50", all: "?limit=100" }[wanted];
      const { alerts, firing } = await M.ask("/monitoring/unified/alerts" + state);
      const seen = JSON.stringify([wanted, alerts, Math.floor(Date.now() / 20000)]);
      list.classList.remove("stale");
      if (seen === shown) return;
      shown = seen;
      list.replaceChildren(...(alerts.length ? alerts.map(entry) : [M.empty(wanted === "over" ? "Nothing has ended lately." : firing.critical + firing.warning ? "Nothing here." : "Nothing fires. Everything that is watched is within its limits.")]));
    } catch (error) { if (shown) list.classList.add("stale"); else list.replaceChildren(M.fault("Alerts cannot be shown", error.message)); }
  };
  choices.append(...[["open", "Open"], ["over", "Ended"], ["all", "All"]].map(([name, text]) => h("button", { type: "button", "aria-pressed": String(name === wanted), onclick: (event) => { wanted = name; for (const button of choices.children) button.setAttribute("aria-pressed", String(button === event.currentTarget)); load(); } }, text)));
  const silences = M.polled(5000, () => M.ask("/monitoring/alerts/silences"), (answer) => M.table([["Keeps quiet", (one) => Object.entries(one.matchers).map(([name, value]) => h("span", { class: "chip" }, `${name} = ${value}`))], ["Ends", (one) => M.time(one.endsAt)], ["By", (one) => [one.by, h("span", { class: "sub" }, one.comment)]], ["", (one) => h("button", { type: "button", onclick: async (event) => { event.currentTarget.disabled = true; try { await M.ask("/monitoring/alerts/silences/" + one.id, { method: "DELETE" }); M.toast("Ended."); } catch (error) { M.toast(error.message); } } }, "End now"), "n"]], answer.silences, "Nothing is kept quiet."), "Silences cannot be shown");
  const channels = M.polled(8000, () => M.ask("/monitoring/alerts/channels"), (answer) => M.table([["Channel", (one) => [M.status(one.status, one.name), h("span", { class: "sub" }, `${one.kind} ${one.address}`)]], ["Delivered", (one) => M.count(one.delivered), "n"], ["Failed", (one) => M.count(one.failures), "n"], ["Queued", (one) => M.count(one.queued), "n"]], answer.channels, "No channel is configured: alerts are shown here and in the log only."), "Channels cannot be shown");
  root.append(card, h("div", { class: "grid" }, M.card("Silences", silences, { span: "s7" }), M.card("Where notifications go", channels, { span: "s5" })));
  const timer = setInterval(load, 3000);
  M.onLeave(() => clearInterval(timer));
  load();
  return (what) => { if (what === "alert") load(); };
};
