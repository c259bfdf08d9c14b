// The page at `/`: classifies a photo, asks the FAQ, follows the metrics.

const INTERVAL = 2000;
const POINTS = 60;
const STAGES = {
  read: "Arriving", decode: "Decoding", queue: "In line", "batch-wait": "Batching", execute: "Model", rest: "Rest",
};

const say = (text) => { at("spoken").textContent = text; };

const percent = (share) => share < 0.0005 ? "below 0.1 %" : `${(100 * share).toFixed(1)} %`;

// Answers and what goes wrong

/** An answer that was none; its message is for people. */
class Trouble extends Error {
  constructor(title, message) {
    super(message);
    this.title = title;
  }
}

const TITLES = {
  400: "That was not understood", 401: "A key is wanted", 403: "This key is not enough", 404: "Not served here", 408: "It arrived too slowly", 413: "Too large",
  415: "Not a format this server reads", 422: "This file is damaged", 429: "The server is busy", 500: "The server failed",
  503: "Not available now", 504: "Not answered in time",
};

const retry = (response, error) => {
  const milliseconds = error.retry_after_ms ?? 1000 * Number(response.headers.get("retry-after") ?? NaN);
  return Number.isFinite(milliseconds) ? ` Try again in ${time(Math.max(milliseconds, 100))}.` : "";
};

const trouble = async (response) => {
  const body = await response.json().catch(() => ({}));
  const error = body.error ?? {};
  const titles = {
    unloaded: "Taken away for now", stopping: "The server is stopping", rate_limited: "This key has used up its requests",
  };
  const title = titles[error.code] ?? TITLES[response.status] ?? `The server answered ${response.status}`;
  const entered = at("key").value ? "The one at the top of this page is not valid here" : "Enter one at the top of this page";
  const message = response.status === 401 ? entered : error.message ?? "It gave no reason.";
  const sentence = message.charAt(0).toUpperCase() + message.slice(1) + (/[.!?]$/.test(message) ? "" : ".");
  return new Trouble(title, sentence + retry(response, error));
};

/** Posts and gives back the answer, its stages and how long it all took here. */
const post = async (path, body, headers, signal) => {
  const started = performance.now();
  const response = await fetch(path, { method: "POST", body, headers: keyed(headers), signal }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Trouble("No answer", "The server cannot be reached. Is it still running?");
  });
  askForKey(response);
  if (!response.ok) throw await trouble(response);
  const answer = await response.json();
  return { answer, timing: stages(response.headers.get("server-timing") ?? ""), took: performance.now() - started };
};

/** `Server-Timing` as a list of stages, what they leave of the total among them. */
const stages = (header) => {
  const timing = { stages: [], total: 0, batch: "" };
  for (const entry of header.split(", ")) {
    const [name, ...parameters] = entry.split(";");
    const took = Number(parameters.find((text) => text.startsWith("dur="))?.slice(4));
    if (name === "batch") timing.batch = (/desc="([^"]*)"/.exec(entry) ?? [])[1] ?? "";
    else if (name === "total") timing.total = took;
    else if (name in STAGES && Number.isFinite(took)) timing.stages.push([name, took]);
  }
  const told = timing.stages.reduce((sum, [, took]) => sum + took, 0);
  timing.stages.push(["rest", Math.max(timing.total - told, 0)]);
  return timing;
};

const whereTheTimeWent = ({ timing, took }) => {
  const split = make("div", { className: "split" });
  split.setAttribute("aria-hidden", "true");
  const list = make("dl", { className: "stages" });
  for (const [name, milliseconds] of timing.stages) {
    const part = make("span", { className: name });
    part.style.flexGrow = String(100 * milliseconds / Math.max(timing.total, 0.001));
    split.append(part);
    list.append(make("div", { className: name }, make("dt", {}, STAGES[name]), make("dd", {}, time(milliseconds))));
  }
  const batch = /^\d+/.exec(timing.batch)?.[0] ?? "1";
  const company = batch === "1" ? "alone in its batch" : `in a batch of ${batch}`;
  const shared = timing.batch.includes("shared") ? ", shared with an identical photo" : "";
  const text = `${time(timing.total)} in the server, ${company}${shared}; ${time(took)} as this browser saw it.`;
  return make("section", {}, make("h3", {}, "Where the time went"), split, list, make("p", { className: "faint" }, text));
};

const bar = (share) => {
  const filled = make("span");
  const whole = make("div", { className: "bar" }, filled);
  whole.setAttribute("aria-hidden", "true");
  requestAnimationFrame(() => { filled.style.width = `${100 * share}%`; });
  return whole;
};

/** Runs `work` and shows its outcome in the box; a newer one for the same box takes over. */
const running = {};
const show = async (box, work) => {
  running[box]?.abort();
  const mine = running[box] = new AbortController();
  const place = at(box);
  place.classList.add("busy");
  place.setAttribute("aria-busy", "true");
  try {
    const { shown, spoken } = await work(mine.signal);
    if (mine.signal.aborted) return;
    place.replaceChildren(...shown);
    say(spoken);
  } catch (error) {
    if (mine.signal.aborted) return;
    const title = error.title ?? "This page failed";
    place.replaceChildren(make("p", { className: "trouble" }, make("strong", {}, `${title}. `), error.message));
    say(`${title}. ${error.message}`);
  }
  place.hidden = false;
  place.classList.remove("busy");
  place.removeAttribute("aria-busy");
};

