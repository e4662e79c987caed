/**
 * The timeline: every request of this page as it was sent, its answer as it came, what it means, and the same in bash. It
 * listens at `fetch`, so that only what happened is shown. Of passwords nothing is kept, of tokens a reference.
 */

import { PASSWORDS, copyButton, curlOf, startShell } from "./shell.js";
import { $, accessToken, el, forget, hold, startTokens, withTokens, withoutTokens } from "./token.js";

const STRUCK_OUT = "••••••••";
const MOST_EXCHANGES = 100;
/** Header fields that carry the flow. */
const KEY_HEADERS = ["authorization", "www-authenticate", "retry-after", "location", "link"];
/** This server leaves HTTP's own words out. */
const REASONS = { 200: "OK", 201: "Created", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict", 422: "Unprocessable Content", 429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable" };

/** What the page's templates say: by method and path, and by experiment. The first operation that fits counts. */
const wordsIn = (list) => Object.fromEntries([...list.querySelectorAll("dt")].map((term) => [term.textContent, term.nextElementSibling.textContent]));
const OPERATIONS = [...$("operations").content.children].map((list) => {
  const { method, path, step } = list.dataset;
  const pattern = path === "*" ? /./ : new RegExp(`^${path.replaceAll("*", "[^/]+")}$`);
  return { method, pattern, step, name: list.title, words: wordsIn(list) };
});
const LESSONS = Object.fromEntries([...$("lessons").content.children].map((list) => [list.dataset.of, wordsIn(list)]));

const state = { exchanges: [], base: "", count: 0, inFlight: 0, send: null, experiment: null, account: () => "", current: null };

/** Starts listening to `fetch`. `base` is the server's address, `account` gives the user's e-mail. */
export function startFlow(base, account) {
  Object.assign(state, { base, account, send: window.fetch.bind(window) });
  window.fetch = (url, request) => exchanged(String(url), request);
  startTokens(() => state.exchanges.forEach(render));
  startShell(base, account, () => state.exchanges.filter(({ status }) => status !== null));
  $("clear").addEventListener("click", clear);
  for (const view of document.getElementsByName("view")) view.addEventListener("change", () => (view.value === "flow" ? reveal(state.exchanges.at(-1)) : scrollTo(0, 0)));
  $("present").addEventListener("click", () => present(!isPresenting()));
  for (const [id, by] of [["previous", -1], ["next", 1]]) $(id).addEventListener("click", () => move(by));
  document.addEventListener("keydown", onKey);
  showWhetherEmpty();
}

/**
 * A request of an experiment's own. `token` goes along; `original` is what it was altered from, `note` how, and `forged`
 * makes the same token in bash; `who` sends it, where that is not the page; `successor` is the refresh token that is due.
 */
export async function send(path, { token, body, method = body ? "POST" : "GET", ...extras } = {}) {
  const headers = { ...(token && { Authorization: `Bearer ${token}` }), ...(body && { "Content-Type": "application/json" }) };
  const response = await exchanged(state.base + path, { method, headers, body: body && JSON.stringify(body) }, { isOwn: false, ...extras });
  return response.json().catch(() => null);
}

/** Runs `act`; what is sent meanwhile carries the experiment's name and words. `alter` changes the first token. */
export async function during({ id, name, alter = null }, act) {
  state.experiment = { name, alter, words: LESSONS[id] ?? {}, count: 0 };
  try {
    return await act();
  } finally {
    state.experiment = null;
    if (!accessToken()) forget();
  }
}

async function exchanged(url, given = {}, extras = {}) {
  const { request, ...alteration } = altered(given);
  const exchange = begin(url, request, { ...extras, ...alteration });
  try {
    const response = await state.send(url, request);
    finish(exchange, response, await response.clone().text());
    return response;
  } catch (cause) {
    finish(exchange, null, "");
    throw cause;
  }
}

/** The request, or what the experiment makes of the first that carries a token. */
function altered(request) {
  const original = request.headers?.Authorization?.replace("Bearer ", "");
  if (!state.experiment?.alter || !original) return { request };
  const { token, ...extras } = state.experiment.alter(original);
  state.experiment.alter = null;
  return { request: { ...request, headers: { ...request.headers, Authorization: `Bearer ${token}` } }, original, ...extras };
}

