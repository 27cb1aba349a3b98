"use strict";
// How each part of the page looks. Everything is built from nodes and text, so that no file name can become markup.
const SVG = "http://www.w3.org/2000/svg", PHASES = ["copy", "hash", "load", "warm_up", "commit"], SHOWN = 14, PICTURED = 12;

function make(tag, attributes = {}, ...children) {
  const node = tag === "svg" || tag === "path" || tag === "line" ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function makeDigest(text) {
  const node = make("button", { type: "button", class: "plain mono", title: text }, text.replace(/^sha256:/, "").slice(0, 12));
  node.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(text); } catch { return; }
    const shown = node.textContent;
    node.textContent = say("copied");
    setTimeout(() => { node.textContent = shown; }, 900);
  });
  return node;
}

function makeAge(time, now) {
  return make("time", { datetime: time, title: new Date(time).toLocaleString(language) }, sayAgo(time, now));
}

function isDiverged(model) {
  return !model.proposal && new Set(model.workers.map((worker) => worker.live)).size > 1;
}

// How much somebody should look at it; those that need it most come first.
function rank(model) {
  if (!model.committed || model.workers.some((worker) => !worker.live)) return 3;
  if (model.changed_tensors.length || isDiverged(model)) return 2;
  return model.quarantine.length || model.unserved.length ? 1 : 0;
}

function makePills(model, isDraining) {
  const pills = [];
  const pill = (kind, text, title) => pills.push(make("span", { class: `pill ${kind}`, title: title || null }, text));
  if (isDraining) pill("warn", say("draining"));
  if (!model.committed) pill("bad", say("noModel"));
  else if (!model.proposal && !isDraining) pill("good", say("serving"));
  if (model.proposal) pill("warn", say("preparing", { generation: model.proposal.generation }));
  if (model.pin) pill("warn", say("pinned"), model.pin.reason);
  if (model.probation) {
    const bad = Object.entries(model.probation.bad).filter(([, count]) => count).map(([signal, count]) => `${signal} ${count}`);
    pill(bad.length ? "bad" : "warn", say("onProbation", { answers: model.probation.answers, wayBack: model.probation.way_back }), bad.join(", "));
  }
  if (isDiverged(model)) pill("bad", say("diverged"));
  if (model.changed_tensors.length) pill("bad", say("changed"), model.changed_tensors.join(", "));
  if (model.unserved_s > 3 && !model.pin) pill("warn", say("unserved", { age: sayAge(model.unserved_s) }));
  return pills;
}

function makeServing(model, now) {
  const live = model.committed;
  if (!live) return make("p", { class: "empty" }, say(model.quarantine.length ? "noneServed" : "nothingYet"), make("br"), make("span", { class: "mono" }, model.verdict));
  const facts = [
    ["version", live.version], ["checkpoint", live.name], ["sha256", makeDigest(live.sha256)], ["size", saySize(live.size_bytes)],
    ["since", makeAge(live.committed, now)],
  ];
  if (!/ it is being served$/.test(model.verdict)) facts.push(["newest", make("span", { class: "quiet brief", title: model.verdict }, model.verdict)]);
  if (model.changed_tensors.length) facts.push(["changed", make("span", { class: "mono" }, model.changed_tensors.join(", "))]);
  if (model.drift && Object.keys(model.drift.scores).length) {
    const scores = Object.entries(model.drift.scores), isFar = scores.some(([, score]) => score > 0.25);
    facts.push(["drift", make("span", { class: isFar ? "pill warn" : "num", title: say("driftHint") },
      scores.map(([kind, score]) => `${say(`drift_${kind}`)} ${score.toFixed(2)}`).join(" · "))]);
  }
  if (model.pin) {
    const reason = model.pin.reason ? `: ${model.pin.reason}` : "";
    facts.push(["pinLabel", say("pinnedSince", { age: sayAgo(model.pin.pinned, now), reason })]);
  }
  return make("div", { class: "serving" },
    make("div", { class: "generation num" }, make("b", { "data-generation": "" }, String(live.generation)), make("span", {}, say("generation"))),
    make("dl", {}, ...facts.flatMap(([word, value]) => [make("dt", {}, say(word)), make("dd", {}, value)])));
}

function makeTraffic(traffic, inFlight) {
  const show = (value, digits) => (value === null ? "–" : value >= 100 ? Math.round(value).toLocaleString(language) : value.toFixed(digits));
  const figure = (word, value, unit, isBad) => make("div", { class: isBad ? "figure bad" : "figure" },
    make("span", {}, say(word)), make("b", { class: "num", "data-figure": word }, value, unit ? make("small", {}, unit) : null));
  return make("div", {},
    make("div", { class: "traffic" },
      figure("rate", show(traffic.rate, 1), say("perSecond")), figure("p50", sayTime(traffic.percentile(.5))),
      figure("p99", sayTime(traffic.percentile(.99))), figure("errors", show(traffic.errorRate, 1), say("perSecond"), traffic.errorRate > 0),
      figure("inFlight", String(inFlight))),
    makeSpark(traffic.rates), make("div", { class: "quiet legend" }, say("lastMinutes")));
}

