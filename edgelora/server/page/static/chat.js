// The server's API as the page uses it: one fetch for everything, the key, streams, and failures in words.

const KEY = "edgelora-key"; // in sessionStorage: this tab alone, gone with it

export class Failure extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** JSON from a path. Throws Failure, in words. */
export async function get(path) {
  return (await call(path, {})).json();
}

/** An answer, piece by piece: `told(event)` gets {text}, then {reason, usage}. Throws Failure; AbortError where `signal` ends it. */
export async function ask(body, told, signal) {
  const reply = await call("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let reason = null, usage = null;
  for await (const data of frames(reply.body)) {
    if (data === "[DONE]") return told({ reason, usage });
    const frame = JSON.parse(data);
    if (frame.error) throw new Failure(frame.error.message, { status: reply.status, code: frame.error.code });
    const [choice] = frame.choices;
    usage = frame.usage ?? usage;
    reason = choice?.finish_reason ?? reason;
    if (choice?.delta.content) told({ text: choice.delta.content });
  }
  throw new Failure("The answer broke off: the connection to the server ended.");
}

async function call(path, options) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let reply;
  try {
    reply = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Was it stopped? `edgelora serve` starts it again.");
  }
  if (!reply.ok) throw await refused(reply);
  return reply;
}

async function refused(reply) {
  const status = reply.status;
  let error = {};
  try {
    error = (await reply.json()).error ?? {};
  } catch {
    // what stands between here and the server may answer with anything
  }
  const wait = reply.headers.get("retry-after");
  const later = wait && (status === 429 || status === 503) ? ` Try again in ${wait} s.` : "";
  return new Failure((error.message ?? `The server answered with status ${status}.`) + later, { status, code: error.code });
}

/** The data of each server-sent event. */
async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return; // a connection that was cut is the end of the stream
    }
    if (piece.done) return;
    const events = (rest + piece.value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: ")) yield event.slice(6);
  }
}