function begin(url, { method = "GET", headers = {}, body }, extras) {
  const { pathname, search } = new URL(url, location.href);
  const path = pathname.slice(new URL(state.base).pathname.replace(/\/$/, "").length);
  const { step, name, words } = operationOf(method, path);
  const nth = state.experiment ? (state.experiment.count += 1) : 0;
  const exchange = {
    isOwn: true, step, name, words, method, nth, path: path + search, number: (state.count += 1), experiment: state.experiment,
    headers: Object.entries(headers).map(([key, value]) => [key, withoutTokens(value, extras.original)]),
    sent: body ? withoutSecrets(JSON.parse(body)) : null,
    startedAt: performance.now(), status: null, isOpen: null, tab: extras.original ? "Request" : "Answer", view: el("li", { className: "exchange" }),
    ...extras, original: null,
  };
  state.exchanges.push(exchange);
  state.inFlight += 1;
  document.documentElement.classList.add("busy");
  $("exchanges").append(exchange.view);
  while (state.exchanges.length > MOST_EXCHANGES) drop();
  showWhetherEmpty();
  render(exchange);
  reveal(exchange);
  return exchange;
}

const operationOf = (method, path) => OPERATIONS.find((each) => [method, "*"].includes(each.method) && each.pattern.test(path));

function withoutSecrets(body) {
  const kept = (name, value) => (PASSWORDS.includes(name) ? STRUCK_OUT : typeof value === "string" ? withoutTokens(value) : value);
  return Object.fromEntries(Object.entries(body).map(([name, value]) => [name, kept(name, value)]));
}

/** Makes room: lists first, they are the least to be missed. */
const drop = () => state.exchanges.splice(Math.max(0, state.exchanges.slice(0, -1).findIndex(isList)), 1)[0].view.remove();

const isList = ({ method, path }) => method === "GET" && /^\/api\/[^/]+\/tasks(\?|$)/.test(path);

