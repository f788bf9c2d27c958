// The page: columns of conversation, each with a model of its own; what the server holds and does; the key, if asked for.
// All text goes in as text, never as markup.

import { Failure, ask, get, setKey } from "./chat.js";

const MOST_COLUMNS = 3;
const BUSY_MS = 1000, IDLE_MS = 3000, MODELS_MS = 10000;
const $ = (id) => document.getElementById(id);
const columns = [];
let models = [];
let running = null; // the AbortController of what is being answered
let refusedKey = false; // the dialog was dismissed: do not ask again unasked
let triedKey = false;

// ---- words ----

const size = (bytes) => {
  for (const [unit, one] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (bytes >= one) return `${(bytes / one).toFixed(1)} ${unit}`;
  return `${bytes} bytes`;
};
const seconds = (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`);
const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;
const ago = (unix) => {
  const past = Math.max(0, Date.now() / 1000 - unix);
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60]])
    if (past >= length) return `${count(Math.floor(past / length), unit)} ago`;
  return "just now";
};

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function alertUser(message) {
  if ($("alert").textContent === message) return; // or a screen reader would repeat it with each poll
  $("alert").textContent = message;
  $("alert").hidden = !message;
}

// ---- columns ----

class Column {
  constructor(model) {
    this.root = $("column").content.firstElementChild.cloneNode(true);
    this.select = this.root.querySelector("select");
    this.log = this.root.querySelector(".log");
    this.turns = []; // complete ones: what the next request is told
    this.root.querySelector(".remove").addEventListener("click", () => removeColumn(this));
    this.select.addEventListener("change", () => this.name());
    this.offer(model);
    this.name();
    $("columns").append(this.root);
  }

  get model() {
    return this.select.value;
  }

  offer(wanted = this.model) {
    this.select.replaceChildren(...models.map((card) => new Option(card.parent ? card.id : `${card.id} (the base alone)`, card.id)));
    this.select.value = models.some((card) => card.id === wanted) ? wanted : (models[0]?.id ?? "");
  }

  name() {
    this.log.setAttribute("aria-label", `Conversation with ${this.model}`);
    this.root.querySelector(".remove").setAttribute("aria-label", `Remove the column of ${this.model}`);
  }

  say(who, text, kind) {
    const message = make("div", `message ${kind}`);
    message.append(make("div", "who", who), make("div", "text", text));
    this.log.append(message);
    this.log.scrollTop = this.log.scrollHeight;
    return message;
  }

  clear() {
    this.turns = [];
    this.log.replaceChildren();
  }

  /** One turn: what is asked, the answer as it comes, and how fast it came. Never throws. */
  async answer(prompt, settings, signal) {
    const question = { role: "user", content: prompt };
    const { system, ...limits } = settings;
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...this.turns, question];
    this.say("You", prompt, "user");
    const message = this.say(this.model, "", "busy");
    const place = message.querySelector(".text");
    this.log.setAttribute("aria-busy", "true"); // read out once it is complete
    const began = performance.now();
    let first = null, last = began, pieces = 0, end = null;
    try {
      await ask({ model: this.model, messages, ...limits }, (event) => {
        if (event.text === undefined) return void (end = event);
        last = performance.now();
        first ??= last;
        pieces += 1;
        place.append(event.text);
        this.follow(message, facts(pieces, began, first, last, null, null));
      }, signal);
      this.follow(message, facts(pieces, began, first, last, end, end.reason === "length" ? "cut at the limit" : null));
    } catch (error) {
      if (error.name === "AbortError") this.follow(message, facts(pieces, began, first, last, null, "stopped"));
      else this.fail(message, error);
    } finally {
      message.classList.remove("busy");
      this.log.setAttribute("aria-busy", "false");
    }
    if (place.textContent) this.turns.push(question, { role: "assistant", content: place.textContent });
  }

  follow(message, text) {
    const low = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
    (message.querySelector(".facts") ?? message.appendChild(make("div", "facts"))).textContent = text;
    if (low) this.log.scrollTop = this.log.scrollHeight;
  }

  fail(message, error) {
    const words = error instanceof Failure ? error.message : `Something in this page went wrong: ${error.message}`;
    message.append(make("div", "bad", words));
    if (error.status === 401) askKey();
    this.log.scrollTop = this.log.scrollHeight;
  }
}

function facts(pieces, began, first, last, end, note) {
  const tokens = end?.usage?.completion_tokens ?? pieces;
  const told = [count(tokens, "token")];
  if (first !== null && last - first > 50) told.push(`${(((pieces - 1) * 1000) / (last - first)).toFixed(1)} tokens/s`);
  if (first !== null) told.push(`first after ${seconds((first - began) / 1000)}`);
  const cached = end?.usage?.prompt_tokens_details?.cached_tokens;
  if (cached) told.push(`${cached} of ${end.usage.prompt_tokens} prompt tokens were warm`);
  if (note) told.push(note);
  return told.join(" · ");
}

function addColumn() {
  const shown = columns.map((column) => column.model);
  const next = [...models.filter((card) => card.parent), ...models].find((card) => !shown.includes(card.id));
  columns.push(new Column((next ?? models[0])?.id));
  arrange();
}

function removeColumn(column) {
  columns.splice(columns.indexOf(column), 1);
  column.root.remove();
  arrange();
  $("prompt").focus();
}

function arrange() {
  $("add").disabled = running !== null || columns.length >= MOST_COLUMNS || !models.length;
  $("chat-title").textContent = columns.length > 1 ? "Side by side" : "Chat";
  for (const column of columns) {
    column.root.querySelector(".remove").hidden = columns.length === 1;
    column.root.querySelector(".remove").disabled = column.select.disabled = running !== null;
  }
  $("clear").disabled = running !== null;
  $("send").disabled = running !== null || !models.length;
  $("stop").disabled = running === null;
}

// ---- asking ----

function settings() {
  const found = { system: $("system").value.trim() };
  if ($("temperature").value !== "") found.temperature = $("temperature").valueAsNumber;
  if ($("limit").value !== "") found.max_tokens = $("limit").valueAsNumber;
  return found;
}

async function send() {
  const prompt = $("prompt").value.trim();
  if (running || !prompt || !columns.length || !$("ask").reportValidity()) return;
  $("prompt").value = "";
  running = new AbortController();
  arrange();
  poll();
  const { signal } = running;
  await Promise.all(columns.map((column) => column.answer(prompt, settings(), signal)));
  running = null;
  arrange();
  poll();
  $("prompt").focus();
}

// ---- what the server holds ----

function show(status) {
  const { base, adapters, engine, requests, memory, speed, kv } = status;
  const wait = engine.why ?? "It is not ready yet.";
  $("base").textContent = `${base.name} on ${base.backend}${status.ready ? "" : `. ${wait}`}`;
  $("base").title = base.setup ?? "";
  $("speed").textContent = speed.tokens_per_second.toFixed(1);
  $("first").textContent = speed.first_token_seconds === null ? "–" : seconds(speed.first_token_seconds);
  $("requests").textContent = `${requests.running}, ${requests.queued}`;
  const processes = [memory.server, memory.engine].filter(Boolean);
  $("memory").textContent = size(processes.reduce((sum, one) => sum + one.resident_bytes, 0));
  $("pool").textContent = `${count(adapters.data.length, "adapter")}: ${size(adapters.bytes)} of ${size(adapters.budget_bytes)}; KV ${kv.used + kv.warm} of ${kv.cells} tokens`;
  $("fill").value = adapters.budget_bytes ? adapters.bytes / adapters.budget_bytes : 0;
  $("resident").replaceChildren(...adapters.data.map(line));
}

function line(one) {
  const item = make("li");
  item.append(make("b", "", one.name), make("span", "tag", one.pinned ? "pinned" : one.resident ? one.version : "loading"));
  const told = [size(one.bytes), one.leases ? `in use by ${one.leases}` : "", one.queued ? `${one.queued} waiting` : ""];
  told.push(count(one.requests, "request"), one.last_used ? ago(one.last_used) : "not used yet");
  if (one.tokens_per_second) told.push(`${one.tokens_per_second.toFixed(1)} tokens/s`);
  item.append(make("div", "quiet", told.filter(Boolean).join(" · ")));
  return item;
}

let timer = null, modelsAt = -Infinity;

async function poll() {
  clearTimeout(timer);
  if (!document.hidden) await look();
  clearTimeout(timer);
  timer = setTimeout(poll, running ? BUSY_MS : IDLE_MS);
}

async function look() {
  try {
    if (performance.now() - modelsAt > MODELS_MS && !running) await readModels();
    await showStatus();
    alertUser("");
    $("key").hidden = true;
  } catch (error) {
    const words = triedKey ? "The server does not take that key." : "This server asks for a key.";
    alertUser(error.status === 401 ? words : error.message);
    if (error.status === 401 && !refusedKey) askKey(triedKey ? words : "");
    else if (error.status !== 401) $("base").textContent = "No answer";
  }
}

async function showStatus() {
  try {
    show(await get("/v1/status"));
  } catch (error) {
    if (error.status !== 403) throw error;
    $("pool").textContent = error.message; // a key that may use some adapters only: the chat is there all the same
    $("base").textContent = models.find((card) => !card.parent)?.id ?? "";
  }
}

async function readModels() {
  models = (await get("/v1/models")).data;
  modelsAt = performance.now();
  if (!columns.length) addColumn();
  for (const column of columns) column.offer();
  arrange();
}

// ---- the key ----

function askKey(why = "") {
  if ($("ask-key").open) return;
  $("key").hidden = false;
  $("key-note").textContent = [why, "It is kept in this tab alone, until the tab is closed."].join(" ").trim();
  $("ask-key").showModal();
}

$("ask-key").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("secret").value);
  $("secret").value = "";
  refusedKey = false;
  triedKey = true;
  $("ask-key").close("used");
  modelsAt = -Infinity;
  poll();
});
$("no-key").addEventListener("click", () => $("ask-key").close());
$("ask-key").addEventListener("close", () => (refusedKey = $("ask-key").returnValue !== "used"));
$("key").addEventListener("click", () => askKey());

// ---- keys and buttons ----

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("add").addEventListener("click", addColumn);
$("clear").addEventListener("click", () => {
  for (const column of columns) column.clear();
  $("prompt").focus();
});
document.addEventListener("visibilitychange", () => document.hidden || poll());

poll();
