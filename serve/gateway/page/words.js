"use strict";
// Every text of the page, in both languages. {name} stands for a value.
const WORDS = {
  en: {
    switchLanguage: "中文", themeDark: "Dark", themeLight: "Light", operator: "Operator", lock: "Sign out",
    token: "Admin token", unlock: "Unlock", tokenHint: "Kept in this tab until it is closed, and sent only to this server.",
    fresh: "live", stale: "no answer for {age}; what you see is old", loading: "loading", noModels: "This server has no models.",
    serving: "serving", pinned: "pinned", preparing: "preparing generation {generation}", noModel: "no model is live",
    draining: "shutting down", unserved: "newest checkpoint unserved for {age}", diverged: "workers disagree",
    generation: "generation", version: "Version", checkpoint: "Checkpoint", sha256: "SHA-256", size: "Size", since: "Live since",
    newest: "Newest", pinLabel: "Pinned", pin: "Pin", pinHint: "Stop automatic moves", unpin: "Unpin", look: "Look now", rollback: "Roll back to this",
    rate: "Requests", perSecond: "/s", p50: "p50", p99: "p99", errors: "Errors", inFlight: "In flight", lastMinutes: "last 4 minutes",
    workers: "Workers", allOn: "all on generation {generation}", pid: "process {pid}", memory: "{size}",
    state_serving: "serving", state_preparing: "preparing", state_prepared: "prepared",
    hosts: "Hosts", drives: "drives", host_idle: "has a lease", host_out: "out", host_loading: "loading", host_preparing: "preparing", host_prepared: "prepared", host_fence: "fenced",
    timeline: "Swaps", nothingYet: "Nothing was committed yet. Publish a checkpoint.", noneServed: "No checkpoint has passed yet; see the quarantine below.",
    generationAndVersion: "generation {generation} · version {version}", notServed: "Published, not served", changed: "Weights changed",
    summaryGood: "{count} models, all serving", summaryBad: "{count} models, {bad} to look at: {names}", cause_rollback: "rollback", cause_return: "taken back", cause_promotion: "promoted",
    onProbation: "on probation · {answers} answers · generation {wayBack} stays loaded", liveNow: "live",
    refused: "refused", publishToLive: "{time} from publishing to live", code: "Code", retry: "Retry", later: "later", no: "no",
    copy: "copy", hash: "hash", load: "load", warm_up: "warm-up", commit: "commit", olderEvents: "{count} older ones in the log",
    quarantine: "Quarantine", noQuarantine: "Nothing is refused.", reason: "Reason", seen: "Since", attempts: "Attempts",
    environment: "Environment", unknown: "unknown", host: "Host", answered: "Answered by process {pid}", pinnedSince: "pinned {age}{reason}",
    copied: "copied", confirmRollback: "Serve version {version} again, as a new generation, in all workers?", reasonAsked: "Why is it pinned? (optional)",
    ordered: "{action}: ordered", wrongToken: "The token is not right.", failed: "{action} failed: {error}",
    tryIt: "Try a request", requestBody: "Request", send: "Send",
    shareOfAnswers: "{share} % of the answers", spoiled: "{count} spoiled", drift: "Drift", drift_inputs: "inputs", drift_answers: "answers", drift_classes: "classes",
    driftHint: "Against the generation before: below 0.1 is noise, above 0.25 another population",
    step_published: "published", step_gates: "gates", step_canary: "canary", step_shadow: "shadow", step_committed: "committed", step_held: "held",
    "step_taken back": "taken back", step_promoted: "promoted", step_agreed: "agreed", step_ended: "ended",
    ago: "{age} ago", now: "just now", s: "{n} s", min: "{n} min", h: "{n} h", d: "{n} d",
  },
  zh: {
    switchLanguage: "English", themeDark: "深色", themeLight: "浅色", operator: "运维", lock: "退出",
    token: "管理令牌", unlock: "解锁", tokenHint: "只保存在本标签页，关闭即失效；只发送给本服务器。",
    fresh: "实时", stale: "已有 {age} 没有应答，显示的是旧数据", loading: "载入中", noModels: "本服务器没有模型。",
    serving: "服务中", pinned: "已锁定版本", preparing: "正在准备第 {generation} 代", noModel: "没有在线模型",
    draining: "正在关闭", unserved: "最新检查点已 {age} 未上线", diverged: "工作进程不一致",
    generation: "代", version: "版本", checkpoint: "检查点", sha256: "SHA-256", size: "大小", since: "上线时间",
    newest: "最新检查", pinLabel: "已锁定", pin: "锁定版本", pinHint: "停止自动切换", unpin: "解除锁定", look: "立即检查", rollback: "回滚到此版本",
    rate: "请求", perSecond: "/秒", p50: "p50", p99: "p99", errors: "错误", inFlight: "处理中", lastMinutes: "最近 4 分钟",
    workers: "工作进程", allOn: "全部在第 {generation} 代", pid: "进程 {pid}", memory: "{size}",
    state_serving: "服务中", state_preparing: "准备中", state_prepared: "已就绪",
    hosts: "主机", drives: "驱动者", host_idle: "有租约", host_out: "在外", host_loading: "加载中", host_preparing: "准备中", host_prepared: "已准备", host_fence: "已设栅栏",
    timeline: "切换记录", nothingYet: "还没有提交任何版本，请发布一个检查点。", noneServed: "还没有检查点通过检查，见下方隔离区。",
    generationAndVersion: "第 {generation} 代 · 版本 {version}", notServed: "已发布但未上线", changed: "权重已改变",
    summaryGood: "{count} 个模型，全部服务中", summaryBad: "{count} 个模型，{bad} 个需要查看：{names}", cause_rollback: "回滚", cause_return: "自动退回", cause_promotion: "晋升",
    onProbation: "考察期 · {answers} 个应答 · 第 {wayBack} 代保持加载", liveNow: "在线",
    refused: "已拒绝", publishToLive: "发布到上线 {time}", code: "类别", retry: "重试", later: "稍后", no: "否",
    copy: "复制", hash: "校验", load: "加载", warm_up: "预热", commit: "提交", olderEvents: "另有 {count} 条见日志",
    quarantine: "隔离区", noQuarantine: "没有被拒绝的检查点。", reason: "原因", seen: "自", attempts: "次数",
    environment: "环境", unknown: "未知", host: "主机", answered: "由进程 {pid} 应答", pinnedSince: "{age}锁定{reason}",
    copied: "已复制", confirmRollback: "在所有工作进程中重新启用版本 {version}（作为新的一代）？", reasonAsked: "锁定原因（可选）",
    ordered: "{action}：已下达", wrongToken: "令牌不正确。", failed: "{action}失败：{error}",
    tryIt: "试一个请求", requestBody: "请求", send: "发送",
    shareOfAnswers: "占应答 {share} %", spoiled: "{count} 个坏应答", drift: "漂移", drift_inputs: "输入", drift_answers: "应答", drift_classes: "类别",
    driftHint: "与上一代相比：低于 0.1 是噪声，高于 0.25 是另一种分布",
    step_published: "发布", step_gates: "检查", step_canary: "金丝雀", step_shadow: "影子", step_committed: "提交", step_held: "通过考察",
    "step_taken back": "退回", step_promoted: "晋升", step_agreed: "一致", step_ended: "结束",
    ago: "{age}前", now: "刚刚", s: "{n} 秒", min: "{n} 分钟", h: "{n} 小时", d: "{n} 天",
  },
};

