// The page: what a person does, turned into messages; what the server says, turned into a picture.

import { call, plain, time, toast } from "./api.js";
import { askText } from "./dialog.js";
import { Film } from "./film.js";
import { Library } from "./library.js";
import { Player } from "./player.js";
import { drawDrift } from "./plot.js";
import { Settings } from "./settings.js";

const IDEAS = [
  "A red fish swims to the left over a coral reef",
  "A sailing boat on the evening sea",
  "Snow falls on quiet mountains",
  "A butterfly over a summer meadow",
];
const CHUNK = 33 / 24;
const byId = (id) => document.getElementById(id);

const player = new Player(byId("video"));
const settings = new Settings();
const film = new Film(byId("strip"), byId("branches"));
const library = new Library((id) => { show("live"); open(id); });
let session = null, waitingFor = new Map(), number = 0, told = "";

// Views and looks

function show(view) {
  for (const name of ["live", "library"]) {
    byId(name).hidden = name !== view;
    byId(`tab-${name}`).setAttribute("aria-pressed", String(name === view));
  }
  if (view === "library") library.show(); else library.hide();
}
byId("tab-live").addEventListener("click", () => show("live"));
byId("tab-library").addEventListener("click", () => show("library"));

function dress(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  drawDrift(byId("plot"), film.series);
}
dress(localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
byId("theme").addEventListener("click", () => dress(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));

for (const idea of IDEAS) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = idea;
  button.addEventListener("click", () => { byId("prompt").value = idea; begin(); });
  byId("ideas").append(button);
}

// Beginning and opening

async function begin() {
  const prompt = byId("prompt").value.trim() || byId("prompt").placeholder;
  byId("prompt").value = prompt;
  byId("go").disabled = true;
  wait("Making the first picture…");
  try {
    const made = await call("POST", "/v1/live", settings.order(prompt));
    film.clear();
    film.session = made.id;
    enter(made);
  } catch (error) {
    wait(null);
    toast(error.message);
  } finally { byId("go").disabled = false; }
}

async function open(id) {
  wait("Opening the session…");
  try {
    const found = await call("GET", `/v1/live/${id}`);
    const rows = [];
    for (let more = true, first = 0; more && rows.length < 3000;) {
      const page = await call("GET", `/v1/live/${id}/chunks?first=${first}&limit=1000`);
      rows.push(...page.data.filter((row) => !rows.some((known) => known.chunk_id === row.chunk_id)));
      more = page.has_more;
      first = page.data.at(-1)?.chunk ?? 0;
    }
    film.load(id, rows, found.tip);
    byId("prompt").value = found.prompt;
    enter(found);
  } catch (error) { wait(null); leave(); toast(error.message); }
}

function enter(found) {
  session = found;
  history.replaceState(null, "", `#${found.id}`);
  byId("welcome").hidden = true;
  for (const id of ["deck", "film", "figures", "blend-box", "pill"]) byId(id).hidden = false;
  byId("go").textContent = "Change";
  byId("download").href = `/v1/live/${found.id}/video.mp4`;
  byId("f-first").textContent = "–";
  settings.lock(found);
  player.open(found.id);
  note(found);
}

function leave() {
  player.close();
  session = null;
  history.replaceState(null, "", location.pathname);
  for (const id of ["deck", "film", "figures", "blend-box", "pill"]) byId(id).hidden = true;
  byId("welcome").hidden = false;
  byId("caption").textContent = "";
  byId("go").textContent = "Play";
  film.clear();
  settings.lock(null);
  wait(null);
}

function wait(text) {
  byId("waiting").hidden = text === null;
  byId("waiting-text").textContent = text ?? "";
}

function note(state) {
  const unknown = (state.unknown_words ?? []).join(", ");
  if (unknown && unknown !== told) toast(`This model does not know: ${unknown}. It goes by the rest.`);
  told = unknown;
  session = { ...session, ...state };
  const isPaused = state.status === "paused";
  byId("pill").dataset.state = state.status;
  byId("status").textContent = isPaused ? "Paused" : "Live";
  byId("pause").lastChild.textContent = isPaused ? " Go on" : " Pause";
  byId("pause").firstElementChild.textContent = isPaused ? "▶" : "❚❚";
  byId("save").lastChild.textContent = state.saved ? " Saved" : " Save";
  byId("pace").value = state.pace;
  byId("pace-text").textContent = `${state.pace}×`;
  player.setPace(state.pace);
  if (isPaused) byId("video").pause(); else byId("video").play().catch(() => {});
}

// Asking and being answered

function ask(type, fields = {}) {
  const id = String(++number);
  return new Promise((resolve) => {
    waitingFor.set(id, resolve);
    if (!player.send(type, { id, ...fields })) { waitingFor.delete(id); toast("Not connected right now; try again in a moment."); }
  });
}

function answered(message) {
  waitingFor.get(message.id)?.(message);
  waitingFor.delete(message.id);
}

async function steer() {
  const prompt = byId("prompt").value.trim();
  if (!prompt) { toast("Write what should be shown first."); return; }
  const answer = await ask("steer", { prompt, transition_chunks: Number(byId("blend").value) });
  if (answer.type === "ack") toast(`It changes at ${time(answer.chunk * CHUNK)}.`, true);
}

async function goBack(chunk, prompt) {
  const answer = await ask("rewind", { chunk_id: chunk.chunk_id, ...(prompt ? { prompt } : {}) });
  if (answer.type !== "ack") return;
  film.goTo(chunk.chunk_id);
  film.pick(null);
  player.jumpTo(answer.position);
  if (!prompt) byId("prompt").value = chunk.prompt;
}

