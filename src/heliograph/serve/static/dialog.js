// One line of text, asked for in the page's own dialog.

const byId = (id) => document.getElementById(id);

byId("question-no").addEventListener("click", () => byId("question").close(""));

export function askText(question, text) {
  const dialog = byId("question"), field = byId("question-field");
  byId("question-text").textContent = question;
  field.value = text;
  dialog.returnValue = "";
  dialog.showModal();
  field.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? field.value.trim() : null), { once: true });
  });
}
