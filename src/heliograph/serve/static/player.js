// A live session in a <video>: messages of the socket in, Media Source Extensions out.

const KEPT_SECONDS = 20;      // of what was played, so that memory stays flat
const CHUNK = 33 / 24;        // seconds of one chunk

export class Player extends EventTarget {
  constructor(video) {
    super();
    this.video = video;
    this.socket = null;
    this.recording = null;
    this.firstPicture = null;
    video.addEventListener("waiting", () => this.#leap());
    video.addEventListener("timeupdate", () => this.#leap());
  }

  open(session) {
    this.close();
    this.session = session;
    this.isWanted = true;
    this.tries = 0;
    this.began = performance.now();
    this.firstPicture = null;
    this.#connect();
  }

  close() {
    this.isWanted = false;
    clearTimeout(this.retry);
    this.socket?.close();
    this.socket = null;
    this.source = this.buffer = null;
    this.video.removeAttribute("src");
    this.video.load();
  }

  send(type, fields = {}) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify({ v: 1, type, ...fields }));
    return true;
  }

  get ahead() {
    const ranges = this.video.buffered;
    return ranges.length ? Math.max(0, ranges.end(ranges.length - 1) - this.video.currentTime) : 0;
  }

  get position() { return Math.floor(this.video.currentTime / CHUNK + 0.01); }

  setPace(pace) { this.video.defaultPlaybackRate = this.video.playbackRate = Math.min(16, Math.max(0.1, pace)); }

  jumpTo(position) { this.target = position; this.#leap(); }

  record() { this.recording = [this.header]; }

  stopRecording() {
    const pieces = this.recording ?? [];
    this.recording = null;
    return new Blob(pieces, { type: "video/mp4" });
  }

  #connect() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/live/${this.session}`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    let next = null;
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      if (data instanceof ArrayBuffer) { this.#take(next, data); next = null; return; }
      const message = JSON.parse(data);
      if (message.type === "hello") this.#begin(message);
      if (message.type === "media" || message.type === "header") next = message;
      if (message.type === "end") this.isWanted = false;
      this.#tell(message.type, message);
    };
    socket.onclose = ({ code }) => {
      if (socket !== this.socket || !this.isWanted) return;
      if (code === 4404) { this.isWanted = false; this.#tell("gone"); return; }
      this.tries += 1;
      this.#tell("lost", { tries: this.tries });
      this.retry = setTimeout(() => this.#connect(), Math.min(8000, 400 * 2 ** this.tries));
    };
  }

  #begin(message) {
    this.tries = 0;
    this.queue = [];
    this.buffer = null;
    this.target = null;
    this.isFresh = true;
    if (!window.MediaSource?.isTypeSupported(message.mime_type)) { this.#tell("unsupported"); return; }
    const source = new MediaSource();
    this.source = source;
    source.addEventListener("sourceopen", () => {
      if (source !== this.source) return;
      URL.revokeObjectURL(this.video.src);
      this.buffer = source.addSourceBuffer(message.mime_type);
      this.buffer.addEventListener("updateend", () => this.#pump());
      this.#pump();
    }, { once: true });
    this.video.src = URL.createObjectURL(source);
    this.setPace(message.session.pace);
  }

  #take(message, data) {
    if (message?.type === "header") this.header = data;
    else this.recording?.push(data);
    this.queue?.push(data);
    this.#pump();
  }

  #pump() {
    const { buffer, video } = this;
    if (!buffer || buffer.updating || this.source.readyState !== "open") return;
    const ranges = video.buffered;
    if (ranges.length && video.currentTime - ranges.start(0) > 2 * KEPT_SECONDS) { buffer.remove(0, video.currentTime - KEPT_SECONDS); return; }
    if (this.queue.length) {
      try { buffer.appendBuffer(this.queue.shift()); } catch { this.#tell("unsupported"); }
      return;
    }
    this.#leap();
  }

  // Go to where the picture is: at the start, after a gap, after a rewind.
  #leap() {
    const { video } = this;
    const ranges = video.buffered;
    if (!ranges.length) return;
    const start = ranges.start(ranges.length - 1), end = ranges.end(ranges.length - 1);
    if (this.isFresh) {
      this.isFresh = false;
      video.currentTime = start;
      video.play().catch(() => {});
      this.firstPicture ??= (performance.now() - this.began) / 1000;
      this.#tell("picture");
    } else if (this.target !== null && end > this.target * CHUNK + 0.05) {
      video.currentTime = Math.max(start, this.target * CHUNK + 0.001);
      this.target = null;
    } else if (video.currentTime < start - 0.05 && !this.#isBuffered(video.currentTime)) {
      video.currentTime = start;
    } else if (end - video.currentTime > 4.2 * CHUNK) {
      video.currentTime = end - 2 * CHUNK;   // the tab slept; catch up
    }
  }

  #isBuffered(time) {
    const ranges = this.video.buffered;
    for (let i = 0; i < ranges.length; i++) if (ranges.start(i) <= time + 0.05 && time < ranges.end(i) - 0.03) return true;
    return false;
  }

  #tell(type, detail = {}) { this.dispatchEvent(new CustomEvent(type, { detail })); }
}
