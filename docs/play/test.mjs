// The arithmetic of the playable figures against values that the crate computed: node docs/play/test.mjs
//
// values.json is what `cargo run --release --example book -- playable_values` prints; tests/command/book.rs compares them.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import batchNorm from "./batch_norm.js";
import convolution from "./convolution.js";
import differences from "./differences.js";
import { gradientNorms } from "./gradient_norms.mjs";
import gradients from "./gradients.js";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const values = JSON.parse(read("values.json"));
let comparisons = 0;

function close(found, expected, tolerance = 0) {
  const [left, right] = [[found].flat(Infinity), [expected].flat(Infinity)];
  assert.equal(left.length, right.length);
  left.forEach((value, i) => {
    comparisons++;
    const message = `${value} instead of ${right[i]}`;
    // NaN fails.
    assert.ok(Math.abs(value - right[i]) <= tolerance, message);
  });
}

const rows = (flat) => {
  const size = Math.sqrt(flat.length);
  return Array.from({ length: size }, (_, row) => flat.slice(row * size, (row + 1) * size));
};

for (const { stride, padding, y, dy, dx, dweight } of values.convolution) {
  assert.equal(convolution.outputs(stride, padding) ** 2, y.length);
  const found = convolution.convolution(rows(dy), stride, padding);
  close(found.y, y);
  close(found.dx, dx);
  close(found.dweight, dweight);
}

for (const { x, dy, dx, dgamma, dbeta } of values.batch_norm) {
  const found = batchNorm.batchNorm(x, dy, 3, 4);
  close([...found.dx, found.dgamma, found.dbeta], [...dx, dgamma, dbeta], 1e-8);
  close(
    found.dx.reduce((sum, value) => sum + value, 0),
    0,
    1e-12,
  );
}

for (const { loss, type, x, k, forward, central } of values.differences) {
  close(differences.forwardDifference(loss, type, x, 2 ** -k), forward);
  close(differences.centralDifference(loss, type, x, 2 ** -k), central);
}

for (const { w, blocks, plain, residual } of values.chain) {
  const found = gradients.chain(w, blocks);
  close(found.plain, plain);
  close(found.residual, residual);
}

const drawn = read("gradient_norms.js") === gradientNorms();
assert.ok(drawn, "not the norms of the drawing: node docs/play/gradient_norms.mjs > docs/play/gradient_norms.js");

// Each figure finds its drawing on a page, and its section if it names one; the book loads every file.
const pages = readdirSync(new URL("..", import.meta.url))
  .filter((name) => name.endsWith(".md"))
  .map((name) => read(`../${name}`));
for (const name of readdirSync(new URL(".", import.meta.url)).filter((name) => /\.(js|css)$/.test(name))) {
  assert.ok(read("../book.toml").includes(`"play/${name}"`), `book.toml does not load ${name}`);
  const [, image, section] = read(name).match(/Play\.mount\("(.*?)", (?:null|"(.*?)")/) ?? [];
  if (!image) continue;
  const page = pages.find((page) => page.includes(`/${image})`));
  assert.ok(page, `${image} is on no page`);
  if (section) assert.match(page, new RegExp(`^#+ ${section}$`, "im"));
}
console.log(`${comparisons} values are those of the crate`);
