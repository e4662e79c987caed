/**
 * The page's tasks and account, on top of `api.js`. Every state has its place: looking for a session, logged out, no
 * tasks, loading, refused, offline, too many attempts.
 */

import { createClient } from "./api.js";
import { clock, el, layOpen } from "./flow.js";

const PAGE_SIZE = 50;
const $ = (id) => document.getElementById(id);
const base = new URL(".", location.href).href.replace(/\/$/, "");

const client = createClient({ baseUrl: base, storage: tabStorage(), onUnauthorized: () => leaveWith("The session is over. Log in again.") });

/** The tasks on the page and the rest of them; a newer list takes the place of `rest`. */
const list = { tasks: new Map(), rest: null, hasMore: false };

layOpen(base);
start();

/**
 * This tab's storage, so that a reload goes on where it was. A duplicated tab holds the same refresh token, which is
 * good once: whoever refreshes tells the tabs that hold the token which one has followed it.
 */
function tabStorage() {
  const channel = new BroadcastChannel("latchkey");
  channel.addEventListener("message", ({ data: { name, before, now } }) => {
    if (sessionStorage.getItem(name) !== before) return;
    if (now) sessionStorage.setItem(name, now);
    else sessionStorage.removeItem(name);
    if (!now) leaveWith("Logged out in another tab.");
  });
  const change = (name, now) => {
    const before = sessionStorage.getItem(name);
    if (now) sessionStorage.setItem(name, now);
    else sessionStorage.removeItem(name);
    if (before) channel.postMessage({ name, before, now });
  };
  return { getItem: (name) => sessionStorage.getItem(name), setItem: change, removeItem: (name) => change(name, null) };
}

async function start() {
  connectForms();
  window.addEventListener("offline", showConnection);
  window.addEventListener("online", () => (showConnection(), $("member").hidden || loadTasks()));
  showConnection();
  if (!sessionStorage.length) return show("guest");
  const { data, error } = await client.me();
  if (data) return enter(data.email);
  show("guest");
  // The session may well live: only the server could not be asked.
  if (error.status !== 401) complain($("sign"), error, "Reload the page to go on with your session.");
}

function show(name) {
  for (const id of ["starting", "guest", "member"]) $(id).hidden = id !== name;
}

function showConnection() {
  $("connection").hidden = navigator.onLine;
  $("connection").textContent = navigator.onLine ? "" : "You are offline. What is shown may be old; nothing can be changed until you are back.";
}

async function enter(email) {
  $("who").textContent = email ?? "";
  $("who").title = email ?? "";
  for (const form of document.forms) forget(form);
  for (const field of document.getElementsByName("username")) field.value = email ?? "";
  show("member");
  $("title").focus();
  await loadTasks();
}

/** Back to the form, with the reason. */
function leaveWith(reason) {
  const wasInside = !$("member").hidden;
  list.tasks.clear();
  $("tasks").replaceChildren();
  for (const form of document.forms) forget(form);
  show("guest");
  if (!wasInside) return;
  say($("sign"), "wait", reason);
  $("email").focus();
}

// ------------------------------------------------------------------------------------------------------ forms

function connectForms() {
  onSubmit("sign", sign);
  onSubmit("add", add);
  onSubmit("change-password", changePassword);
  onSubmit("leave", () => client.logoutAll().then(({ error }) => farewell(error, "Logged out everywhere.")));
  onSubmit("delete-account", deleteAccount);
  for (const input of document.getElementsByName("deed")) input.addEventListener("change", chooseDeed);
  for (const input of document.getElementsByName("shown")) input.addEventListener("change", loadTasks);
  $("logout").addEventListener("click", () => client.logout().then(({ error }) => farewell(error, "Logged out.")));
  $("reveal").addEventListener("click", () => {
    const isShown = $("password").type === "password";
    $("password").type = isShown ? "text" : "password";
    $("reveal").textContent = isShown ? "Hide" : "Show";
    $("reveal").setAttribute("aria-pressed", String(isShown));
  });
}

/** One submission at a time; the first field that is missing is named, not the browser's bubble. */
function onSubmit(id, act) {
  const form = $(id);
  const button = form.querySelector("[type=submit]");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    quieten(form);
    const missing = [...form.elements].find((field) => field.required && field.value.trim() === "");
    if (missing) return void mark(missing, "Please fill this in.");
    button.disabled = true;
    const error = await act(form);
    if (!form.dataset.waits) button.disabled = false;
    if (error) complain(form, error);
  });
}

function forget(form) {
  form.reset();
  quieten(form);
  $("password").type = "password";
  $("reveal").textContent = "Show";
  $("reveal").setAttribute("aria-pressed", "false");
  if (form.id === "sign") chooseDeed();
}

