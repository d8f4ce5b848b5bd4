// Reads the norms for the figure in gradients.js from the drawing that the page shows:
// node docs/play/gradient_norms.mjs > docs/play/gradient_norms.js
//
// tests/command/book.rs compares the drawing with what `examples/book/vanishing_gradient.rs` draws. A norm read from it is off by
// less than 1 %.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const DRAWING = new URL("../images/book/vanishing_gradient.svg", import.meta.url);

// The text of gradient_norms.js.
export function gradientNorms() {
  const settings = {};
  let [ticks, setting] = [[], null];
  for (const line of readFileSync(DRAWING, "utf8").split("\n")) {
    const [, y, , text] = line.match(/^<text.* y='([^']*)'.* text-anchor='(start|end)'>([^<]*)</) ?? [];
    const [, family, dash, points] =
      line.match(/^<polyline class='([ab])'.* stroke-width='1.6'(.*) points='([^']*)'/) ?? [];
    if (text?.startsWith("1e")) {
      // A label is 4 below its line.
      ticks.push([Number(y) - 4, Number(text.slice(2))]);
    } else if (text?.startsWith("‖")) {
      // The title of a panel comes after its labels. Only the norms of dh are read.
      const [first, last] = [ticks[0], ticks[ticks.length - 1]];
      const slope = (last[1] - first[1]) / (last[0] - first[0]);
      setting = { norm: (y) => 10 ** (first[1] + (y - first[0]) * slope) };
      if (text.startsWith("‖dh‖, ")) settings[text.slice(6)] = setting;
      ticks = [];
    } else if (family && points.includes(" ", points.indexOf(" ") + 1)) {
      const name = `${family === "b" ? "plain" : "residual"}${dash ? 20 : 110}`;
      setting[name] = points.split(" ").map((point) => setting.norm(Number(point.split(",")[1])));
    }
  }
  const rows = Object.entries(settings).map(([name, curves]) => {
    const texts = Object.entries(curves).filter(([key]) => key !== "norm");
    const lines = texts.map(
      ([key, norms]) => `    ${key}: [${norms.map((norm) => norm.toExponential(2)).join(", ")}],\n`,
    );
    return `  "${name}": {\n${lines.join("")}  },\n`;
  });
  return (
    "// Written by gradient_norms.mjs: norms of dh, from the first convolution to the last block.\n" +
    `const GRADIENT_NORMS = {\n${rows.join("")}};\n`
  );
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) process.stdout.write(gradientNorms());
