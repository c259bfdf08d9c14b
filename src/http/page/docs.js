// The page at `/docs`: the OpenAPI document for people, with a form for every operation.

/** What a reference of the document leads to. */
const resolve = (whole, value) => value.$ref
  ? value.$ref.slice(2).split("/").reduce((place, name) => place[name.replaceAll("~1", "/").replaceAll("~0", "~")], whole)
  : value;

/** A schema in one line; names link to their own. */
const kind = (schema) => {
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return [make("a", { href: `#schema-${name}` }, name)];
  }
  if (schema === true || schema.const !== undefined) return [schema === true ? "anything" : JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return several.flatMap((each, index) => [index ? " or " : "", ...kind(each)]);
  if (schema.prefixItems) return ["[", ...schema.prefixItems.flatMap((each, index) => [index ? ", " : "", ...kind(each)]), "]"];
  if (schema.type === "array") return ["list of ", ...kind(schema.items ?? true)];
  if (schema.format === "binary") return ["bytes"];
  if (schema.type === "object" && typeof schema.additionalProperties === "object") return ["object of ", ...kind(schema.additionalProperties)];
  if (Array.isArray(schema.type)) return [schema.type.join(" or ")];
  return [schema.type ?? "anything"];
};

const members = (schema) => {
  const list = make("dl", { className: "kinds" });
  for (const [name, each] of Object.entries(schema.properties ?? {})) {
    const optional = (schema.required ?? []).includes(name) ? "" : ", may be missing";
    const about = each.description ? `. ${each.description}` : "";
    list.append(make("div", {}, make("dt", {}, make("code", {}, name)), make("dd", {}, ...kind(each), optional, ...prose(about))));
  }
  return list;
};

const named = ([name, schema]) => {
  const body = schema.properties ? members(schema) : make("p", {}, ...kind(schema));
  const about = schema.description ? make("p", {}, ...prose(schema.description)) : null;
  return make("details", { className: "card", id: `schema-${name}` },
    make("summary", {}, make("h3", {}, make("code", { className: "path" }, name))),
    make("div", { className: "inside" }, about, body));
};

/** A labelled control for one parameter. */
const field = (parameter, id) => {
  const { name, description, schema, required, example } = parameter;
  const control = schema.enum
    ? make("select", { id }, make("option", { value: "" }, ""), ...schema.enum.map((value) => make("option", { value }, value)))
    : make("input", { id, type: "text", required: Boolean(required), value: required ? example ?? "" : "" });
  const about = make("p", { className: "faint", id: `${id}-about` }, ...prose(description));
  control.setAttribute("aria-describedby", about.id);
  const where = { path: "path", query: "query", header: "header" }[parameter.in];
  return { parameter, control, shown: make("div", {}, make("label", { htmlFor: id }, `${name} (${where})`), about, control) };
};

/** The control for a body: text where it is JSON, else a file. */
const bodyField = (body, id) => {
  const [type, content] = Object.entries(body.content)[0];
  const json = type === "application/json";
  const control = json
    ? make("textarea", { id, rows: 6, spellcheck: false, value: JSON.stringify(content.example ?? {}, null, 2) })
    : make("input", { id, type: "file", required: Boolean(body.required) });
  const shown = make("div", { className: "whole" }, make("label", { htmlFor: id }, `Body (${type})`), control);
  return { type, shown, read: () => json ? control.value : control.files[0] };
};

const shownBody = async (response) => {
  const type = response.headers.get("content-type") ?? "";
  if (type.startsWith("application/json")) return JSON.stringify(await response.json(), null, 2);
  if (type.startsWith("text/")) return response.text();
  return `${(await response.arrayBuffer()).byteLength} bytes of ${type || "no type"}`;
};

const send = async (path, method, fields, body, out) => {
  const query = new URLSearchParams();
  const headers = {};
  let url = path;
  for (const { parameter, control } of fields) {
    const value = control.value.trim();
    if (!value) continue;
    if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(value));
    if (parameter.in === "query") query.set(parameter.name, value);
    if (parameter.in === "header") headers[parameter.name] = value;
  }
  if ([...query].length) url += `?${query}`;
  if (body) headers["content-type"] = body.type;
  const started = performance.now();
  try {
    const response = await fetch(url, { method: method.toUpperCase(), headers: keyed(headers), body: body?.read() });
    askForKey(response);
    const text = await shownBody(response);
    const kept = ["server-timing", "retry-after", "x-convoy-warning"].filter((name) => response.headers.has(name));
    const heads = kept.map((name) => `${name}: ${response.headers.get(name)}`).join("\n");
    const pre = make("pre", { tabIndex: 0 }, heads ? `${heads}\n\n${text}` : text);
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", "The answer");
    const title = `${response.status} ${response.statusText}`.trim();
    out.replaceChildren(make("p", {}, make("strong", {}, title), ` to ${method.toUpperCase()} ${url} in ${time(performance.now() - started)}`), pre);
    at("spoken").textContent = `Answered ${title}`;
  } catch (error) {
    out.replaceChildren(make("p", { className: "trouble" }, make("strong", {}, "No answer. "), `The request could not be sent: ${error.message}`));
    at("spoken").textContent = "No answer";
  }
};

const answers = (operation) => {
  const list = make("dl", { className: "kinds" });
  for (const [status, answer] of Object.entries(operation.responses)) {
    const kinds = Object.entries(answer.content ?? {}).map(([type, content]) => make("div", { className: "media" }, `${type}: `, ...kind(content.schema)));
    list.append(make("div", {}, make("dt", {}, status), make("dd", {}, ...prose(answer.description), ...kinds)));
  }
  return list;
};

const operation = (whole, path, method, described) => {
  const id = described.operationId;
  const fields = (described.parameters ?? []).map((parameter, index) => field(resolve(whole, parameter), `${id}-${index}`));
  const body = described.requestBody ? bodyField(described.requestBody, `${id}-body`) : null;
  const out = make("div", { className: "inside-answer" });
  const form = make("form", { className: "inside" },
    fields.length ? make("div", { className: "fields" }, ...fields.map((each) => each.shown)) : null,
    body?.shown ?? null,
    make("div", {}, make("button", { className: "main" }, "Send")),
    out,
    make("h4", { className: "faint" }, "What it may answer"),
    answers(described));
  form.onsubmit = (event) => {
    event.preventDefault();
    send(path, method, fields, body, out);
  };
  return make("details", { className: "card", id },
    make("summary", {}, make("h3", {}, make("code", { className: "method" }, method.toUpperCase()), make("code", { className: "path" }, path), described.summary)),
    form);
};

const open = () => {
  const target = at(decodeURIComponent(location.hash.slice(1)));
  if (target?.tagName === "DETAILS") target.open = true;
};

const render = (whole) => {
  at("about").replaceChildren(`Version ${whole.info.version}. `, ...prose(whole.info.description));
  const shown = [];
  for (const tag of whole.tags) {
    shown.push(make("h2", {}, tag.name), make("p", { className: "faint" }, tag.description));
    for (const [path, item] of Object.entries(whole.paths)) {
      for (const [method, described] of Object.entries(item)) {
        if (described.tags.includes(tag.name)) shown.push(operation(whole, path, method, described));
      }
    }
  }
  shown.push(make("h2", {}, "Schemas"), ...Object.entries(whole.components.schemas).map(named));
  at("main").replaceChildren(...shown);
  open();
};
addEventListener("hashchange", open);

fetch("/openapi.json").then((response) => response.json()).then(render).catch((error) => {
  at("state").textContent = `The document could not be read: ${error.message}`;
});
