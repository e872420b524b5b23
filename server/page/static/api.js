/** Ask the server. Every failure is an `ApiError` whose message is a sentence. */

const KEY = "qconf.key";

export class ApiError extends Error {
  constructor(message, { status = 0, param = null } = {}) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** Return the JSON of a reply. */
export async function ask(path, { body, signal } = {}) {
  const response = await send(path, body, signal);
  return readable(() => response.json(), signal);
}

/** Yield the events of a stream of server-sent events, parsed, until "[DONE]". */
export async function* events(path, { body, signal }) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await readable(() => reader.read(), signal);
    if (done) throw new ApiError("The server ended the answer too early.");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw failure(event.error, 0);
      yield event;
    }
  }
}

async function send(path, body, signal) {
  const headers = {};
  if (hasKey()) headers.authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  if (body) headers["content-type"] = "application/json";
  const options = { method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers, signal };
  const response = await readable(() => fetch(path, options), signal);
  if (response.ok) return response;
  const reply = await response.json().catch(() => null);
  throw failure(reply?.error ?? { message: `The server answered with status ${response.status}.` }, response.status);
}

async function readable(read, signal) {
  try {
    return await read();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
}

function failure({ message, param }, status) {
  const sentence = message[0].toUpperCase() + message.slice(1);
  return new ApiError(/[.!?]$/.test(sentence) ? sentence : `${sentence}.`, { status, param });
}
