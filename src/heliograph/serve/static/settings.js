// The side of the page: what a session starts from and looks like; some of it can be changed while it plays.

import { call, toast } from "./api.js";

const byId = (id) => document.getElementById(id);
const AT_START = ["motion", "size", "seed", "speed"];     // the model takes these once

export class Settings extends EventTarget {
  constructor() {
    super();
    this.file = null;
    this.#label("motion", (value) => (value === 0.5 ? "as trained" : value < 0.5 ? "less" : "more"));
    this.#label("pace", (value) => `${value}×`);
    this.#label("guidance", (value) => (value === 0 ? "model’s own" : value.toFixed(1)));
    byId("pace").addEventListener("change", () => this.#steer({ pace: Number(byId("pace").value) }));
    byId("negative").addEventListener("change", () => this.#steer({ negative_prompt: byId("negative").value }));
    byId("guidance").addEventListener("change", () => { if (Number(byId("guidance").value)) this.#steer({ guidance_scale: Number(byId("guidance").value) }); });
    byId("dropzone").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", () => this.choose(byId("file").files[0] ?? null));
    byId("unfile").addEventListener("click", () => this.choose(null));
    this.#catchDrops();
    this.#learnModel();
  }

  // What POST /v1/live is sent: JSON, or a form where there is a file.
  order(prompt) {
    const wish = {
      prompt, speed: document.querySelector("[name=speed]:checked").value, motion: Number(byId("motion").value),
      pace: Number(byId("pace").value), negative_prompt: byId("negative").value,
    };
    if (byId("size").value) wish.size = byId("size").value;
    if (byId("seed").value !== "") wish.seed = Number(byId("seed").value);
    if (Number(byId("guidance").value) > 0) wish.guidance_scale = Number(byId("guidance").value);
    if (!this.file) return wish;
    const form = new FormData();
    for (const [name, value] of Object.entries(wish)) form.append(name, value);
    form.append(this.file.type.startsWith("video/") ? "video" : "image", this.file);
    return form;
  }

  // While a session plays, what it was started with is shown and cannot be changed.
  lock(session) {
    for (const id of AT_START) byId(id).disabled = session !== null;
    byId("at-start").hidden = session === null;
    if (!session) return;
    const values = { motion: session.motion, guidance: session.guidance_scale ?? 0, negative: session.negative_prompt };
    for (const [id, value] of Object.entries(values)) { byId(id).value = value; byId(id).dispatchEvent(new Event("input")); }
  }

  choose(chosen) {
    if (chosen && !/^(image|video)\//.test(chosen.type)) { toast("That is neither a picture nor a clip. Choose a PNG, JPEG, WebP, MP4, MOV or WebM file."); return; }
    this.file = chosen;
    if (!chosen) byId("file").value = "";
    const isPicture = chosen?.type.startsWith("image/");
    if (byId("preview").src) URL.revokeObjectURL(byId("preview").src);
    byId("preview").hidden = !isPicture;
    if (isPicture) byId("preview").src = URL.createObjectURL(chosen);
    byId("dropzone-text").textContent = chosen ? chosen.name : "Text only. Drop a picture or a clip, or click to choose one.";
    byId("unfile").hidden = !chosen;
    if (chosen) this.dispatchEvent(new CustomEvent("file"));
  }

  #steer(fields) { this.dispatchEvent(new CustomEvent("steer", { detail: fields })); }

  #label(id, words) {
    const write = () => { byId(`${id}-text`).textContent = words(Number(byId(id).value)); };
    byId(id).addEventListener("input", write);
    write();
  }

  #catchDrops() {
    addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").hidden = false; });
    addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").hidden = true; });
    addEventListener("drop", (event) => {
      event.preventDefault();
      byId("drop").hidden = true;
      if (event.dataTransfer.files.length) this.choose(event.dataTransfer.files[0]);
    });
  }

  async #learnModel(tries = 0) {
    try {
      const [model] = (await call("GET", "/v1/models")).data;
      byId("model").textContent = `${model.id} · ${model.size}${model.is_random ? " · untrained, shows noise" : ""}`;
      const [width, height] = model.size.split("x").map(Number), step = model.size_multiple, side = Math.max(width, height);
      const sizes = [model.size, `${height}x${width}`, `${side}x${side}`, `${2 * width}x${2 * height}`];
      const valid = [...new Set(sizes)].filter((size) => size.split("x").every((length) => length % step === 0));
      byId("size").replaceChildren(...valid.map((size, i) => new Option(`${size.replace("x", " × ")}${i ? "" : " (native)"}`, i ? size : "")));
    } catch (error) {
      byId("model").textContent = "loading the model…";
      if (tries < 200) setTimeout(() => this.#learnModel(tries + 1), 1500); else toast(error.message);
    }
  }
}
