/**
 * The flow, laid open: every request of this page as it was sent, its answer as it came, the same in curl, and what the
 * tokens say. It listens at `fetch`, so that nothing is shown that did not happen. Passwords are struck out before
 * anything is kept; tokens are shown only where the reader asks for them. All of it stays in this page.
 */

const TOKEN = /(eyJ[\w-]+\.[\w-]+\.[\w-]+|lkr_[\w-]+)/g;
const PASSWORDS = ["password", "current_password", "new_password"];
const STRUCK_OUT = "••••••••";
const MOST_EXCHANGES = 100;

/** What an operation is for, by method and path; the first that fits. */
const LESSONS = [
  ["POST", /^\/auth\/register$/, "Make an account", "The password crosses the network, is hashed with bcrypt and forgotten: the server keeps the hash alone. There is no token yet; being registered is not being logged in."],
  ["POST", /^\/auth\/login$/, "Log in", "E-mail and password buy two tokens. The access token is shown with every request and lives for minutes. The refresh token does one thing: it buys the next pair."],
  ["POST", /^\/auth\/refresh$/, "Refresh", "The refresh token is good once. It buys a new access token and its own successor. Presented again later it ends the session, because then two parties hold it, and one of them may have stolen it."],
  ["POST", /^\/auth\/logout$/, "Log out", "The session is over on the server, and with it its access token, however long that would still have lived."],
  ["POST", /^\/auth\/logout-all$/, "Log out everywhere", "One number on the user is raised. Every session that was opened under the old number is over with the next request."],
  ["GET", /^\/auth\/me$/, "Ask who the token speaks for", "The signature is checked without the database. Then one statement finds out whether the session still lives and the user is active, and brings the user."],
  ["PUT", /^\/auth\/password$/, "Change the password", "The current password is asked for again: a token alone is not enough for this. Every other session ends, this one goes on."],
  ["POST", /^\/auth\/delete$/, "Delete the account", "The password once more, then the user, the tasks and the sessions go in one statement."],
  ["GET", /^\/api\/[^/]+\/tasks$/, "List tasks", "“me” in the path stands for the token’s own user. While there is more, the Link field of the answer leads to the next page."],
  ["POST", /^\/api\/[^/]+\/tasks$/, "Add a task", "Who owns it is taken from the token, never from the body: nobody can write into another’s list."],
  ["GET", /^\/api\/[^/]+\/tasks\/[^/]+$/, "Read a task", "Someone else’s task and no task at all are the same 404, so that nobody learns which ids exist."],
  ["PUT", /^\/api\/[^/]+\/tasks\/[^/]+$/, "Change a task", "What the body does not name stays as it is. The same request twice gives the same task, so a client may repeat it."],
  ["PATCH", /^\/api\/[^/]+\/tasks\/[^/]+\/complete$/, "Complete a task, or not", "With a value in the body the flag is set, which is safe to repeat. Without a body it would be turned round."],
  ["DELETE", /^\/api\/[^/]+\/tasks\/[^/]+$/, "Delete a task", "204: it worked, and there is nothing to say about it."],
];

/** What a refusal says about the flow. */
const REFUSALS = {
  0: "No answer came: the server is away or this device is offline. What was sent may or may not have arrived.",
  401: "The server does not know who asks. WWW-Authenticate names the way to say it and, where a token came, that it is no good.",
  403: "The server knows who asks, and the answer is no.",
  404: "There is nothing here for this user.",
  409: "What was asked for contradicts what is there.",
  422: "It is JSON, but a rule is broken. The errors member names each one, never the value.",
  429: "Too many attempts from here. Retry-After says how many seconds to wait; asking earlier does not prolong it.",
  503: "The server is busy or its database is away. Retry-After says when to come back.",
};

/** HTTP leaves the words to taste, and this server leaves them out. */
const REASONS = { 200: "OK", 201: "Created", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict", 422: "Unprocessable Content", 429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable" };

/** What each member of the header and each claim is for. */
const MEANINGS = {
  alg: "Algorithm. The server goes by the key, never by this.",
  typ: "Type: an access token. No other kind of token passes for one.",
  kid: "Key id: which of the server’s keys signed it.",
  iss: "Issuer: who made the token.",
  aud: "Audience: whom it is meant for.",
  sub: "Subject: the user that it speaks for.",
  sid: "Session: what logging out ends.",
  iat: "Issued at.",
  exp: "Expires. From then on it is worth nothing.",
};

