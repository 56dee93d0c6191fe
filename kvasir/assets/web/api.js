// Talks to the server this page came from. Paths are relative, so a prefix in front of the server does no harm.

const KEY = "kvasir.key";

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

let whenRefused = () => {};

/** `listener` is called whenever the server refuses the key, or the lack of one. */
export function onKeyRefused(listener) {
  whenRefused = listener;
}

export async function get(path, signal) {
  return (await ask(path, { signal })).json();
}

/** POSTs JSON and yields the events of the answer's stream until [DONE]. */
export async function* stream(path, body, signal) {
  const response = await ask(path, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(event.error.message, 500);
    yield event;
  }
  throw new ApiError("The connection ended before the answer did.", 0);
}

async function ask(path, options) {
  const headers = { ...options.headers };
  const key = apiKey.get();
  if (!/^[\x21-\x7e]*$/.test(key))
    throw new ApiError("The API key has letters that no header can carry; paste it again.", 401);
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", 0);
  }
  if (response.ok) return response;
  if (response.status === 401) whenRefused();
  throw new ApiError(await complaint(response), response.status);
}

async function complaint(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

/** The data of each server-sent event. The server writes one `data:` line an event; comments are skipped. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffer += value;
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop();
      for (const block of blocks) if (block.startsWith("data: ")) yield block.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
