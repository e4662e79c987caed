/**
 * The page's session, account and map, on top of `api.js`. Every state has its place: looking for a session, a server
 * that cannot answer, logged out, logged in, offline, too many attempts.
 */

import { createClient } from "./api.js";
import { allowExperiments, run, startExperiments } from "./experiments.js";
import { revealStep, startFlow, stepOf } from "./flow.js";
import { addTask, clearTasks, loadTasks, startTasks } from "./tasks.js";
import { $, clock, el, letGo } from "./token.js";

const STORED = "latchkey.refresh_token";
const RETRY_SECONDS = 5;
const PATIENCE_MS = 500;
/** The server's fields: in the user's words, and the input of each. */
const FIELDS = {
  email: ["The e-mail", "email"], password: ["The password", "password"], title: ["The title", "title"], description: ["The description", "description"],
  current_password: ["The current password", "current"], new_password: ["The new password", "new"],
};
const base = new URL(".", location.href).href.replace(/\/$/, "");
const session = { client: null, email: "", refreshToken: () => sessionStorage.getItem(STORED), renew: () => newClient().me(), logout: () => logout() };
const storage = tabStorage();
/** Until when something is locked, by what it is about. */
const locks = new Map();

/** A client that knows nothing but the stored refresh token, as after a reload: its first request refreshes. */
function newClient() {
  const onUnauthorized = () => session.client === client && leave("The session is over. Log in again.");
  const client = createClient({ baseUrl: base, storage, onUnauthorized });
  return (session.client = client);
}

/**
 * This tab's storage, so that a reload goes on where it was. A duplicated tab holds the same refresh token, which is
 * good once: whoever refreshes tells the tabs that hold the token which one has followed it.
 */
function tabStorage() {
  const channel = new BroadcastChannel("latchkey");
  const put = (name, now) => (now ? sessionStorage.setItem(name, now) : sessionStorage.removeItem(name));
  channel.addEventListener("message", ({ data: { name, before, now } }) => {
    if (sessionStorage.getItem(name) !== before) return;
    put(name, now);
    if (!now) leave("Logged out in another tab.");
  });
  const change = (name, now) => {
    const before = sessionStorage.getItem(name);
    put(name, now);
    if (before) channel.postMessage({ name, before, now });
  };
  return { getItem: (name) => sessionStorage.getItem(name), setItem: change, removeItem: (name) => change(name, null) };
}

/** Goes on with the stored session, if there is one. Where the server cannot answer, the session is kept. */
async function start() {
  if (!session.refreshToken()) return newClient(), show("guest");
  if ($("away").hidden) show("starting");
  $("token-note").textContent = "The refresh token is kept. It brings the next one.";
  const { data, error } = await session.renew();
  if (data) return enter(data.email);
  if (error.status === 401) return;
  showAway(error.detail);
  const timer = setTimeout(start, (error.retryAfter ?? RETRY_SECONDS) * 1000);
  $("try-again").onclick = () => (clearTimeout(timer), start());
}

const showAway = (reason) => (($("away-reason").textContent = reason), show("away"));

function show(name) {
  for (const id of ["starting", "away", "guest", "member"]) $(id).hidden = id !== name;
  for (const form of document.forms) forget(form);
  document.body.dataset.session = name;
  allowExperiments(name === "member");
}

function enter(email) {
  session.email = email ?? "";
  $("who").textContent = $("who").title = session.email;
  show("member");
  for (const field of document.getElementsByName("username")) field.value = session.email;
  $("title").focus();
  loadTasks(session.client);
}

/** Back to the form, with the reason; nothing of the session stays. `state` is the token's. */
function leave(reason, state = "revoked") {
  const wasInside = $("member").contains(document.activeElement) || document.activeElement === document.body;
  newClient();
  clearTasks();
  show("guest");
  letGo(state, reason);
  say($("sign"), "wait", reason);
  $("email").value = session.email;
  if (wasInside) $(session.email ? "password" : "email").focus();
}

function startMap() {
  const forms = { register: () => choose("register"), login: () => choose("login") };
  const acts = { ...forms, request: () => session.client.me(), refused: () => run("expired", session), refresh: session.renew, logout };
  for (const step of steps()) {
    const name = step.dataset.step;
    step.querySelector("button").addEventListener("click", () => (light(name), revealStep(name)));
    step.querySelector(".act").addEventListener("click", () => {
      if (!$("member").hidden || forms[name]) return acts[name]();
      choose("login");
      say($("sign"), "wait", "Log in first.");
    });
  }
  document.addEventListener("exchange", ({ detail }) => {
    light(stepOf(detail));
    if (!$("starting").hidden && (detail.status === 0 || detail.status >= 500)) showAway("The server cannot answer right now.");
  });
}

const steps = () => document.querySelectorAll(".step");

function light(name) {
  for (const step of steps()) {
    const isLit = step.dataset.step === name;
    step.classList.toggle("lit", isLit);
    step.querySelector("button").ariaCurrent = isLit ? "step" : null;
  }
}

/** Brings the form into view, with this purpose. */
function choose(deed) {
  if (!$("member").hidden) return $("logout").focus();
  $("view-tasks").checked = true;
  $("sign").elements.deed.value = deed;
  chooseDeed();
  $("email").focus();
}

function connect() {
  onSubmit("sign", sign);
  onSubmit("change-password", changePassword);
  onSubmit("everywhere", async () => farewell(await session.client.logoutAll(), "Logged out everywhere."));
  onSubmit("delete-account", deleteAccount);
  $("add").addEventListener("submit", add);
  $("logout").addEventListener("click", logout);
  // Another e-mail, or another purpose, is not locked.
  $("sign").addEventListener("input", chooseDeed);
  $("reveal").addEventListener("click", () => reveal($("password").type === "password"));
  $("connection").hidden = navigator.onLine;
  window.addEventListener("offline", () => ($("connection").hidden = false));
  window.addEventListener("online", () => (($("connection").hidden = true), $("member").hidden || loadTasks(session.client)));
  setInterval(() => ["sign", "change-password", "everywhere", "delete-account"].forEach((id) => showLock($(id))), 1000);
}

