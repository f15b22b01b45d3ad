// How far brightness, colour and sharpness have moved since the first chunk, in percent.

const LINES = [["luma", "--accent-2"], ["saturation", "--cool"], ["sharpness", "--good"]];

export function drawDrift(canvas, series) {
  const pen = canvas.getContext("2d"), { width, height } = canvas;
  const style = getComputedStyle(document.documentElement);
  pen.clearRect(0, 0, width, height);
  pen.font = "20px system-ui";
  pen.fillStyle = style.getPropertyValue("--soft");
  if (series.length < 2) { pen.fillText("after two chunks", 12, height / 2); return; }
  const first = series[0];
  const changes = LINES.map(([name]) => series.map((figures) => (100 * (figures[name] - first[name])) / Math.max(first[name], 0.01)));
  const reach = Math.max(10, ...changes.flat().map(Math.abs));
  const x = (i) => 4 + ((width - 8) * i) / (series.length - 1), y = (v) => height / 2 - (v / reach) * (height / 2 - 26);
  pen.strokeStyle = style.getPropertyValue("--line");
  pen.lineWidth = 2;
  pen.beginPath(); pen.moveTo(0, y(0)); pen.lineTo(width, y(0)); pen.stroke();
  pen.fillText(`+${Math.round(reach)} %`, 6, 20);
  pen.fillText(`−${Math.round(reach)} %`, 6, height - 6);
  changes.forEach((values, line) => {
    pen.strokeStyle = style.getPropertyValue(LINES[line][1]);
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    pen.beginPath();
    values.forEach((value, i) => (i ? pen.lineTo(x(i), y(value)) : pen.moveTo(x(i), y(value))));
    pen.stroke();
  });
}
