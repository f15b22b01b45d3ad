// The gallery: videos that were ordered, and sessions that can be opened again.

import { call, toast } from "./api.js";
import { askText } from "./dialog.js";

const byId = (id) => document.getElementById(id);

export class Library {
  constructor(openSession) {
    this.openSession = openSession;
    byId("order").addEventListener("submit", (event) => { event.preventDefault(); this.order(); });
    byId("cinema-close").addEventListener("click", () => byId("cinema").close());
    byId("cinema").addEventListener("close", () => byId("cinema-video").removeAttribute("src"));
  }

  show() { this.isShown = true; this.refresh(); }

  hide() { this.isShown = false; clearTimeout(this.timer); }

  async order() {
    const prompt = byId("order-prompt").value.trim();
    if (!prompt) return;
    await this.attempt(async () => {
      await call("POST", "/v1/videos", { prompt, seconds: Number(byId("order-seconds").value) });
      byId("order-prompt").value = "";
    });
  }

  async attempt(action) {
    try { await action(); } catch (error) { toast(error.message); }
    this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    if (!this.isShown) return;
    let isBusy = false;
    try {
      const [videos, sessions] = await Promise.all([call("GET", "/v1/videos?limit=60"), call("GET", "/v1/live?limit=60")]);
      isBusy = videos.data.some((video) => video.status === "queued" || video.status === "in_progress");
      const text = JSON.stringify([videos, sessions]);
      if (text !== this.shown) {
        this.shown = text;
        byId("videos").replaceChildren(...videos.data.map((video) => this.video(video)));
        byId("sessions").replaceChildren(...sessions.data.map((session) => this.session(session)));
      }
    } catch (error) { toast(error.message); }
    this.timer = setTimeout(() => this.refresh(), isBusy ? 1000 : 5000);
  }

  video(video) {
    const isDone = video.status === "completed", path = `/v1/videos/${video.id}`;
    const state = { queued: "waiting for its turn", in_progress: `${video.progress} %`, completed: `${video.seconds} s`, failed: video.error?.message ?? "failed" }[video.status];
    const tile = this.tile(video.prompt, state, isDone ? `${path}/content?variant=thumbnail` : null, () => isDone && this.play(path, video.prompt));
    if (video.status === "in_progress") { const bar = document.createElement("progress"); bar.max = 100; bar.value = video.progress; tile.querySelector("p").before(bar); }
    if (isDone) {
      const save = document.createElement("a");
      save.className = "button"; save.href = `${path}/content`; save.download = `${video.id}.mp4`; save.textContent = "Download";
      this.does(tile, save, ["Extend", () => call("POST", "/v1/videos/extensions", { prompt: video.prompt, seconds: 4, video: { id: video.id } })],
        ["Remix", () => this.remix(path, video.prompt)]);
    }
    this.does(tile, ["Delete", () => call("DELETE", path)]);
    return tile;
  }

  session(session) {
    const path = `/v1/live/${session.id}`;
    const state = [session.saved ? "★" : "", session.status].join(" ").trim();
    const picture = session.tip ? `${path}/chunks/${session.tip}/thumbnail` : null;
    const tile = this.tile(session.name || session.prompt, state, picture, () => this.openSession(session.id));
    this.does(tile, ["Open", () => this.openSession(session.id)], ["Delete", () => call("DELETE", path)]);
    return tile;
  }

  async remix(path, before) {
    const prompt = await askText("The same video, with another prompt", before);
    if (prompt) await call("POST", `${path}/remix`, { prompt });
  }

  play(path, prompt) {
    byId("cinema-video").src = `${path}/content`;
    byId("cinema-text").textContent = prompt;
    byId("cinema").showModal();
    byId("cinema-video").play().catch(() => {});
  }

  tile(text, state, picture, open) {
    const tile = document.createElement("article"), button = document.createElement("button");
    tile.className = "tile";
    button.setAttribute("aria-label", `Open: ${text}`);
    button.addEventListener("click", open);
    if (picture) { const image = document.createElement("img"); image.alt = ""; image.loading = "lazy"; image.src = picture; button.append(image); }
    const label = document.createElement("span"), words = document.createElement("p"), does = document.createElement("div");
    label.className = "state"; label.textContent = state;
    words.textContent = text;
    does.className = "do";
    button.append(label);
    tile.append(button, words, does);
    return tile;
  }

  does(tile, ...actions) {
    for (const action of actions) {
      if (action instanceof Element) { tile.querySelector(".do").append(action); continue; }
      const button = document.createElement("button");
      button.textContent = action[0];
      button.addEventListener("click", () => this.attempt(action[1]));
      tile.querySelector(".do").append(button);
    }
  }
}