/** An element with properties, attributes where there is no such property, and children. Text stays text. */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Minutes and seconds, for a person. */
export function clock(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  const [minutes, rest] = [Math.floor(whole / 60), whole % 60];
  return minutes > 0 ? `${minutes} min ${String(rest).padStart(2, "0")} s` : `${rest} s`;
}

const $ = (id) => document.getElementById(id);
const state = { exchanges: [], tokens: null, base: "", count: 0 };
const isShown = () => $("show-tokens").checked;

/** Starts listening to `fetch`. `base` is the server's address, for the lines of curl. */
export function layOpen(base) {
  state.base = base;
  const send = window.fetch.bind(window);
  window.fetch = async (url, request = {}) => {
    const exchange = begin(String(url), request);
    try {
      const response = await send(url, request);
      finish(exchange, response, await response.clone().text());
      return response;
    } catch (cause) {
      finish(exchange, null, "");
      throw cause;
    }
  };
  $("show-tokens").addEventListener("change", () => {
    for (const exchange of state.exchanges) render(exchange);
    inspect();
  });
  $("clear").addEventListener("click", clear);
  offerExperiments();
  inspect();
  setInterval(tick, 1000);
}

function begin(url, { method = "GET", headers = {}, body }) {
  const { pathname, search } = new URL(url, location.href);
  const exchange = {
    number: (state.count += 1),
    method,
    path: pathname.slice(new URL(state.base).pathname.replace(/\/$/, "").length) + search,
    headers: Object.entries(headers),
    sent: body ? withoutPasswords(JSON.parse(body)) : null,
    startedAt: performance.now(),
    answer: null,
    view: el("li"),
  };
  state.exchanges.unshift(exchange);
  $("exchanges").prepend(exchange.view);
  for (const old of state.exchanges.splice(MOST_EXCHANGES)) old.view.remove();
  showWhetherEmpty();
  render(exchange);
  return exchange;
}

const withoutPasswords = (body) =>
  Object.fromEntries(Object.entries(body).map(([name, value]) => [name, PASSWORDS.includes(name) ? STRUCK_OUT : value]));

function finish(exchange, response, text) {
  exchange.milliseconds = performance.now() - exchange.startedAt;
  exchange.answer = {
    status: response?.status ?? 0,
    reason: response?.statusText || REASONS[response?.status] || "",
    headers: response ? [...response.headers] : [],
    body: pretty(text),
  };
  learn(exchange, text);
  // The newest answer lies open; what the reader opened stays.
  for (const other of state.exchanges) if (other.isOpen === undefined && other !== exchange) fold(other);
  render(exchange, true);
}

function fold(exchange) {
  const details = exchange.view.querySelector("details");
  if (details) details.open = false;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Takes note of tokens that came and of sessions that ended. */
function learn({ path, answer: { status } }, text) {
  if (status === 200 && ["/auth/login", "/auth/refresh"].includes(path)) {
    const { access_token, refresh_token, refresh_expires_in } = JSON.parse(text);
    const [header, claims] = access_token.split(".").slice(0, 2).map(decoded);
    state.tokens = { access_token, refresh_token, header, claims, sessionEnds: Date.now() + refresh_expires_in * 1000 };
  }
  const ends = status === 204 && /^\/auth\/(logout|logout-all|delete)$/.test(path);
  if (ends || (status === 401 && path === "/auth/refresh")) state.tokens = null;
  $("experiments").hidden = !state.tokens;
  inspect();
}

function decoded(part) {
  const bytes = Uint8Array.from(atob(part.replace(/-/g, "+").replace(/_/g, "/")), (letter) => letter.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes));
}

function clear() {
  state.exchanges = [];
  $("exchanges").replaceChildren();
  showWhetherEmpty();
  $("flow").focus();
}

function showWhetherEmpty() {
  const isEmpty = state.exchanges.length === 0;
  $("flow-empty").hidden = !isEmpty;
  $("flow-note").hidden = isEmpty;
  $("clear").hidden = isEmpty;
}

