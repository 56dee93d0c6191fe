// One answer in the making: request out, stream in, everything into the message it belongs to.

import { stream } from "./api.js";

export class Generation {
  #abort = new AbortController();
  #decoder = new TextDecoder();
  #started = 0;

  /**
   * @param {Object} message the assistant message to fill
   * @param {Object} request body of the chat completion
   * @param {() => void} changed called after every event
   */
  constructor(message, request, changed) {
    this.message = message;
    this.request = request;
    this.changed = changed;
  }

  stop() {
    this.#abort.abort();
  }

  /** Never throws: what goes wrong is said in the message. */
  async run() {
    const { message } = this;
    this.#started = performance.now();
    message.running = true;
    try {
      const body = {
        ...this.request,
        stream: true,
        stream_options: { include_usage: true, continuous_usage_stats: true },
      };
      for await (const event of stream("v1/chat/completions", body, this.#abort.signal)) {
        this.#take(event);
        this.changed();
      }
    } catch (error) {
      if (error.name === "AbortError") message.finish = "stopped";
      else message.error = error.message;
    }
    delete message.running;
    if (message.timing) message.timing.total_s = this.#elapsed();
    this.changed();
  }

  #elapsed() {
    return (performance.now() - this.#started) / 1000;
  }

  #take(event) {
    const { message } = this;
    if (event.usage) message.usage = event.usage;
    const choice = event.choices?.[0];
    if (!choice) return;
    const { delta } = choice;
    if (delta.content) message.content += delta.content;
    const thought = delta.reasoning ?? delta.reasoning_content;
    if (thought) message.reasoning = (message.reasoning ?? "") + thought;
    for (const call of delta.tool_calls ?? []) this.#takeCall(call);
    for (const token of choice.logprobs?.content ?? []) this.#takeToken(token);
    if (message.usage?.completion_tokens || delta.content || thought) message.timing ??= { first_s: this.#elapsed() };
    if (delta.content && message.reasoning && !message.timing.thought_s) message.timing.thought_s = this.#elapsed();
    if (message.timing) message.timing.total_s = this.#elapsed();
    if (choice.finish_reason) message.finish = choice.finish_reason;
  }

  #takeCall({ index, id, function: fn }) {
    const calls = (this.message.calls ??= []);
    const call = (calls[index] ??= { id: "", name: "", arguments: "" });
    if (id) call.id = id;
    if (fn?.name) call.name += fn.name;
    if (fn?.arguments) call.arguments += fn.arguments;
  }

  /** [text, logprob, [[text, logprob], ...]]; the text of a token that ends inside a letter comes with the next one. */
  #takeToken({ token, bytes, logprob, top_logprobs }) {
    const text = bytes ? this.#decoder.decode(Uint8Array.from(bytes), { stream: true }) : token;
    const others = (top_logprobs ?? []).map((top) => [top.token, top.logprob]);
    (this.message.tokens ??= []).push([text, logprob, others]);
  }
}

/** The messages of a chat as the API takes them. Thoughts are not sent back; answers that failed without a word neither. */
export function toMessages(messages, system) {
  const sent = system ? [{ role: "system", content: system }] : [];
  for (const m of messages) {
    if (m.role === "tool") sent.push({ role: "tool", tool_call_id: m.tool_call_id, content: m.content });
    else if (m.role === "user") sent.push({ role: "user", content: m.content });
    else if (m.calls?.length)
      sent.push({
        role: "assistant",
        content: m.content || null,
        tool_calls: m.calls.map((c) => ({
          id: c.id,
          type: "function",
          function: { name: c.name, arguments: c.arguments },
        })),
      });
    else if (m.content) sent.push({ role: "assistant", content: m.content });
  }
  return sent;
}