// Photos

const prediction = ({ label, probability }, index) => {
  const [name, ...others] = label.replace(/^n\d{8} /, "").split(", ");
  return make("li", { className: index ? "row" : "row first" },
    make("span", { className: "name" }, name),
    make("span", { className: "share" }, percent(probability)),
    others.length ? make("span", { className: "faint" }, others.join(", ")) : null,
    bar(probability));
};

let previewed = "";
const preview = (photo, name) => {
  URL.revokeObjectURL(previewed);
  previewed = URL.createObjectURL(photo);
  const image = at("preview");
  image.onload = () => { image.hidden = false; };
  image.onerror = () => { image.hidden = true; };
  image.src = previewed;
  image.alt = name;
  at("drop-hint").textContent = `${name}. Drop or paste another, or`;
  at("choose").textContent = "Choose another";
};

const classify = (photo, name) => {
  preview(photo, name);
  return show("photo-answer", async (signal) => {
    const done = await post("/classify", photo, { "content-type": photo.type || "application/octet-stream" }, signal);
    const { predictions, model, warning } = done.answer;
    const list = make("ol", { className: "answers" }, ...predictions.map(prediction));
    list.setAttribute("aria-label", `What ${model} sees`);
    const shown = [list, whereTheTimeWent(done)];
    if (warning) shown.unshift(make("p", { className: "notice" }, `Mind that ${warning}.`));
    const [best] = predictions;
    return { shown, spoken: `${best.label.replace(/^n\d{8} /, "")}, ${percent(best.probability)}` };
  });
};

const classifyFirst = (files) => {
  const file = files[0];
  if (file) classify(file, file.name || "The pasted photo");
};

const drop = at("drop");
at("choose").onclick = () => at("file").click();
at("file").onchange = (event) => {
  classifyFirst(event.target.files);
  event.target.value = "";
};
addEventListener("dragover", (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  if (!event.dataTransfer?.files.length) return;
  event.preventDefault();
  drop.classList.remove("over");
  classifyFirst(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  if (!event.clipboardData?.files.length) return;
  event.preventDefault();
  classifyFirst(event.clipboardData.files);
});

const drawn = (draw, width, height) => {
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.scale(width / 320, height / 240);
  draw(context);
  return canvas;
};
for (const [name, draw] of scenes) {
  const thumbnail = drawn(draw, 160, 120);
  thumbnail.setAttribute("aria-hidden", "true");
  const button = make("button", { type: "button" }, thumbnail, name);
  button.onclick = () => drawn(draw, 480, 360).toBlob((photo) => classify(photo, `${name}, a drawing`), "image/jpeg", 0.92);
  at("samples").append(make("li", {}, button));
}

// Questions

const match = ({ question, answer, probability }) => make("li", { className: "match" },
  make("div", { className: "row" }, make("h3", {}, question), make("span", { className: "share" }, percent(probability)), bar(probability)),
  answer ? make("p", {}, ...prose(answer)) : make("p", { className: "faint" }, "This FAQ holds no answer to it."));

const askFaq = (question) => show("question-answer", async (signal) => {
  const done = await post("/faq", JSON.stringify({ question, top: 3 }), { "content-type": "application/json" }, signal);
  const { matches, scope } = done.answer;
  const scoped = `Chance that the FAQ covers it at all: ${percent(scope)}.`;
  if (!matches.length) {
    const text = "Nothing in the FAQ asks this.";
    const nothing = make("div", { className: "nothing" }, make("h3", {}, "No match"), make("p", {}, `${text} ${scoped}`));
    return { shown: [nothing, whereTheTimeWent(done)], spoken: `No match. ${text}` };
  }
  const list = make("ol", {}, ...matches.map(match));
  list.classList.add("answers");
  list.setAttribute("aria-label", "Matches in the FAQ");
  const shown = [list, make("p", { className: "faint" }, scoped), whereTheTimeWent(done)];
  return { shown, spoken: `${matches[0].question} ${percent(matches[0].probability)}` };
});

const form = at("ask");
form.onsubmit = (event) => {
  event.preventDefault();
  askFaq(at("question").value);
};
at("question").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
};
for (const text of ["remove one item from a list", "how do i make a deep copy of an object", "How long do I boil an egg?"]) {
  const button = make("button", { type: "button" }, text);
  button.onclick = () => {
    at("question").value = text;
    askFaq(text);
  };
  at("tries").append(button);
}

// What is served