const remembered = {
  get(key) { try { return localStorage.getItem("envserve." + key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem("envserve." + key, value); } catch { /* private windows may refuse */ } },
};

let language = remembered.get("language") || ((navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en");

function say(word, values = {}) {
  const text = WORDS[language][word] ?? WORDS.en[word] ?? word;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

function sayAge(seconds) {
  if (seconds < 60) return say("s", { n: Math.max(0, Math.round(seconds)) });
  if (seconds < 3600) return say("min", { n: Math.round(seconds / 60) });
  if (seconds < 86400) return say("h", { n: Math.round(seconds / 3600) });
  return say("d", { n: Math.round(seconds / 86400) });
}

function sayAgo(time, now) {
  const age = (now - Date.parse(time)) / 1000;
  return age < 3 ? say("now") : say("ago", { age: sayAge(age) });
}

function saySize(bytes) {
  if (!bytes && bytes !== 0) return say("unknown");
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (bytes >= 1024 && step < units.length - 1) { bytes /= 1024; step += 1; }
  return `${bytes >= 100 || step === 0 ? Math.round(bytes) : bytes.toPrecision(3)} ${units[step]}`;
}

function sayTime(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 0.995) return `${Number((seconds * 1000).toPrecision(2))} ms`;
  return `${Number(seconds.toPrecision(seconds < 10 ? 2 : 3))} s`;
}
