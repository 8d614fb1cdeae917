// Where the numbers come from: server-sent events of `sd3tune watch`, or the data of an exported page.

import { byId, el } from "./dom.js";
import { takeCurves, takeSection } from "./store.js";

const exported = byId("exported"); // the data of a page that was written with --export
export const isExported = exported !== null;
export const server = { mayStop: false, receives: false };

/** Address of a picture. version: changes when the file does. */
export function imageOf(key, path, version = 0) {
  const steps = path.split("/").map(encodeURIComponent).join("/");
  return isExported ? `files/${key}/${steps}` : `runs/${key}/image/${steps}?v=${Math.round(version)}`;
}

export function fileOf(key, path) {
  return `runs/${key}/file/${path.split("/").map(encodeURIComponent).join("/")}`;
}

export const zipOf = (key, name) => `runs/${key}/zip/${encodeURIComponent(name)}.zip`;

/** Begins to take messages. Before that it exchanges the token behind `#` for a cookie. */
export async function start() {
  if (isExported) {
    const { sections, curves, written } = JSON.parse(exported.textContent);
    sections.forEach(takeSection);
    curves.forEach(takeCurves);
    return state("exported", `written ${written}`);
  }
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    await enter(token);
    history.replaceState(null, "", location.pathname);
  }
  await connect();
}

async function enter(token) {
  const answer = await fetch("enter", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  if (!answer.ok) notice(await reason(answer));
  return answer.ok;
}

async function connect() {
  let answer;
  try { answer = await fetch("hello"); } catch { return later(); }
  if (answer.status === 401) return askForToken();
  if (!answer.ok) return notice(await reason(answer));
  const hello = await answer.json();
  server.mayStop = hello.may_stop;
  server.receives = hello.receives;
  notice("");
  const events = new EventSource("live");
  const take = (name, use) => events.addEventListener(name, (event) => use(JSON.parse(event.data)));
  take("section", takeSection);
  take("curves", takeCurves);
  take("pause", () => state("live", "live"));
  events.onerror = () => { events.close(); later(); };
}

function later() {
  state("lost", "not connected");
  notice("`sd3tune watch` does not answer: what is shown may be old. Training goes on without it.");
  setTimeout(connect, 2000);
}

function askForToken() {
  state("locked", "needs the token");
  const input = el("input", { type: "password", "aria-label": "Token", autocomplete: "off", required: true });
  const submit = async (event) => {
    event.preventDefault();
    if (await enter(input.value.trim())) connect();
  };
  notice("Open the address that `sd3tune watch` printed, or enter its token: ");
  byId("notice").append(el("form", { onsubmit: submit }, input, el("button", {}, "Open")));
}

export async function reason(answer) {
  try { return (await answer.json()).error; } catch { return `the server answered ${answer.status}`; }
}

/** One sentence at the top of the page; "" takes it away. */
export function notice(text) {
  byId("notice").hidden = !text;
  byId("notice").replaceChildren(text);
}

function state(kind, text) {
  const link = byId("link");
  if (link.textContent === text) return;
  link.dataset.kind = kind;
  link.textContent = text;
}

/** Tells a run to stop and save; returns what went wrong, or "". */
export async function stopRun(key) {
  try {
    const answer = await fetch(`runs/${key}/stop`, { method: "POST" });
    return answer.ok ? "" : await reason(answer);
  } catch { return "`sd3tune watch` does not answer"; }
}