function quieten(form) {
  form.querySelector(".message")?.replaceChildren();
  for (const field of form.elements) field.removeAttribute?.("aria-invalid");
  for (const place of form.querySelectorAll(".field-error")) place.textContent = "";
}

function mark(field, words) {
  const place = $(`${field.id}-error`);
  field.setAttribute("aria-invalid", "true");
  if (place) place.textContent = words;
  else say(field.form, "", words);
  field.focus();
}

function say(form, kind, ...words) {
  const message = form.querySelector(".message");
  message.className = `message ${kind}`;
  message.replaceChildren(el("p", {}, ...words));
}

/** The error at its place: at the field that broke the rule, with a countdown, or below the form. */
function complain(form, error, advice = "") {
  const names = { current_password: "current", new_password: "new" };
  const general = [];
  for (const { field, detail } of error.errors) {
    const input = form.elements[names[field] ?? field];
    if (input?.id && $(`${input.id}-error`)) mark(input, `This ${detail}.`);
    else general.push(`${field || "The body"} ${detail}.`);
  }
  if (error.retryAfter) return wait(form, error);
  if (error.errors.length && !general.length) return;
  say(form, "", general.length ? general.join(" ") : error.detail, advice && ` ${advice}`);
}

/** 429 and 503: the button waits as long as the server asks, and says so. */
function wait(form, { detail, retryAfter }) {
  const button = form.querySelector("[type=submit]");
  const until = Date.now() + retryAfter * 1000;
  const label = button.textContent;
  say(form, "wait", `${detail} The button is back in ${clock(retryAfter)}.`);
  button.disabled = true;
  form.dataset.waits = "yes";
  const step = () => {
    const left = (until - Date.now()) / 1000;
    button.textContent = left > 0 ? `Wait ${clock(left)}` : label;
    if (left > 0) return void setTimeout(step, 250);
    delete form.dataset.waits;
    button.disabled = false;
    say(form, "fine", "You can try again now.");
  };
  step();
}

// ----------------------------------------------------------------------------------------------------- account

function chooseDeed() {
  const registers = $("sign").elements.deed.value === "register";
  const button = $("sign").querySelector("[type=submit]");
  if (!$("sign").dataset.waits) button.textContent = registers ? "Create the account and log in" : "Log in";
  $("password").autocomplete = registers ? "new-password" : "current-password";
  $("password-hint").hidden = !registers;
}

async function sign(form) {
  const credentials = { email: form.elements.email.value.trim(), password: form.elements.password.value };
  if (form.elements.deed.value === "register") {
    const { error } = await client.register(credentials);
    if (error) return error;
  }
  const { error } = await client.login(credentials);
  if (error) return error;
  await enter(credentials.email);
}

/** Where the server could not be told, the session lives on there: the user must know. */
function farewell(error, words) {
  leaveWith(error ? `Logged out on this page. ${error.detail} The session may still live on the server.` : words);
}

async function changePassword(form) {
  const passwords = { currentPassword: form.elements.current.value, newPassword: form.elements.new.value };
  const { error } = await client.changePassword(passwords);
  if (error) return error;
  form.reset();
  say(form, "fine", "The new password holds. Every other session is over.");
}

async function deleteAccount(form) {
  const { error } = await client.deleteAccount({ password: form.elements.confirmation.value });
  if (error) return error;
  leaveWith("The account and everything in it are gone.");
}

// ------------------------------------------------------------------------------------------------------- tasks

async function loadTasks() {
  const completed = { true: true, false: false }[document.querySelector("[name=shown]:checked").value];
  const rest = client.tasks.list({ completed, limit: PAGE_SIZE })[Symbol.asyncIterator]();
  list.rest = rest;
  list.tasks.clear();
  $("tasks").replaceChildren();
  $("tasks").setAttribute("aria-busy", "true");
  $("list-state").replaceChildren(...[1, 2, 3].map(() => el("div", { className: "skeleton" })));
  await loadMore(rest);
}

/** The next tasks of this list, if no newer one was asked for meanwhile. */
async function loadMore(rest) {
  for (let n = 0; n < PAGE_SIZE; n += 1) {
    const { value, done } = await rest.next();
    if (list.rest !== rest) return;
    if (done) return settle(false);
    if (value.error) return showListError(value.error);
    put(value.data);
  }
  settle(true);
}

function settle(hasMore) {
  list.hasMore = hasMore;
  $("tasks").removeAttribute("aria-busy");
  showListState();
}