// ------------------------------------------------------------------------------------------------- one exchange

function render(exchange, opens) {
  const before = exchange.view.querySelector("details");
  const { number, method, path, answer } = exchange;
  const [name, lesson] = lessonOf(method, path);
  const status = answer?.status;
  const kind = !answer ? "quiet" : status === 0 || status >= 500 ? "bad" : status >= 400 ? "warn" : "good";
  const outcome = !answer ? "…" : status === 0 ? "no answer" : `${status} · ${Math.round(exchange.milliseconds)} ms`;
  const details = el("details", { className: "exchange", open: opens ?? before?.open ?? false },
    el("summary", {},
      el("span", { className: "number" }, `${number}`),
      el("span", { className: "method" }, method),
      el("span", { className: "path" }, path),
      el("span", { className: `outcome ${kind}` }, outcome),
      el("span", { className: "name" }, name)),
    el("div", { className: "body" },
      el("p", { className: "lesson" }, lesson, REFUSALS[status] ? el("strong", {}, ` ${REFUSALS[status]}`) : null),
      el("div", { className: "wires" },
        wire("Request", requestText(exchange)),
        wire("Answer", answer ? answerText(answer) : "…"),
        wire("The same in curl", curlOf(exchange), { wide: true, copies: true }))));
  details.querySelector("summary").addEventListener("click", () => (exchange.isOpen = !details.open));
  const hadFocus = before?.querySelector("summary") === document.activeElement;
  exchange.view.replaceChildren(details);
  if (hadFocus) details.querySelector("summary").focus();
}

function lessonOf(method, path) {
  const plain = path.split("?")[0];
  const found = LESSONS.find(([verb, pattern]) => verb === method && pattern.test(plain));
  return found ? found.slice(2) : ["Another request", ""];
}

function requestText({ method, path, headers, sent }) {
  const head = [`${method} ${path}`, ...headers.map(([name, value]) => `${name}: ${value}`)].join("\n");
  return sent ? `${head}\n\n${JSON.stringify(sent, null, 2)}` : head;
}

function answerText({ status, reason, headers, body }) {
  if (status === 0) return "No answer came.";
  const head = [`${status} ${reason}`.trim(), ...headers.map(([name, value]) => `${name}: ${value}`)].join("\n");
  return body ? `${head}\n\n${body}` : head;
}

