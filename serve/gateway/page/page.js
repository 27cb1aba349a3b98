"use strict";
// Asks for status.json every two seconds and shows what has changed since.
const POLL_MS = 2000, STALE_MS = 7000;
const root = document.documentElement, byId = (id) => document.getElementById(id);
const traffic = new Map(), shown = new WeakMap();
let state = null, answeredAt = 0, adminToken = null;

try { adminToken = sessionStorage.getItem("envserve.token"); } catch { /* then it is asked for again */ }

function showPart(node, key, build) {
  if (shown.get(node) === key) return;
  shown.set(node, key);
  node.replaceChildren(...[build()].flat().filter(Boolean));
}

function showModel(model) {
  const id = `model-${model.full_name}`;
  let card = byId(id);
  if (!card) {
    card = make("article", { class: "card model", id, "data-model": model.full_name },
      make("header"), make("div", { class: "facts" }, make("div"), make("div")),
      make("section", { class: "part" }), make("section", { class: "part" }), make("section", { class: "part" }),
      make("section", { class: "part" }), make("section", { class: "part" }));
    byId("models").append(card);
  }
  const [header, facts, workers, timeline, quarantine, trial, fleet] = card.children;
  card.style.order = String(-rank(model));
  const now = Date.parse(state.time), minute = Math.floor(now / 10000), isOperator = Boolean(adminToken && state.has_admin);
  const order = isOperator ? (action, version) => askOrder(model.full_name, action, version) : null;
  const key = (...values) => JSON.stringify([language, isOperator, ...values]);
  showPart(header, key(model.committed, model.proposal, model.pin, model.probation, model.changed_tensors, model.workers.map((worker) => worker.live), Math.round(model.unserved_s), state.is_draining), () => [
    make("h2", {}, model.name), model.label === "stable" ? null : make("span", { class: "pill label" }, model.label), ...makePills(model, state.is_draining),
    order && make("div", { class: "actions" },
      make("button", { type: "button", onclick: () => order("look") }, say("look")),
      model.pin ? make("button", { type: "button", onclick: () => order("unpin") }, say("unpin"))
        : make("button", { type: "button", title: say("pinHint"), disabled: !model.committed, onclick: () => order("pin") }, say("pin"))),
  ]);
  showPart(facts.children[0], key(model.committed, model.pin, model.verdict, model.changed_tensors, model.drift, minute), () => makeServing(model, now));
  const flow = traffic.get(model.full_name);
  facts.children[1].replaceChildren(makeTraffic(flow, model.traffic.in_flight));
  showPart(workers, key(model.workers, model.committed), () => makeWorkers(model));
  showPart(timeline, key(model.swaps, model.committed, model.probation && model.probation.generation, minute), () => makeTimeline(model, now, order));
  showPart(quarantine, key(model.quarantine, model.unserved, minute), () => [...makeUnserved(model, now), ...makeQuarantine(model, now)]);
  showPart(fleet, key(model.fleet, model.committed), () => makeFleet(model));
  if (model.committed) showPart(trial, key(), () => makeTrial(model));
}

function showAll() {
  root.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-word]")) node.textContent = say(node.dataset.word);
  byId("language").textContent = say("switchLanguage");
  showTheme();
  showPulse();
  if (!state) return;
  byId("operator").hidden = !state.has_admin;
  byId("operator").textContent = say(adminToken ? "lock" : "operator");
  const names = new Set(state.models.map((model) => model.full_name));
  for (const card of document.querySelectorAll("article.model")) if (!names.has(card.dataset.model)) card.remove();
  state.models.forEach(showModel);
  const ailing = state.models.filter(rank);
  byId("summary").hidden = state.models.length < 2;
  byId("summary").textContent = say(ailing.length ? "summaryBad" : "summaryGood", { count: state.models.length, bad: ailing.length, names: ailing.map((model) => model.full_name).join(", ") });
  byId("summary").className = ailing.length ? "note" : "note good";
  document.title = state.models.map((model) => `${model.full_name} ${model.committed ? model.committed.generation : "–"}`).join(" · ") || "envserve";
  showPart(byId("foot"), JSON.stringify([language, state.host, state.env_digest, state.worker]), () => [
    make("span", {}, `${say("host")} ${state.host}`),
    make("span", {}, `${say("environment")} `, state.env_digest ? makeDigest(state.env_digest) : say("unknown")),
    make("span", {}, say("answered", { pid: state.worker })),
  ]);
}