function finish(exchange, response, text) {
  const isPair = response?.status === 200 && ["/auth/login", "/auth/refresh"].includes(exchange.path);
  if (isPair && exchange.isOwn) hold(JSON.parse(text));
  exchange.milliseconds = performance.now() - exchange.startedAt;
  exchange.status = response?.status ?? 0;
  exchange.reason = response?.statusText || REASONS[exchange.status] || "";
  exchange.answerHeaders = response ? [...response.headers].map(([name, value]) => [name, withoutTokens(value)]) : [];
  exchange.body = withoutTokens(pretty(text));
  exchange.isSame = Boolean(exchange.successor) && text.includes(exchange.successor);
  exchange.lesson = lessonOf(exchange);
  exchange.successor &&= "";
  // Lists stay folded; of the rest the newest lies open, and what tells a step of the flow stays so.
  for (const other of state.exchanges) if (other !== exchange && other.isOpen === null && !isStep(other)) fold(other);
  state.inFlight -= 1;
  document.documentElement.classList.toggle("busy", state.inFlight > 0);
  render(exchange);
  reveal(exchange);
  document.dispatchEvent(new CustomEvent("exchange", { detail: exchange }));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** The words for this very answer: the experiment's, the operation's, or the status's. */
function lessonOf({ words, experiment, nth, path, status, headers, successor, isSame }) {
  const isBare = status === 401 && !headers.some(([name]) => name === "Authorization");
  const own = !successor || isSame ? experiment?.words[`${nth} ${path} ${status}`] : null;
  return own ?? words[status] ?? OPERATIONS.at(-1).words[isBare ? "401 bare" : status] ?? "";
}

const isStep = ({ step, status }) => status >= 400 || status === 0 || step !== "request";

function isUnfolded(exchange) {
  if (exchange.isOpen !== null) return exchange.isOpen;
  return isStep(exchange) || (exchange === state.exchanges.at(-1) && exchange.status !== null && !isList(exchange));
}

const fold = ({ view }) => view.querySelector("details")?.removeAttribute("open");

function clear() {
  Object.assign(state, { exchanges: [], current: null });
  $("exchanges").replaceChildren();
  showWhetherEmpty();
  $("flow").focus();
}

function showWhetherEmpty() {
  const isEmpty = state.exchanges.length === 0;
  $("flow-empty").hidden = !isEmpty;
  $("clear").hidden = isEmpty;
  document.body.classList.toggle("fresh", isEmpty && !accessToken());
}

/** The newest answer comes into view. */
function reveal(exchange) {
  show(exchange);
  exchange?.view.scrollIntoView({ block: "start" });
}

export const stepOf = ({ step, status }) => (step === "request" && status === 401 ? "refused" : step);

/** The last exchange of this step of the map comes into view. */
export const revealStep = (step) => reveal(state.exchanges.findLast((each) => stepOf(each) === step) ?? state.current);

function render(exchange) {
  const { number, method, path, status, milliseconds, name, experiment, who, lesson } = exchange;
  const before = exchange.view.querySelector("details");
  const focus = before?.contains(document.activeElement) ? document.activeElement.id : "";
  const kind = status === null ? "pending" : status === 0 || status >= 500 ? "failed" : status >= 400 ? "refused" : "fine";
  const outcome = status === null ? "…" : status === 0 ? "No answer" : `${status} ${exchange.reason}`;
  const details = el("details", { open: isUnfolded(exchange) },
    el("summary", { id: `exchange-${number}` },
      el("span", { className: "number" }, String(number)),
      el("span", { className: `method ${method.toLowerCase()}` }, method),
      el("span", { className: "path" }, path),
      el("span", { className: `status ${kind}` }, outcome),
      el("span", { className: "name" }, name,
        who ? el("span", { className: "tag who" }, who) : null,
        experiment ? el("span", { className: "tag" }, experiment.name) : null),
      el("span", { className: "time" }, milliseconds === undefined ? "" : `${Math.round(milliseconds)} ms`)),
    el("div", { className: "body" }, lesson ? el("p", { className: "lesson" }, lesson) : null, ...tabs(exchange)));
  details.querySelector("summary").addEventListener("click", () => (exchange.isOpen = !details.open));
  exchange.view.dataset.kind = kind;
  exchange.view.classList.toggle("in-experiment", experiment !== null);
  exchange.view.replaceChildren(details);
  if (focus) $(focus)?.focus();
}

/** Request, Answer and curl, of which one is shown. */
function tabs(exchange) {
  const contents = { Request: requestOf, Answer: answerOf, curl: bashOf };
  const names = Object.keys(contents);
  const id = (kind, name) => `${kind}-${exchange.number}-${name.toLowerCase()}`;
  const choose = (name) => {
    exchange.tab = name;
    render(exchange);
    $(id("tab", name)).focus();
  };
  const list = el("div", { className: "tabs", role: "tablist", "aria-label": `Exchange ${exchange.number}` }, names.map((name) => {
    const isChosen = name === exchange.tab;
    return el("button", { type: "button", role: "tab", id: id("tab", name), tabIndex: isChosen ? 0 : -1, ariaSelected: String(isChosen), "aria-controls": id("panel", name), onclick: () => choose(name) }, name);
  }));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    choose(names.at((names.indexOf(exchange.tab) + step) % names.length));
    event.preventDefault();
  });
  const panel = (name) => el("div", { className: "panel", role: "tabpanel", id: id("panel", name), hidden: name !== exchange.tab, "aria-labelledby": id("tab", name) }, contents[name](exchange));
  return [list, ...names.map(panel)];
}

function requestOf({ method, path, headers, sent, note }) {
  const line = el("p", { className: "line" }, el("span", { className: `method ${method.toLowerCase()}` }, method), ` ${path}`);
  const remark = note ? el("p", { className: "remark" }, el("mark", {}, "Altered"), ` ${note}`) : null;
  return [line, remark, headersOf(headers), sent ? bodyOf(JSON.stringify(sent, null, 2), "Body of the request") : null];
}