const identity = async () => {
  const response = await fetch("/readyz").catch(() => null);
  const ready = await response?.json().catch(() => null);
  const state = at("state");
  const tell = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  if (!ready) return tell(state, "The server cannot be reached.");
  const photos = ready.photos ? `Photos: ${ready.photos.model}, ${ready.photos.classes} classes` : "Photos: none served";
  const faq = ready.faq ? `FAQ: ${ready.faq.questions} questions` : "FAQ: none served";
  tell(state, ready.ready ? `${photos}. ${faq}.` : `Not ready: ${ready.reason}.`);
  const { warning, hint } = ready.photos ?? {};
  const notice = warning ? `Mind that ${warning}.` : hint ? `About the photo model: ${hint}.` : "";
  tell(at("notice"), notice);
  at("notice").hidden = !notice;
};

// Metrics

/** Prometheus text as a map from series to number. */
const series = (text) => new Map(text.split("\n").filter((line) => line && !line.startsWith("#")).map((line) => {
  const space = line.lastIndexOf(" ");
  return [line.slice(0, space), Number(line.slice(space + 1))];
}));

const rate = (queue) => (now, before, seconds) => {
  const key = `convoy_jobs_total{queue="${queue}",outcome="ok"}`;
  const more = (now.get(key) ?? 0) - (before.get(key) ?? 0);
  return more < 0 ? null : more / seconds;
};
const mean = (route) => (now, before) => {
  const more = (end) => {
    const key = `convoy_http_request_seconds_${end}{route="${route}"}`;
    return (now.get(key) ?? 0) - (before.get(key) ?? 0);
  };
  return more("count") > 0 ? 1000 * more("sum") / more("count") : null;
};
const perSecond = (value) => value >= 100 ? value.toFixed(0) : value.toFixed(1);
const TILES = [
  ["Photos a second", rate("classify"), perSecond],
  ["A photo's time, POST /classify", mean("classify"), time],
  ["Questions a second", rate("faq"), perSecond],
  ["A question's time, POST /faq", mean("faq"), time],
];

const SVG = "http://www.w3.org/2000/svg";
const vector = (tag, attributes) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

const tile = ([name, value, format]) => {
  const under = vector("path", { class: "under" });
  const line = vector("path", {});
  const dots = vector("path", { class: "dots" });
  const chart = vector("svg", { viewBox: "0 0 100 50", preserveAspectRatio: "none", "aria-hidden": "true" });
  chart.append(under, line, dots);
  const now = make("dd", { className: "now" }, "–");
  const most = make("dd", { className: "faint" }, "Nothing yet");
  at("tiles").append(make("div", { className: "tile" }, make("dt", {}, name), now, make("dd", {}, chart), most));
  return { value, format, under, line, dots, now, most, values: [] };
};

/** Draws what there is, newest at the right; a missing value leaves a gap, one between gaps is a dot. */
const draw = ({ values, line, under, dots, now, most, format }) => {
  const known = values.filter((value) => value !== null);
  const top = Math.max(...known, 1e-9);
  const x = (index) => 100 * (index + POINTS - values.length) / (POINTS - 1);
  const y = (value) => 48 - 44 * value / top;
  let path = "", area = "", alone = "", from = null;
  values.forEach((value, index) => {
    if (value === null) return;
    const point = `${x(index).toFixed(2)} ${y(value).toFixed(2)}`;
    if (from === null) from = index;
    path += `${from === index ? "M" : "L"}${point}`;
    area += from === index ? `M${x(index).toFixed(2)} 50L${point}` : `L${point}`;
    if (index + 1 === values.length || values[index + 1] === null) {
      area += `L${x(index).toFixed(2)} 50Z`;
      if (from === index) alone += `M${point}h0`;
      from = null;
    }
  });
  line.setAttribute("d", path);
  under.setAttribute("d", area);
  dots.setAttribute("d", alone);
  now.textContent = known.length ? format(known[known.length - 1]) : "–";
  most.textContent = known.length ? `At most ${format(top < 1e-6 ? 0 : top)}` : "Nothing yet";
};

const tiles = TILES.map(tile);
let before = null, timer = 0, paused = false, ticks = 0;

const tick = async () => {
  const response = await fetch("/metrics", { headers: keyed() }).catch(() => null);
  askForKey(response);
  const text = response?.ok ? await response.text() : null;
  const now = text === null ? null : { at: performance.now(), map: series(text) };
  const refused = [401, 403].includes(response?.status);
  const without = refused ? "The metrics want a key with the scope metrics." : "The metrics cannot be read; trying on.";
  at("live-state").textContent = now ? "The last two minutes, whoever asks." : without;
  if (before || !now) {
    for (const each of tiles) {
      each.values.push(now && before ? each.value(now.map, before.map, (now.at - before.at) / 1000) : null);
      each.values.splice(0, each.values.length - POINTS);
      draw(each);
    }
  }
  before = now;
  if (ticks % 5 === 0 || !now) await identity();
  ticks += 1;
};

/** Runs while somebody can see it, and not while it is paused. */
const follow = async () => {
  clearTimeout(timer);
  timer = 0;
  if (paused || document.hidden) {
    before = null;
    return;
  }
  const mine = timer = setTimeout(() => {}, 0);
  await tick();
  if (timer === mine) timer = setTimeout(follow, INTERVAL);
};
document.addEventListener("visibilitychange", follow);
at("pause").onclick = () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  follow();
};
follow();
