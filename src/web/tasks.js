/**
 * The task list: newest first, each task in its own state (on its way, refused, deleted), which stands in its row. A
 * list that was asked for is kept whole, so that filters and counts cost no request.
 */

import { $, announce, el, icon } from "./token.js";

const PAGE_SIZE = 100;
const FILTERS = { "": () => true, false: ({ task }) => !task.completed, true: ({ task }) => task.completed };
const EMPTY = {
  "": ["Nothing to do yet", "Add the first task and watch the request on its way."],
  false: ["Nothing is open", "Everything here is done."],
  true: ["Nothing is done yet", "Tick a task to complete it."],
};

/** `entries`, newest first: `{task, state, words, retry, isListed, row}` with state `ok`, `pending`, `failed`, `editing` or `deleted`. */
const list = { entries: [], client: null, run: 0, shown: PAGE_SIZE, words: null };

export function startTasks(wordsOf) {
  list.words = wordsOf;
  for (const input of document.getElementsByName("shown")) input.addEventListener("change", choose);
}

const filter = () => document.querySelector("[name=shown]:checked").value;

export function clearTasks() {
  list.run += 1;
  list.entries = [];
  $("tasks").replaceChildren();
}

/** All tasks, page after page: the server lists the oldest first. */
export async function loadTasks(client) {
  clearTasks();
  list.client = client;
  const run = list.run;
  $("tasks").ariaBusy = "true";
  $("list-state").replaceChildren(...[1, 2, 3].map(() => el("div", { className: "skeleton" })));
  for await (const { data, error } of client.tasks.list({ limit: PAGE_SIZE })) {
    if (list.run !== run) return;
    if (error) return failToLoad(error);
    if (list.entries.some(({ task }) => task.id === data.id)) continue;
    list.entries.unshift(entryOf(data));
    if (list.entries.length % PAGE_SIZE === 0) $("list-state").replaceChildren(el("p", { className: "quiet" }, `Loading… ${list.entries.length} tasks so far.`));
  }
  if (list.run === run) choose();
}

function failToLoad(error) {
  if (error.status === 401) return;
  choose();
  const again = button("again", () => (loadTasks(list.client), $("title").focus()), "Try again");
  $("list-state").replaceChildren(el("div", { className: "message", role: "alert" }, el("p", {}, list.words(error)), again));
}

const entryOf = (task) => ({ task, state: "ok", words: "", retry: null, isListed: true, row: el("li") });

/** Lists what the filter asks for; what changes afterwards stays until the next choice. */
function choose() {
  $("tasks").ariaBusy = "false";
  list.shown = PAGE_SIZE;
  list.entries = list.entries.filter(({ state }) => state !== "deleted");
  for (const entry of list.entries) entry.isListed = FILTERS[filter()](entry);
  drawAll();
}

function drawAll() {
  const listed = list.entries.filter(({ isListed }) => isListed);
  const rows = listed.slice(0, list.shown);
  rows.filter(({ state }) => state !== "editing").forEach(draw);
  $("tasks").replaceChildren(...rows.map(({ row }) => row));
  const rest = listed.length - rows.length;
  const more = () => {
    list.shown += PAGE_SIZE;
    drawAll();
    listed[rows.length].row.querySelector("input").focus();
  };
  const [title, words] = EMPTY[filter()];
  const empty = el("div", { className: "empty" }, el("strong", {}, title), words);
  $("list-state").replaceChildren(...(listed.length === 0 ? [empty] : rest > 0 ? [button("more", more, `Show ${Math.min(rest, PAGE_SIZE)} more of ${rest}`)] : []));
  count();
}

function count() {
  const alive = list.entries.filter(({ state }) => state !== "deleted");
  for (const [value, fits] of Object.entries(FILTERS)) $(`count-${value || "all"}`).textContent = alive.filter(fits).length;
}

/** One request about one task; its state stands in the row until it is answered, and `done` takes the answer. */
async function attempt(entry, send, done) {
  Object.assign(entry, { state: "pending", retry: () => attempt(entry, send, done) });
  draw(entry);
  const { data, error } = await send();
  if (error?.status === 401) return error;
  Object.assign(entry, error ? { state: "failed", words: list.words(error) } : { state: "ok" });
  if (!error) done(data);
  draw(entry);
  count();
  return error;
}

/** A new task stands on top at once. What breaks a rule goes back to the form. */
export async function addTask(client, { title, description }) {
  const entry = entryOf({ id: "", title, description, completed: false });
  list.entries.unshift(entry);
  drawAll();
  const send = () => client.tasks.create({ title, description: description || undefined });
  const error = await attempt(entry, send, (task) => ((entry.task = task), announce(`Added ${task.title}.`)));
  if (!error?.errors?.length) return null;
  remove(entry);
  return error;
}

const remove = (entry) => ((list.entries = list.entries.filter((other) => other !== entry)), drawAll());

