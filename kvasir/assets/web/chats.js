// Conversations, kept in this browser (IndexedDB). Without storage they live as long as the page.

const DATABASE = "kvasir";
const STORE = "chats";
const MAX_CHATS = 200;

/**
 * A chat is {id, title, updated, messages}. Messages are
 *   {role: "user", content},
 *   {role: "assistant", content, reasoning, calls: [{id, name, arguments}], tokens, usage, timing, finish, error},
 *   {role: "tool", tool_call_id, content}.
 */
export function newChat() {
  return { id: newId(), title: "", updated: Date.now(), messages: [] };
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
}

export function titleOf(chat) {
  return chat.title || "New chat";
}

export class ChatStore {
  #db = null;

  async open() {
    try {
      this.#db = await new Promise((resolve, reject) => {
        const opening = indexedDB.open(DATABASE, 1);
        opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
        opening.onsuccess = () => resolve(opening.result);
        opening.onerror = () => reject(opening.error);
      });
    } catch {
      this.#db = null;
    }
  }

  /** Newest first. What is beyond the bound is forgotten. */
  async all() {
    const chats = (await this.#run("readonly", (store) => store.getAll())) ?? [];
    chats.sort((a, b) => b.updated - a.updated);
    for (const old of chats.slice(MAX_CHATS)) await this.remove(old);
    return chats.slice(0, MAX_CHATS);
  }

  async save(chat) {
    await this.#run("readwrite", (store) => store.put(chat));
  }

  async remove(chat) {
    await this.#run("readwrite", (store) => store.delete(chat.id));
  }

  #run(mode, work) {
    if (!this.#db) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      try {
        const request = work(this.#db.transaction(STORE, mode).objectStore(STORE));
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => resolve(undefined); // e.g. the disk is full: the page goes on without
      } catch {
        resolve(undefined);
      }
    });
  }
}
