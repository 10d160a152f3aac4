// The admin page: the login, and which section is shown. The address of a section is its name and what it shows, after `#`.

import { dropAnswers, logIn, logOut, readSession, whenSessionEnds } from "./api.js";
import { channel } from "./channel.js";
import { channels } from "./channels.js";
import { $, runBusy, setShown } from "./dom.js";
import { explain } from "./explain.js";
import { nodes } from "./nodes.js";
import { clearParts, hideMessages, sayBad } from "./parts.js";
import { sessions } from "./sessions.js";
import { trace } from "./trace.js";

const VIEWS = { nodes, channels, channel, sessions, explain, trace };
/** Sections that another one leads to. */
const PARENTS = { channel: "channels" };

/** The elements of the sections that have only text or nothing at first, with that text: what sections show is in them. */
const INITIAL = [...document.querySelectorAll(".view [id]")]
  .filter((element) => !element.firstElementChild && !element.matches("input, textarea, select"))
  .map((element) => [element, element.textContent]);

/** Names the login of this tab, also after a reload. */
const LOGIN = "wardcast.admin.login";

let shown = null;
let hasUsers = false;
let usesKey = false;

/**
 * Marks the entry of the browser's history as one of this login. What an entry of an earlier login names is removed from the address:
 * Back leads there, but that operator has logged out.
 */
function claimEntry() {
  const login = sessionStorage.getItem(LOGIN);
  const owner = history.state?.login;
  if (owner && owner !== login) forgetTarget();
  if (login && history.state?.login !== login) history.replaceState({ login }, "");
}

/** Removes from the address which section was shown, and its user or channel. */
function forgetTarget() {
  history.replaceState(null, "", location.pathname + location.search);
}

/** Shows the section of the address. */
function showView() {
  claimEntry();
  const [wanted, ...target] = location.hash.slice(1).split("/").map(decode);
  // The link that skips the header is none.
  if (wanted === "main") return;
  const name = Object.hasOwn(VIEWS, wanted) ? wanted : "nodes";
  hideMessages();
  if (shown) VIEWS[shown].hide();
  const isFirst = shown === null;
  shown = name;
  for (const view of Object.keys(VIEWS)) setShown($(view), view === name);
  for (const entry of $("nav").querySelectorAll("a")) {
    if (entry.hash === `#${PARENTS[name] ?? name}`) entry.setAttribute("aria-current", "page");
    else entry.removeAttribute("aria-current");
  }
  VIEWS[name].show(...target);
  const title = $(`${name}-title`);
  document.title = `${title.textContent} – Wardcast admin`;
  if (!isFirst) title.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function showSession({ name, version }) {
  if (!sessionStorage.getItem(LOGIN)) sessionStorage.setItem(LOGIN, crypto.getRandomValues(new Uint32Array(2)).join("-"));
  $("who-name").textContent = name;
  $("version").textContent = `v${version}`;
  setLoggedIn(true);
  showView();
}

function setLoggedIn(isLoggedIn) {
  setShown($("login"), !isLoggedIn);
  for (const id of ["nav", "who"]) setShown($(id), isLoggedIn);
}

/** Removes from the page what sections have shown, and what was typed there. */
function clearViews() {
  if (shown) VIEWS[shown].hide();
  shown = null;
  dropAnswers();
  for (const [element, text] of INITIAL) element.textContent = text;
  for (const form of document.querySelectorAll(".view form")) form.reset();
  for (const busy of document.querySelectorAll("[aria-busy]")) busy.removeAttribute("aria-busy");
  nodes.reset();
  clearParts();
}

/** Shows the login. Nothing stays in the page of what was shown before: another person may log in. */
function showLogin() {
  claimEntry();
  clearViews();
  for (const view of Object.keys(VIEWS)) setShown($(view), false);
  for (const id of ["version", "who-name"]) $(id).textContent = "";
  document.title = "Wardcast admin";
  setLoggedIn(false);
  drawLogin(!hasUsers);
}

/** Draws the form: for the API key, or for a user and a password. */
function drawLogin(withKey) {
  usesKey = withKey;
  setShown($("login-password"), !withKey);
  setShown($("login-key"), withKey);
  setShown($("login-switch"), hasUsers);
  $("login-switch").textContent = withKey ? "Use a password instead" : "Use the API key instead";
  for (const [id, isUsed] of [["username", !withKey], ["password", !withKey], ["api-key", withKey]]) $(id).required = isUsed;
  $(withKey ? "api-key" : "username").focus();
}

$("login-switch").addEventListener("click", () => drawLogin(!usesKey));
$("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  runBusy(event.target.querySelector("[type=submit]"), async () => {
    hideMessages();
    const credential = usesKey ? { api_key: $("api-key").value } : { username: $("username").value, password: $("password").value };
    try {
      const session = await logIn(credential);
      $("login-form").reset();
      showSession(session);
    } catch (error) {
      sayBad(error.message);
      $(usesKey ? "api-key" : "password").select();
    }
  });
});

$("logout").addEventListener("click", (event) => {
  runBusy(event.currentTarget, async () => {
    let problem = null;
    await logOut().catch((error) => (problem = error.message));
    // After a session that has ended by itself, its operator goes on where it was.
    sessionStorage.removeItem(LOGIN);
    forgetTarget();
    showLogin();
    if (problem) sayBad(problem);
    else hideMessages();
  });
});

whenSessionEnds(() => {
  if (shown === null) return;
  showLogin();
  sayBad("The session has ended. Log in again.");
});

addEventListener("hashchange", () => (shown ? showView() : claimEntry()));

try {
  const { has_users, session } = await readSession();
  hasUsers = has_users;
  if (session) showSession(session);
  else showLogin();
} catch (error) {
  sayBad(error.message);
}
