// The admin page: the login, and which section is shown. The address of a section is its name and what it shows, after `#`.

import { logIn, logOut, readSession, whenSessionEnds } from "./api.js";
import { channel } from "./channel.js";
import { channels } from "./channels.js";
import { $, runBusy, setShown } from "./dom.js";
import { explain } from "./explain.js";
import { nodes } from "./nodes.js";
import { hideMessages, sayBad } from "./parts.js";
import { sessions } from "./sessions.js";
import { trace } from "./trace.js";

const VIEWS = { nodes, channels, channel, sessions, explain, trace };
/** Sections that another one leads to. */
const PARENTS = { channel: "channels" };

let shown = null;
let hasUsers = false;
let usesKey = false;

/** Shows the section of the address. */
function showView() {
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
  $("who-name").textContent = name;
  $("version").textContent = `v${version}`;
  setLoggedIn(true);
  showView();
}

function setLoggedIn(isLoggedIn) {
  setShown($("login"), !isLoggedIn);
  for (const id of ["nav", "who"]) setShown($(id), isLoggedIn);
}

/** Shows the login, and nothing of what was shown before. */
function showLogin() {
  if (shown) VIEWS[shown].hide();
  shown = null;
  nodes.reset();
  for (const view of Object.keys(VIEWS)) setShown($(view), false);
  $("version").textContent = "";
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

addEventListener("hashchange", () => shown && showView());

try {
  const { has_users, session } = await readSession();
  hasUsers = has_users;
  if (session) showSession(session);
  else showLogin();
} catch (error) {
  sayBad(error.message);
}