/** Draws the row anew; the focus stays where it was, or goes to what took its place. */
function draw(entry) {
  const { task, state, row } = entry;
  const focused = row.contains(document.activeElement) ? document.activeElement.dataset.role ?? "" : null;
  row.className = `task ${state}${task.completed ? " done" : ""}`;
  row.ariaBusy = String(state === "pending");
  row.replaceChildren(...(state === "deleted" ? tombstone(entry) : state === "editing" ? [editor(entry)] : content(entry)));
  if (focused === null) return;
  (row.querySelector(`[data-role="${focused}"]`) ?? row.querySelector("input, button") ?? $("title")).focus();
}

/** A button that `draw` finds again by its role. Its name says which task it is about. */
function button(role, act, text = icon(role), properties = {}) {
  const made = el("button", { type: "button", "data-role": role, ...properties }, text);
  made.addEventListener("click", act);
  return made;
}

const action = (role, label, act, text) => button(role, act, text, { className: "plain", "aria-label": label });

function content(entry) {
  const { task, state, words, retry } = entry;
  const box = el("input", { type: "checkbox", id: `task-${task.id || "new"}`, checked: task.completed, "data-role": "box" });
  box.addEventListener("click", (event) => (state === "pending" || !task.id ? event.preventDefault() : complete(entry, box.checked)));
  const note = task.description ? el("small", { dir: "auto" }, task.description) : null;
  const label = el("label", { htmlFor: box.id, title: task.title }, el("span", { className: "title", dir: "auto" }, task.title), note);
  const unlessPending = (act) => () => state !== "pending" && act(entry);
  const actions = task.id ? [action("edit", `Edit ${task.title}`, unlessPending(edit)), action("delete", `Delete ${task.title}`, unlessPending(discard))] : [];
  const failure = state !== "failed" ? null : el("div", { className: "failure", role: "alert" }, el("p", {}, words),
    action("retry", `Try again: ${task.title}`, retry, "Try again"),
    task.id ? null : action("drop", `Discard ${task.title}`, () => (remove(entry), $("title").focus()), "Discard"));
  const pending = state === "pending" ? el("span", { className: "progress" }, "Saving…") : null;
  return [box, label, el("div", { className: "actions" }, actions), pending, failure].filter(Boolean);
}

/** Shown at once, and put back where it is refused. */
function complete(entry, completed) {
  const send = async () => {
    entry.task.completed = completed;
    draw(entry);
    count();
    const answer = await list.client.tasks.complete(entry.task.id, completed);
    if (answer.error) entry.task.completed = !completed;
    return answer;
  };
  return attempt(entry, send, (task) => ((entry.task = task), announce(`${task.title} is ${task.completed ? "done" : "open"}.`)));
}

/** What is gone already is deleted, too. */
function discard(entry) {
  for (const other of list.entries) if (other.state === "deleted") other.row.remove();
  list.entries = list.entries.filter(({ state }) => state !== "deleted");
  const send = async () => {
    const answer = await list.client.tasks.remove(entry.task.id);
    return answer.error?.status === 404 ? { data: null, error: null } : answer;
  };
  return attempt(entry, send, () => ((entry.state = "deleted"), announce(`Deleted ${entry.task.title}.`)));
}

/** A deleted task can be made anew; the server gives it another id. */
function tombstone(entry) {
  const { title, description, completed } = entry.task;
  const create = async () => {
    const answer = await list.client.tasks.create({ title, description: description ?? undefined });
    return answer.data && completed ? list.client.tasks.complete(answer.data.id, true) : answer;
  };
  const undo = action("undo", `Undo: ${title} comes back`, () => attempt(entry, create, (task) => ((entry.task = task), announce(`${title} is back.`))), "Undo");
  return [el("p", { className: "quiet" }, "Deleted: ", el("span", { className: "title", dir: "auto" }, title)), undo];
}

function edit(entry) {
  entry.state = "editing";
  draw(entry);
  entry.row.querySelector("input").select();
}

/** The row as a form: Enter saves, Escape leaves it as it was. */
function editor(entry) {
  const { task } = entry;
  const title = el("input", { value: task.title, maxLength: 255, required: true, dir: "auto", "aria-label": "Title" });
  const description = el("textarea", { value: task.description ?? "", maxLength: 2000, rows: 2, dir: "auto", placeholder: "Description", "aria-label": "Description" });
  const message = el("div", { className: "message", role: "alert" });
  const cancel = el("button", { type: "button" }, "Cancel");
  const form = el("form", { noValidate: true }, title, description, el("div", { className: "actions" }, el("button", { type: "submit", className: "primary" }, "Save"), cancel), message);
  const back = () => {
    entry.state = "ok";
    draw(entry);
    entry.row.querySelector("[data-role=edit]").focus();
  };
  cancel.addEventListener("click", back);
  form.addEventListener("keydown", (event) => event.key === "Escape" && back());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    form.ariaBusy = "true";
    const { data, error } = await list.client.tasks.update(task.id, { title: title.value, description: description.value || null });
    form.ariaBusy = "false";
    if (error) return void message.replaceChildren(el("p", {}, list.words(error)));
    entry.task = data;
    back();
    announce(`Saved ${data.title}.`);
  });
  return form;
}