function showListState() {
  if (list.hasMore) {
    const more = el("button", { type: "button" }, "Show more");
    more.addEventListener("click", () => ((more.disabled = true), loadMore(list.rest)));
    return void $("list-state").replaceChildren(more);
  }
  if (list.tasks.size > 0) return void $("list-state").replaceChildren();
  const shown = document.querySelector("[name=shown]:checked").value;
  const [title, words] = {
    "": ["Nothing to do yet", "Add the first task above and watch the request on its way."],
    false: ["Nothing is open", "Everything here is done."],
    true: ["Nothing is done yet", "Tick a task to complete it."],
  }[shown];
  $("list-state").replaceChildren(el("div", { className: "empty" }, el("strong", {}, title), words));
}

function showListError({ status, detail }) {
  if (status === 401) return;
  $("tasks").removeAttribute("aria-busy");
  const again = el("button", { type: "button" }, "Try again");
  again.addEventListener("click", loadTasks);
  $("list-state").replaceChildren(el("div", { className: "message", role: "alert" }, el("p", {}, detail)), again);
}

const announce = (words) => ($("announcement").textContent = words);

async function add(form) {
  const { title, description } = form.elements;
  const { data, error } = await client.tasks.create({ title: title.value, description: description.value || undefined });
  if (error) return error;
  form.reset();
  // While there are more pages the newest task belongs behind them.
  if (!list.hasMore && $("filter").querySelector(":checked").value !== "true") put(data);
  showListState();
  announce(`Added ${data.title}.`);
  title.focus();
}

/** The task on the page, at its place or at the end. */
function put(task) {
  const before = list.tasks.get(task.id)?.row;
  const row = rowOf(task);
  list.tasks.set(task.id, { task, row });
  if (before) before.replaceWith(row);
  else $("tasks").append(row);
  return row;
}

function rowOf(task) {
  const box = el("input", { type: "checkbox", id: `task-${task.id}`, checked: task.completed });
  const note = task.description ? el("small", {}, task.description) : null;
  const label = el("label", { htmlFor: box.id }, el("span", { className: "title" }, task.title), note);
  const edit = el("button", { type: "button", className: "plain edit", "aria-label": `Edit ${task.title}` }, "Edit");
  const remove = el("button", { type: "button", className: "plain remove", "aria-label": `Delete ${task.title}` }, "Delete");
  box.addEventListener("change", () => complete(task, box));
  edit.addEventListener("click", () => editing(task));
  remove.addEventListener("click", () => discard(task, remove));
  const deeds = el("div", { className: "deeds" }, edit, remove);
  return el("li", { className: task.completed ? "task done" : "task" }, box, label, deeds);
}

async function complete(task, box) {
  const { data, error } = await client.tasks.complete(task.id, box.checked);
  if (error) {
    box.checked = task.completed;
    return refuse(task, error);
  }
  put(data).querySelector("input").focus();
  announce(`${data.title} is ${data.completed ? "done" : "open"}.`);
}

async function discard(task, button) {
  button.disabled = true;
  const { error } = await client.tasks.remove(task.id);
  button.disabled = false;
  if (error && error.status !== 404) return refuse(task, error);
  const { row } = list.tasks.get(task.id);
  const next = (row.nextElementSibling ?? row.previousElementSibling)?.querySelector(".remove") ?? $("title");
  row.remove();
  list.tasks.delete(task.id);
  showListState();
  announce(`Deleted ${task.title}.`);
  next.focus();
}

/** The row as a form: Enter saves, Escape leaves it as it was. */
function editing(task) {
  const { row } = list.tasks.get(task.id);
  const title = el("input", { value: task.title, maxLength: 255, required: true, "aria-label": "Title" });
  const description = el("textarea", { value: task.description ?? "", maxLength: 2000, rows: 2, placeholder: "Description", "aria-label": "Description" });
  const cancel = el("button", { type: "button" }, "Cancel");
  const form = el("form", { noValidate: true }, title, description,
    el("div", { className: "deeds" }, el("button", { type: "submit", className: "primary" }, "Save"), cancel),
    el("div", { className: "message", role: "alert" }));
  const back = (to) => put(to).querySelector(".edit").focus();
  cancel.addEventListener("click", () => back(task));
  form.addEventListener("keydown", (event) => event.key === "Escape" && back(task));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { data, error } = await client.tasks.update(task.id, { title: title.value, description: description.value || null });
    if (error) return complain(form, error);
    back(data);
    announce(`Saved ${data.title}.`);
  });
  row.replaceChildren(form);
  title.select();
}

/** A deed on one task that was refused: said below the list, where the rows stay as they were. */
function refuse(task, { status, detail }) {
  if (status === 401) return;
  const words = `${task.title}: ${detail}`;
  $("list-state").replaceChildren(el("div", { className: "message", role: "alert" }, el("p", {}, words)));
}