function showPulse() {
  const age = performance.now() - answeredAt, isStale = answeredAt > 0 && age > STALE_MS;
  byId("pulse").classList.toggle("stale", isStale);
  byId("freshness").textContent = !answeredAt ? say("loading") : isStale ? say("stale", { age: sayAge(age / 1000) }) : say("fresh");
}

function showTheme() {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  byId("theme").textContent = say(isDark ? "themeLight" : "themeDark");
  return isDark;
}

function tell(text, kind = "") {
  const note = byId("message");
  note.textContent = text;
  note.className = `note ${kind}`.trim();
  note.hidden = !text;
}

async function poll() {
  try {
    const response = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!response.ok) throw new Error(String(response.status));
    state = await response.json();
    answeredAt = performance.now();
    for (const model of state.models) {
      if (!traffic.has(model.full_name)) traffic.set(model.full_name, new Traffic());
      traffic.get(model.full_name).add(answeredAt / 1000, model.traffic);
    }
  } catch { /* the pulse says how old the picture is */ }
  showAll();
}

async function pollForEver() {
  for (;;) {
    if (!document.hidden) await poll();
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function askOrder(name, action, version) {
  const body = {};
  if (action === "rollback") {
    if (!confirm(say("confirmRollback", { version }))) return;
    body.version = version;
  }
  if (action === "pin") {
    const reason = prompt(say("reasonAsked"), "");
    if (reason === null) return;
    body.reason = reason;
  }
  const response = await send(name, action, body);
  if (response && response.ok) tell(say("ordered", { action: say(action) }), "good");
  else if (response && response.status === 401) { forgetToken(); tell(say("wrongToken"), "bad"); }
  else tell(say("failed", { action: say(action), error: response ? (await response.json()).error : "–" }), "bad");
  setTimeout(poll, 300);
}

async function send(name, action, body) {
  try {
    return await fetch(`admin/models/${encodeURIComponent(name)}/${action}`, {
      method: "POST", body: JSON.stringify(body), headers: { Authorization: `Bearer ${adminToken}`, "Content-Type": "application/json" },
    });
  } catch { return null; }
}

function forgetToken() {
  adminToken = null;
  try { sessionStorage.removeItem("envserve.token"); } catch { /* nothing was kept */ }
  showAll();
}

byId("operator").addEventListener("click", () => {
  tell("");
  if (adminToken) { forgetToken(); return; }
  byId("unlock").hidden = !byId("unlock").hidden;
  byId("operator").setAttribute("aria-expanded", String(!byId("unlock").hidden));
  if (!byId("unlock").hidden) byId("token").focus();
});

byId("unlock").addEventListener("submit", async (event) => {
  event.preventDefault();
  const response = await fetch("admin", { headers: { Authorization: `Bearer ${byId("token").value}` } }).catch(() => null);
  if (!response || !response.ok) { tell(say("wrongToken"), "bad"); return; }
  adminToken = byId("token").value;
  byId("token").value = "";
  byId("unlock").hidden = true;
  try { sessionStorage.setItem("envserve.token", adminToken); } catch { /* then only until the page is left */ }
  tell("");
  showAll();
});

byId("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  remembered.set("language", language);
  showAll();
});

byId("theme").addEventListener("click", () => {
  root.dataset.theme = showTheme() ? "light" : "dark";
  remembered.set("theme", root.dataset.theme);
  showAll();
});

const theme = remembered.get("theme");
if (theme === "light" || theme === "dark") root.dataset.theme = theme;
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
setInterval(showPulse, 1000);
showAll();
pollForEver();