/** One submission at a time. The first field that is missing is named, and a slow answer says that it is slow. */
function onSubmit(id, act) {
  const form = $(id);
  const button = form.querySelector("[type=submit]");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.ariaDisabled === "true") return;
    quieten(form);
    const missing = [...form.elements].find((field) => field.required && field.value.trim() === "");
    if (missing) return mark(missing, "Please fill this in.");
    button.ariaDisabled = button.ariaBusy = "true";
    const slow = setTimeout(() => say(form, "slow", "The server is still working on it…"), PATIENCE_MS);
    const error = await act(form);
    clearTimeout(slow);
    button.ariaDisabled = button.ariaBusy = "false";
    if (form.querySelector(".slow")) quieten(form);
    if (error) complain(form, error);
  });
}

function reveal(isShown) {
  $("password").type = isShown ? "text" : "password";
  Object.assign($("reveal"), { textContent: isShown ? "Hide" : "Show", ariaPressed: String(isShown) });
}

function forget(form) {
  form.reset();
  quieten(form);
  if (form.id === "sign") reveal(false), chooseDeed();
}

function quieten(form) {
  form.querySelector(".message")?.replaceChildren();
  for (const field of form.elements) field.removeAttribute("aria-invalid");
  for (const place of form.querySelectorAll(".field-error")) place.textContent = "";
}

function mark(field, words) {
  field.ariaInvalid = "true";
  const place = $(`${field.id}-error`);
  if (place) place.textContent = words;
  else say(field.form, "", words);
  field.focus();
}

const say = (form, kind, words) =>
  form.querySelector(".message").replaceWith(el("div", { className: `message ${kind}`, role: "alert" }, el("p", {}, words)));

/** An error in the user's words. */
function wordsOf({ errors, detail }) {
  return errors.map((rule) => `${FIELDS[rule.field]?.[0] ?? "What was sent"} ${rule.detail}.`).join(" ") || detail;
}

/** The error at its place: at the fields that break a rule, or below the form; too many attempts lock what they are about. */
function complain(form, error) {
  for (const { field, detail } of error.errors.toReversed()) {
    const [words, id] = FIELDS[field] ?? [];
    if (form.elements[id]) mark(form.elements[id], `${words} ${detail}.`);
  }
  if (form.querySelector("[aria-invalid=true]")) return;
  say(form, error.retryAfter ? "wait" : "", wordsOf(error));
  if (!error.retryAfter) return;
  const key = lockKey(form);
  locks.set(key, Date.now() + error.retryAfter * 1000);
  showLock(form);
  setTimeout(() => key === lockKey(form) && (showLock(form), say(form, "fine", "You can try again now.")), error.retryAfter * 1000);
}

const lockKey = (form) => (form.id === "sign" ? `${form.elements.deed.value} ${$("email").value.trim().toLowerCase()}` : form.id);

/** A locked button counts down. */
function showLock(form) {
  const button = form.querySelector("[type=submit]");
  const left = ((locks.get(lockKey(form)) ?? 0) - Date.now()) / 1000;
  button.dataset.label ??= button.textContent;
  button.textContent = left > 0 ? `Wait ${clock(left)}` : button.dataset.label;
  if (button.ariaBusy !== "true") button.ariaDisabled = String(left > 0);
}

function chooseDeed() {
  const registers = $("sign").elements.deed.value === "register";
  $("sign").querySelector("[type=submit]").dataset.label = registers ? "Register and log in" : "Log in";
  $("password").autocomplete = registers ? "new-password" : "current-password";
  $("password-hint").hidden = !registers;
  showLock($("sign"));
}

async function sign({ elements: { email, password, deed } }) {
  const credentials = { email: email.value.trim(), password: password.value };
  const registered = deed.value === "register" ? await session.client.register(credentials) : { error: null };
  const { error } = registered.error ? registered : await session.client.login(credentials);
  if (error) return error;
  enter(credentials.email);
}

const logout = async () => farewell(await session.client.logout(), "Logged out.");

/** Where the server could not be told, the session goes on there: the user must know. */
const farewell = ({ error }, words) =>
  error ? leave(`Logged out on this page. ${error.detail} The session may go on at the server.`, "dropped") : leave(words);

async function changePassword(form) {
  const { current, new: next } = form.elements;
  const { error } = await session.client.changePassword({ currentPassword: current.value, newPassword: next.value });
  if (error) return error;
  form.reset();
  say(form, "fine", "The new password holds. Every other session is over.");
}

async function deleteAccount(form) {
  const { error } = await session.client.deleteAccount({ password: form.elements.confirmation.value });
  if (error) return error;
  session.email = "";
  leave("The account and everything in it are gone.");
}

/** The form is free for the next task at once; a broken rule brings the text back. */
async function add(event) {
  event.preventDefault();
  const form = event.target;
  const task = { title: form.elements.title.value, description: form.elements.description.value };
  quieten(form);
  if (task.title === "") return mark(form.elements.title, "Please fill this in.");
  form.reset();
  form.elements.title.focus();
  const error = await addTask(session.client, task);
  if (error) for (const [name, value] of Object.entries(task)) form.elements[name].value = value;
  if (error) complain(form, error);
}

startFlow(base, () => session.email || $("email").value.trim() || "you@example.com");
startTasks(wordsOf);
startExperiments(session);
startMap();
connect();
start();