byId("ask").addEventListener("submit", (event) => { event.preventDefault(); session ? steer() : begin(); });
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); byId("ask").requestSubmit(); }
});
byId("pause").addEventListener("click", () => ask(session?.status === "paused" ? "resume" : "pause"));
byId("back").addEventListener("click", back);
byId("new").addEventListener("click", leave);
byId("save").addEventListener("click", async () => {
  const name = await askText("Keep this session under a name", session.name || session.prompt.slice(0, 60));
  if (name === null) return;
  const answer = await ask("save", { name: name.slice(0, 120) });
  if (answer.type === "saved") { note(answer.session); toast("Saved. You find it in the library.", true); }
});
byId("full").addEventListener("click", full);
byId("record").addEventListener("click", record);
film.addEventListener("pick", ({ detail: chunk }) => {
  byId("pick").hidden = !chunk;
  if (chunk) byId("pick-text").textContent = `${time(chunk.chunk * CHUNK)} · ${chunk.prompt}`;
});
film.addEventListener("branch", ({ detail }) => goBack(detail));
const picked = () => film.chunks.get(film.picked);
const otherPrompt = (chunk) => { const text = byId("prompt").value.trim(); return text && text !== chunk.prompt && text !== session.prompt ? text : null; };
byId("rewind").addEventListener("click", () => goBack(picked(), otherPrompt(picked())));
byId("unpick").addEventListener("click", () => film.pick(null));
byId("fork").addEventListener("click", async () => {
  const chunk = picked(), prompt = otherPrompt(chunk);
  const answer = await ask("fork", { chunk_id: chunk.chunk_id, ...(prompt ? { prompt } : {}) });
  if (answer.type === "forked") { toast("A new session goes on from here; the old one stays in the library.", true); open(answer.session.id); }
});

function back() {
  const id = film.now && film.path.includes(film.now) ? film.now : film.path.at(-1);
  const before = film.chunks.get(film.chunks.get(id)?.parent);
  if (before) goBack(before); else toast("This is the beginning already.");
}

function full() {
  if (document.fullscreenElement) document.exitFullscreen(); else byId("stage").requestFullscreen?.();
}

function record() {
  const isOn = byId("record").getAttribute("aria-pressed") === "true";
  byId("record").setAttribute("aria-pressed", String(!isOn));
  byId("record").lastChild.textContent = isOn ? " Record" : " Stop recording";
  if (!isOn) { player.record(); return; }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(player.stopRecording());
  link.download = `heliograph-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.mp4`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

document.addEventListener("keydown", (event) => {
  if (!session || event.ctrlKey || event.metaKey || event.altKey || byId("live").hidden) return;
  if (event.target.closest("input, textarea, select, dialog")) { if (event.key === "Escape") event.target.blur(); return; }
  const onButton = event.target.closest("button, a, summary");
  const action = { " ": onButton ? null : () => byId("pause").click(), ArrowLeft: back, f: full, r: record, Escape: () => film.pick(null) }[event.key];
  if (action) { event.preventDefault(); action(); }
});

// What the server says

player.addEventListener("hello", ({ detail }) => note(detail.session));
player.addEventListener("state", ({ detail }) => note(detail.session));
player.addEventListener("picture", () => { wait(null); byId("f-first").textContent = `${player.firstPicture.toFixed(1)} s`; if (session?.status === "paused") byId("video").pause(); });
player.addEventListener("chunk", ({ detail }) => {
  film.add(session.id, detail);
  const factor = CHUNK / Math.max(detail.made_seconds, 1e-3) / session.pace;
  byId("f-rtf").textContent = `${factor.toFixed(1)}×`;
  drawDrift(byId("plot"), film.series);
});
for (const type of ["ack", "forked", "saved", "pong"]) player.addEventListener(type, ({ detail }) => answered(detail));
player.addEventListener("error", ({ detail }) => { if (detail.error) toast(plain(detail.error.message)); answered(detail); });
player.addEventListener("end", () => { toast("This session has stopped. Opening it again goes on where it was."); leave(); });
player.addEventListener("gone", () => { toast("This session has been deleted."); leave(); });
player.addEventListener("lost", ({ detail }) => {
  byId("pill").dataset.state = "lost";
  byId("status").textContent = "Connecting…";
  if (detail.tries === 2) toast("The connection was lost. Trying again until the server answers.");
});
player.addEventListener("unsupported", () => { wait(null); toast("This browser cannot play live H.264 video. Use a current Chrome, Edge, Firefox or Safari."); });

// Figures

let counted = { frames: 0, at: performance.now() };
setInterval(() => {
  if (!session) return;
  const video = byId("video"), now = performance.now(), frames = video.getVideoPlaybackQuality?.().totalVideoFrames ?? 0;
  byId("f-fps").textContent = frames >= counted.frames ? ((1000 * (frames - counted.frames)) / (now - counted.at)).toFixed(0) : "–";
  counted = { frames, at: now };
  byId("f-lat").textContent = `${player.ahead.toFixed(1)} s`;
  const chunk = film.chunks.get(film.places.get(player.position));
  film.playing(player.position);
  if (chunk) {
    byId("clock").textContent = time(chunk.chunk * CHUNK + (video.currentTime % CHUNK));
    byId("caption").textContent = chunk.prompt;
  }
}, 500);

settings.addEventListener("steer", ({ detail }) => session && ask("steer", detail));
settings.addEventListener("file", () => { if (session) { leave(); toast("The next session starts from this file. Press Play.", true); } });
if (/^#live_[0-9a-f]{32}$/.test(location.hash)) open(location.hash.slice(1));
