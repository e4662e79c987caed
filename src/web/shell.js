/**
 * The same requests in bash: after the setup each line runs as it stands and gets the status that stands on the page. No
 * line holds a token or a password: it takes them from variables, or makes what it needs (a revoked token, a task).
 */

import { $, announce, el } from "./token.js";

export const PASSWORDS = ["password", "current_password", "new_password"];

/** A word that bash takes literally. */
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** The page's text with this server and this account. */
function setupOf(base, account) {
  $("setup-base").textContent = quoted(base);
  $("setup-email").textContent = quoted(account);
  return $("setup").textContent;
}

/** A request as a line of bash. `account` is the e-mail that the setup logs in with. */
export function curlOf(exchange, account) {
  const { method, path, headers, sent, status } = exchange;
  const verb = method === "GET" || (method === "POST" && sent) ? "" : ` -X ${method}`;
  const parts = [`curl -sSi${verb} ${urlOf(exchange)}`];
  for (const [name, value] of headers) {
    const isBearer = name.toLowerCase() === "authorization";
    parts.push(isBearer ? `-H "Authorization: Bearer ${bearerOf(exchange)}"` : `-H ${quoted(`${name}: ${value}`)}`);
  }
  if (sent) parts.push(`-d ${bodyOf(exchange, account)}`);
  // All sessions of the user are over, the shell's among them.
  const after = path === "/auth/logout-all" && status === 204 ? "; token=$(log_in)" : "";
  return parts.join(" \\\n  ") + after;
}

/** What was done to a task that may be gone by now is done to a new one. */
function urlOf({ path, status }) {
  const target = [200, 204].includes(status) ? path.replace(/(\/tasks\/)[^/?]+/, "$1$(new_task)") : path;
  return /^[\w/?&=.%~$()-]*$/.test(target) ? `"$base${target}"` : `"$base"${quoted(target)}`;
}

function bearerOf({ path, status, forged }) {
  if (forged) return forged;
  if (status === 401) return "$(revoked_token)";
  if (status === 204 && path === "/auth/logout") return "$(log_in)";
  return status === 204 && path === "/auth/delete" ? "$(new_account)" : "$token";
}

/** Between single quotes, apart from what bash has to fill in. */
function bodyOf(exchange, account) {
  const fillings = [];
  const later = (bash) => `\uE002${fillings.push(bash) - 1}\uE002`;
  const members = Object.entries(exchange.sent).map(([name, value]) => [name, memberOf(exchange, name, value, account, later)]);
  const text = quoted(JSON.stringify(Object.fromEntries(members)));
  return text.replace(/\uE002(\d+)\uE002/g, (_, index) => `'"${fillings[index]}"'`);
}

function memberOf({ path, status, successor }, name, value, account, later) {
  if (name === "refresh_token") return later(status !== 200 ? "$(spent_token)" : successor === undefined ? "$(log_in refresh_token)" : "$(previous_token)");
  if (name === "email" && path === "/auth/register" && status === 201) return later('$(quote "$(new_email)")');
  if (name === "email" && String(value).toLowerCase() === account.toLowerCase()) return later('$(quote "$email")');
  if (!PASSWORDS.includes(name)) return value;
  // What was typed is not kept; these are refused for the same reason.
  if (status === 422) return "password";
  return [401, 403, 429].includes(status) && name !== "new_password" ? "not the password" : later('$(quote "$password")');
}

/** The setup and every line, in order. */
const sessionOf = (base, account, exchanges) =>
  [setupOf(base, account), ...exchanges.map((each) => `# ${each.number}. ${each.name}: ${each.status}\n${curlOf(each, account)}; echo`)].join("\n\n");

/** Connects the dialog. `account` gives the e-mail, `exchanges` what was answered so far. */
export function startShell(base, account, exchanges) {
  const setup = () => setupOf(base, account());
  $("set-up-shell").addEventListener("click", () => (setup(), $("shell").showModal()));
  $("shell").querySelector(".actions").prepend(copyButton("Copy", setup, "primary"));
  $("set-up-shell").after(copyButton("Copy the whole session", () => sessionOf(base, account(), exchanges())));
}

/** A button that copies what `text` gives at that moment. */
export function copyButton(label, text, className = "plain") {
  const button = el("button", { type: "button", className }, label);
  button.addEventListener("click", async () => {
    button.textContent = (await isCopied(text(), button)) ? "Copied" : "Select it by hand";
    announce(button.textContent);
    setTimeout(() => (button.textContent = label), 2000);
  });
  return button;
}

/** Plain http on another host has no clipboard API: there a selection is copied. */
async function isCopied(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { value: text, className: "unseen", readOnly: true });
    button.after(area);
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    button.focus();
    return isDone;
  }
}