function makeSpark(rates) {
  const top = Math.max(1, ...rates) * 1.1, left = HISTORY - rates.length;
  const points = rates.map((rate, index) => `${left + index + 1},${(40 - (rate / top) * 38).toFixed(2)}`);
  const svg = make("svg", { class: "spark", viewBox: `0 0 ${HISTORY} 40`, preserveAspectRatio: "none", "aria-hidden": "true" },
    make("line", { x1: 0, y1: 39.5, x2: HISTORY, y2: 39.5 }));
  if (points.length > 1) {
    svg.append(make("path", { class: "area", d: `M${left + 1},40 L${points.join(" L")} L${HISTORY},40 Z` }),
      make("path", { class: "edge", d: `M${points.join(" L")}` }));
  }
  return svg;
}

function makeWorkers(model) {
  const committed = model.committed ? model.committed.generation : 0;
  const isEven = model.workers.length && model.workers.every((worker) => worker.live === committed);
  return [
    make("h3", {}, `${say("workers")} · ${model.workers.length}`,
      isEven && committed ? make("span", { class: "pill good" }, say("allOn", { generation: committed })) : null),
    make("div", { class: "workers" }, ...model.workers.map((worker) => make("div", { class: worker.live === committed ? "worker" : "worker behind" },
      make("b", { class: "num", title: say("generation") }, worker.live ? String(worker.live) : "–"),
      make("div", {}, make("div", {}, say("pid", { pid: worker.pid })),
        make("div", { class: "quiet" }, say(`state_${worker.state}`), worker.pss_bytes ? ` · ${say("memory", { size: saySize(worker.pss_bytes) })}` : ""))))),
  ];
}

function makeFleet(model) {
  if (!model.fleet) return [];
  const hosts = Object.entries(model.fleet.hosts || {}), committed = model.fleet.committed ? model.fleet.committed.generation : 0;
  return [
    make("h3", {}, `${say("hosts")} · ${model.fleet.error ? "?" : hosts.length}`),
    model.fleet.error ? make("p", { class: "empty" }, model.fleet.error) : null,
    make("div", { class: "workers" }, ...hosts.map(([name, host]) => make("div", { class: host.generation === committed ? "worker" : "worker behind", "data-host": name, title: host.place },
      make("b", { class: "num", title: say("generation") }, host.generation > 0 ? String(host.generation) : "–"),
      make("div", {}, make("div", {}, name, name === model.fleet.driver ? ` · ${say("drives")}` : ""),
        make("div", { class: "quiet" }, `${say(`host_${host.phase}`)} · `, host.digest ? makeDigest(host.digest) : say("unknown")),
        host.reason ? make("div", { class: "quiet brief", title: host.reason }, host.reason) : null)))),
  ];
}

function addUp(phases) { return PHASES.reduce((sum, phase) => sum + (phases[phase] || 0), 0); }

function makePhases(phases, longest) {
  const known = PHASES.filter((phase) => phases[phase] >= 0.0001);
  if (!known.length) return null;
  const bar = make("div", { class: "phases", "aria-hidden": "true" }, ...known.map((phase) => {
    const part = make("i", { class: phase });
    part.style.flexGrow = String(Math.max(1, 1000 * phases[phase]));
    return part;
  }));
  bar.style.width = `${Math.max(4, (100 * addUp(phases)) / longest)}%`;
  const legend = make("div", { class: "legend num" }, ...known.map((phase) => make("span", {}, make("i", { class: phase }), `${say(phase)} ${sayTime(phases[phase])}`)));
  return make("div", {}, bar, legend);
}

function makeSwap(model, swap, now, order, longest) {
  if (swap.refused) {
    return make("li", { class: "refused" },
      make("div", { class: "head" }, make("b", {}, swap.name), make("span", { class: "pill bad" }, `${say("refused")} · ${swap.code}`), makeAge(swap.at, now)),
      make("div", { class: "reason" }, swap.reason));
  }
  const isLive = model.committed && model.committed.generation === swap.generation, isRollback = swap.cause !== "checkpoint";
  const back = order && swap.is_kept && !isLive && swap.version !== model.committed.version;
  return make("li", { class: `${isRollback ? "rollback" : ""} ${isLive ? "live" : ""}`.trim() },
    make("div", { class: "head" },
      make("b", {}, say("generationAndVersion", swap)),
      isLive ? make("span", { class: "pill good" }, say("liveNow")) : null,
      isRollback ? make("span", { class: "pill warn" }, say(`cause_${swap.cause}`)) : null,
      back ? make("button", { type: "button", class: "small", onclick: () => order("rollback", swap.version) }, say("rollback")) : null,
      makeAge(swap.at, now)),
    make("div", { class: "line" }, makeDigest(swap.sha256), make("span", {}, saySize(swap.size_bytes)), make("span", {}, swap.name),
      swap.since_marker_s !== null ? make("span", {}, say("publishToLive", { time: sayTime(swap.since_marker_s) })) : null),
    make("ul", { class: "steps" }, ...swap.moments.map((moment) => make("li", { class: moment.step === "taken back" ? "bad" : null, title: moment.at },
      make("b", {}, say(`step_${moment.step}`)), ` ${moment.why}`))),
    makePhases(swap.phases, longest));
}