/** A line for a shell. What is not shown stands as a variable, as in the README's flow. */
function curlOf({ method, path, headers, sent }) {
  const parts = [method === "GET" || (method === "POST" && sent) ? "curl -sS" : `curl -sS -X ${method}`];
  parts[0] += ` ${quoted(state.base + path)}`;
  for (const [name, value] of headers) {
    const isHidden = name === "Authorization" && !isShown();
    parts.push(isHidden ? '-H "Authorization: Bearer $token"' : `-H ${quoted(`${name}: ${value}`)}`);
  }
  if (sent) {
    const hidden = Object.keys(sent).filter((name) => PASSWORDS.includes(name) || (name === "refresh_token" && !isShown()));
    const marked = Object.entries(sent).map(([name, value]) => [name, hidden.includes(name) ? `\u0000${name}\u0000` : value]);
    const json = quoted(JSON.stringify(Object.fromEntries(marked)));
    parts.push(`-d ${json.replace(/\\u0000(\w+)\\u0000/g, `'"$$$1"'`)}`);
  }
  return parts.join(" \\\n  ");
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function wire(title, text, { wide = false, copies = false } = {}) {
  const heading = el("h4", {}, title);
  if (copies) heading.append(copyButton(text));
  return el("div", { className: wide ? "wire wide" : "wire" }, heading, el("pre", {}, ...masked(text)));
}

/** The text with each token shortened, unless the reader asked for them. */
function masked(text) {
  return text.split(TOKEN).map((part, index) => (index % 2 === 1 ? el("mark", {}, shortened(part)) : part));
}

const shortened = (token) => (isShown() ? token : `${token.slice(0, 7)}…`);

function copyButton(text) {
  const button = el("button", { type: "button", className: "plain" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it by hand";
    }
    $("announcement").textContent = button.textContent;
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}

// -------------------------------------------------------------------------------------------------- the tokens

function inspect() {
  const { tokens } = state;
  $("chip").hidden = !tokens;
  if (!tokens) {
    const words = "No token yet. Logging in gives two: one to show with every request, one that buys the next pair.";
    $("inspector").replaceChildren(el("p", { className: "quiet" }, words));
    return;
  }
  const { claims, header } = tokens;
  $("inspector").replaceChildren(
    el("h3", {}, "Access token"),
    el("p", { className: "quiet" }, "Three parts: header, claims, signature. Anybody can read the first two; only the server can make the third. It stays in this page’s memory and is gone with a reload, which is why reloading shows a refresh."),
    el("p", { className: "raw" }, ...coloured(tokens.access_token)),
    el("div", { className: "life", id: "life" }, el("progress", { max: claims.exp - claims.iat, "aria-label": "What is left of the access token’s life" }), el("strong"), el("span", { className: "quiet" })),
    claimTable("Header", "header", header),
    claimTable("Claims", "claims", claims),
    el("div", { className: "token" },
      el("h3", {}, "Refresh token"),
      el("p", { className: "raw signature" }, shortened(tokens.refresh_token)),
      el("p", { className: "quiet" }, `Opaque: there is nothing in it for anybody but the server. Good once. It is kept in this tab’s session storage. The session ends on ${new Date(tokens.sessionEnds).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })} unless it is refreshed before.`)));
  tick();
}

function coloured(token) {
  const kinds = ["header", "claims", "signature"];
  return token.split(".").flatMap((part, index) => {
    const text = isShown() ? part : index < 2 ? `${part.slice(0, 24)}…` : "•••";
    return [index > 0 ? "." : null, el("span", { className: kinds[index] }, text)].filter(Boolean);
  });
}

function claimTable(title, className, members) {
  const rows = Object.entries(members).map(([name, value]) => {
    const isTime = name === "iat" || name === "exp";
    const time = isTime ? el("small", { "data-time": value }, new Date(value * 1000).toLocaleTimeString()) : null;
    return el("tr", {},
      el("th", { scope: "row", className }, name),
      el("td", { className: "value" }, String(value), time),
      el("td", {}, MEANINGS[name] ?? ""));
  });
  return el("table", { className: "claim-table" }, el("caption", {}, title), el("tbody", {}, ...rows));
}

/** Once a second: what is left of the access token. */
function tick() {
  const life = $("life");
  if (!life || !state.tokens) return;
  const left = state.tokens.claims.exp - Date.now() / 1000;
  const [bar, text, note] = life.children;
  $("chip").textContent = left > 0 ? `Token: ${clock(left)}` : "Token: expired";
  bar.value = Math.max(0, left);
  life.classList.toggle("late", left <= 30);
  text.textContent = left > 0 ? `${clock(left)} left` : "expired";
  note.textContent = left > 30 ? "under 30 s the next request refreshes it first" : "the next request refreshes it first";
}

// --------------------------------------------------------------------------------------------------- refusals

function offerExperiments() {
  const bearer = () => ({ Authorization: `Bearer ${state.tokens.access_token}` });
  const forged = () => {
    const [header, claims, signature] = state.tokens.access_token.split(".");
    return { Authorization: `Bearer ${header}.${claims}.${signature.slice(0, -6)}forged` };
  };
  const json = { "Content-Type": "application/json" };
  const choices = [
    ["No token", "/auth/me", () => ({})],
    ["A forged signature", "/auth/me", () => ({ headers: forged() })],
    ["Another user’s list", "/api/somebody-else/tasks", () => ({ headers: bearer() })],
    ["A task that is not there", "/api/me/tasks/no-such-task", () => ({ headers: bearer() })],
    ["A member that is not known", "/api/me/tasks", () => ({ method: "POST", headers: { ...bearer(), ...json }, body: JSON.stringify({ title: "Mine", user_id: "somebody-else" }) })],
  ];
  const buttons = choices.map(([label, path, request]) => {
    const button = el("button", { type: "button" }, label);
    button.addEventListener("click", () => window.fetch(state.base + path, request()).catch(() => {}));
    return button;
  });
  document.querySelector("#experiments .choices").append(...buttons);
}
