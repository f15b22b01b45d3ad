// Requests to the server, with errors in words a person can act on.

export class Refused extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

export async function call(method, path, body) {
  const options = { method, headers: {} };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) { options.body = JSON.stringify(body); options.headers["Content-Type"] = "application/json"; }
  let answer;
  try { answer = await fetch(path, options); }
  catch { throw new Refused("The server cannot be reached. Is it still running?", 0); }
  if (answer.status === 401) location.reload();
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(plain(value.error?.message ?? answer.statusText), answer.status);
  return value;
}

export function plain(message) {
  const text = message.replace(/^[a-z_]+: /, "");
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

export function toast(message, calm = false) {
  const box = document.createElement("div");
  box.className = calm ? "toast calm" : "toast";
  box.textContent = message;
  document.getElementById("toasts").append(box);
  setTimeout(() => box.remove(), calm ? 4000 : 9000);
}

export function time(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