// Which generation answered when, as a band from left to right; long ones are shown shorter than they were.
function makePicture(model, now) {
  const shown = model.swaps.filter((swap) => !swap.refused).slice(0, PICTURED).reverse();
  const answers = shown.reduce((sum, swap) => sum + swap.answers, 0);
  return make("div", { class: "picture" }, ...shown.map((swap, place) => {
    const seconds = ((place + 1 < shown.length ? Date.parse(shown[place + 1].at) : now) - Date.parse(swap.at)) / 1000;
    const kind = swap.outcome.startsWith("taken back") ? "bad" : model.probation && model.probation.generation === swap.generation ? "warn" : place + 1 === shown.length ? "good" : "";
    const span = make("div", { class: kind, title: swap.moments.map((moment) => `${say(`step_${moment.step}`)}: ${moment.why}`).join("\n") },
      make("b", { class: "num" }, String(swap.generation)), make("span", {}, sayAge(seconds)),
      swap.answers ? make("span", {}, say("shareOfAnswers", { share: Math.round((100 * swap.answers) / answers) })) : null,
      swap.spoiled ? make("span", { class: "spoiled" }, say("spoiled", { count: swap.spoiled })) : null,
      swap.p99_s ? make("span", {}, `p99 ${sayTime(swap.p99_s)}`) : null);
    span.style.flexGrow = String(Math.log2(2 + Math.max(0, seconds)));
    return span;
  }));
}

function makeTimeline(model, now, order) {
  if (!model.swaps.length) return [make("h3", {}, say("timeline")), make("p", { class: "empty" }, say("nothingYet"))];
  const older = model.swaps.length - SHOWN, longest = Math.max(...model.swaps.map((swap) => (swap.refused ? 0 : addUp(swap.phases))));
  return [
    make("h3", {}, say("timeline")), makePicture(model, now),
    make("ol", { class: "timeline" }, ...model.swaps.slice(0, SHOWN).map((swap) => makeSwap(model, swap, now, order, longest))),
    older > 0 ? make("p", { class: "empty" }, say("olderEvents", { count: older })) : null,
  ].filter(Boolean);
}

function makeTable(words, rows) {
  const titles = words.map((word) => make("th", {}, say(word)));
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...titles)), make("tbody", {}, ...rows)));
}

function makeUnserved(model, now) {
  if (!model.unserved.length) return [];
  const rows = model.unserved.map((note) => make("tr", {},
    make("td", {}, note.name), make("td", { class: "nowrap" }, make("span", { class: "pill warn" }, note.code)),
    make("td", { class: "reason" }, note.reason, make("div", { class: "quiet" }, note.hint)), make("td", { class: "nowrap" }, makeAge(note.since, now))));
  return [make("h3", {}, `${say("notServed")} · ${model.unserved.length}`), makeTable(["checkpoint", "code", "reason", "seen"], rows), make("br")];
}

function makeQuarantine(model, now) {
  const head = make("h3", {}, say("quarantine") + (model.quarantine.length ? ` · ${model.quarantine.length}` : ""));
  if (!model.quarantine.length) return [head, make("p", { class: "empty" }, say("noQuarantine"))];
  const rows = model.quarantine.map((record) => make("tr", {},
    make("td", {}, record.name), make("td", { class: "nowrap" }, make("span", { class: "pill bad" }, record.code)), make("td", { class: "reason" }, record.reason),
    make("td", { class: "nowrap" }, makeAge(record.since, now)), make("td", { class: "num" }, String(record.attempts)),
    make("td", { class: "nowrap" }, say(record.retry_at_s === null ? "no" : "later"))));
  return [head, makeTable(["checkpoint", "code", "reason", "seen", "attempts", "retry"], rows)];
}

// A request by hand: the example of the model class, to be changed and sent.
function makeTrial(model) {
  const input = make("textarea", { rows: 4, spellcheck: "false", "aria-label": say("requestBody") });
  const output = make("pre", { class: "answer", "aria-live": "polite" });
  const headers = { "Content-Type": "application/json" };
  if (model.label !== "stable") headers["X-Model-Label"] = model.label;
  const ask = async () => {
    const began = performance.now(), path = `predict/${encodeURIComponent(model.name)}`;
    try {
      const response = await fetch(path, { method: "POST", body: input.value, headers });
      const text = await response.text();
      output.textContent = `${response.status} · ${sayTime((performance.now() - began) / 1000)}\n${text}`;
    } catch (error) { output.textContent = String(error); }
  };
  const fill = async () => {
    if (input.value) return;
    const response = await fetch(`model/${encodeURIComponent(model.name)}`).catch(() => null);
    const found = response && response.ok ? await response.json() : {};
    input.value = JSON.stringify({ inputs: found.example ?? null });
  };
  return make("details", { class: "trial", ontoggle: fill }, make("summary", {}, say("tryIt")), input,
    make("button", { type: "button", class: "strong", onclick: ask }, say("send")), output);
}
