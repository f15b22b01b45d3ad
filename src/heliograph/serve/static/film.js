// The timeline: every chunk's picture, the prompts written where they change, and the branches that were left.

import { time } from "./api.js";

const CHUNK = 33 / 24;
const MAX_CARDS = 300;

export class Film extends EventTarget {
  constructor(strip, branches) {
    super();
    this.strip = strip;
    this.branches = branches;
    strip.addEventListener("keydown", (event) => this.#keys(event));
    this.clear();
  }

  clear() {
    this.chunks = new Map();      // every chunk by id
    this.path = [];               // ids of the path that is shown
    this.places = new Map();      // stream position → chunk id
    this.cards = new Map();
    this.picked = null;
    this.strip.replaceChildren();
    this.branches.replaceChildren();
  }

  load(session, rows, tip) {
    this.clear();
    this.session = session;
    for (const row of rows) this.chunks.set(row.chunk_id, row);
    for (let id = tip; this.chunks.has(id); id = this.chunks.get(id).parent) this.path.unshift(id);
    for (const id of this.path) this.#card(id);
    this.#showBranches();
    this.strip.scrollLeft = this.strip.scrollWidth;
  }

  add(session, chunk) {
    this.session = session;
    if (this.chunks.has(chunk.chunk_id)) { this.places.set(chunk.position, chunk.chunk_id); return; }
    this.chunks.set(chunk.chunk_id, chunk);
    this.places.set(chunk.position, chunk.chunk_id);
    const last = this.path.at(-1) ?? null;
    if (chunk.parent !== last) this.goTo(chunk.parent);
    this.path.push(chunk.chunk_id);
    const atEnd = this.strip.scrollWidth - this.strip.scrollLeft - this.strip.clientWidth < 160;
    this.#card(chunk.chunk_id);
    if (atEnd && !this.picked) this.strip.scrollLeft = this.strip.scrollWidth;
  }

  // The path now ends with this chunk; what came after stays as a branch.
  goTo(id) {
    const line = [];
    for (let at = id; this.chunks.has(at); at = this.chunks.get(at).parent) line.unshift(at);
    for (const old of this.path) if (!line.includes(old)) { this.cards.get(old)?.remove(); this.cards.delete(old); }
    const shown = new Set(this.path);
    this.path = line;
    for (const now of line) if (!shown.has(now)) this.#card(now);
    this.#showBranches();
  }

  playing(position) {
    const id = this.places.get(position);
    if (id === this.now) return;
    this.cards.get(this.now)?.classList.remove("playing");
    this.cards.get(id)?.classList.add("playing");
    this.now = id;
  }

  pick(id) {
    this.cards.get(this.picked)?.setAttribute("aria-selected", "false");
    this.picked = id;
    this.cards.get(id)?.setAttribute("aria-selected", "true");
    this.dispatchEvent(new CustomEvent("pick", { detail: id ? this.chunks.get(id) : null }));
  }

  get series() { return this.path.map((id) => this.chunks.get(id).figures); }

  #card(id) {
    const chunk = this.chunks.get(id);
    const card = document.createElement("button");
    card.type = "button";
    card.className = "chunk";
    card.setAttribute("role", "option");
    card.setAttribute("aria-selected", "false");
    const picture = document.createElement("img");
    picture.alt = "";
    picture.loading = "lazy";
    picture.src = `/v1/live/${this.session}/chunks/${id}/thumbnail`;
    const label = document.createElement("small"), says = document.createElement("small");
    label.textContent = `${time(chunk.chunk * CHUNK)} · ${chunk.chunk}`;
    says.className = "says";
    const before = this.chunks.get(chunk.parent);
    const turns = before?.prompt !== chunk.prompt;
    if (turns) { card.classList.add("turn"); says.textContent = chunk.prompt; }
    card.title = chunk.prompt;
    card.setAttribute("aria-label", `Chunk ${chunk.chunk}, ${time(chunk.chunk * CHUNK)}: ${chunk.prompt}`);
    card.append(picture, label, says);
    card.addEventListener("click", () => this.pick(this.picked === id ? null : id));
    this.cards.set(id, card);
    this.strip.append(card);
    if (this.strip.childElementCount > MAX_CARDS) this.strip.firstElementChild.remove();
  }

  #showBranches() {
    const line = new Set(this.path);
    const parents = new Set([...this.chunks.values()].map((chunk) => chunk.parent));
    const ends = [...this.chunks.values()].filter((chunk) => !parents.has(chunk.chunk_id) && !line.has(chunk.chunk_id));
    this.branches.replaceChildren(...ends.slice(-8).map((chunk) => {
      const button = document.createElement("button");
      button.textContent = `⑂ to ${time((chunk.chunk + 1) * CHUNK)}: ${chunk.prompt.slice(0, 40)}`;
      button.title = "Go on with this branch";
      button.addEventListener("click", () => this.dispatchEvent(new CustomEvent("branch", { detail: chunk })));
      return button;
    }));
  }

  #keys(event) {
    const step = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    document.activeElement?.[step]?.focus();
  }
}