function answerOf({ status, reason, answerHeaders, body, isSame }) {
  if (status === null) return [el("p", { className: "quiet" }, "On its way…")];
  if (status === 0) return [el("p", { className: "quiet" }, "No answer came.")];
  const line = el("p", { className: "line" }, `${status} ${reason}`);
  const same = isSame ? [el("p", { className: "remark" }, el("mark", {}, "The same"), " refresh_token as in the answer before.")] : [];
  return [line, same, headersOf(answerHeaders), body ? bodyOf(body, "Body of the answer") : el("p", { className: "quiet" }, "No body.")];
}

function headersOf(headers) {
  if (headers.length === 0) return el("p", { className: "quiet" }, "No headers of the page’s own.");
  const isKey = ([name]) => KEY_HEADERS.includes(name.toLowerCase());
  const line = ([name, value]) => el("div", { className: isKey([name]) ? "key" : "" }, el("dt", {}, name), el("dd", {}, withTokens(value)));
  const list = (shown, className) => (shown.length ? el("dl", { className }, shown.map(line)) : null);
  const count = el("summary", {}, `${headers.length} ${headers.length === 1 ? "header" : "headers"}`);
  return [el("details", { className: "headers" }, count, list(headers, "fields")), list(headers.filter(isKey), "fields keys")];
}

const bodyOf = (json, label) => el("pre", { tabIndex: 0, role: "group", "aria-label": label }, highlighted(json));

/** JSON in colours; the type of a problem leads to its paragraph. */
function highlighted(json) {
  const PIECES = /("(?:\\.|[^"\\])*")(\s*:)?|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\b(?:true|false|null)\b/g;
  const nodes = [];
  let end = 0;
  for (const { 0: piece, 1: text, 2: colon, index } of json.matchAll(PIECES)) {
    nodes.push(json.slice(end, index));
    end = index + piece.length;
    if (colon) nodes.push(el("span", { className: "member" }, text), colon);
    else if (/^"\/docs#[\w-]+"$/.test(piece)) nodes.push('"', el("a", { href: piece.slice(2, -1), target: "_blank", rel: "noopener" }, piece.slice(1, -1)), '"');
    else nodes.push(el("span", { className: text ? "text" : "value" }, withTokens(piece)));
  }
  return [...nodes, json.slice(end)];
}

function bashOf(exchange) {
  const line = curlOf(exchange, state.account());
  return [el("pre", { tabIndex: 0, role: "group", "aria-label": "The same in bash" }, line), copyButton("Copy", () => line)];
}

const isPresenting = () => document.body.classList.contains("presenting");

/** One exchange over the full width. */
function present(isOn) {
  document.body.classList.toggle("presenting", isOn);
  $("present").setAttribute("aria-pressed", String(isOn));
  if (isOn) show(state.current ?? state.exchanges.at(-1));
}

/** The exchange that present mode is at. */
function show(exchange) {
  state.current = exchange ?? null;
  for (const each of state.exchanges) each.view.classList.toggle("current", each === exchange);
  const index = state.exchanges.indexOf(exchange);
  $("position").textContent = index < 0 ? "Nothing yet" : `${index + 1} of ${state.exchanges.length}`;
  if (!isPresenting() || !exchange) return;
  exchange.view.querySelector("details").open = true;
  exchange.view.scrollIntoView({ block: "start" });
}

function move(by) {
  const exchange = state.exchanges[state.exchanges.indexOf(state.current) + by];
  if (exchange) show(exchange);
}

function onKey(event) {
  const isTyping = event.target.closest?.("input:not([type=checkbox], [type=radio]), textarea, select");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || $("shell").open) return;
  const by = { ArrowLeft: -1, ArrowUp: -1, PageUp: -1, ArrowRight: 1, ArrowDown: 1, PageDown: 1 }[event.key];
  if (event.key.toLowerCase() === "p") return present(!isPresenting());
  if (!isPresenting() || event.target.closest?.("[role=tablist], [type=radio], pre")) return;
  if (event.key === "Escape") return present(false);
  if (by) move(by), event.preventDefault();
}
