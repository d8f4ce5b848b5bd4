// Play with the gradients of docs/residual_block.md: their norm against depth, in plain and in residual networks.
"use strict";
{
  // The model of the page: blocks y = w·x (plain) or y = w·x + x (residual), one after another, and the gradient dy = 1 of
  // the last. The gradient of the input is first, that of the output last.
  function chain(w, blocks) {
    const [plain, residual] = [[1], [1]];
    for (let block = 0; block < blocks; block++) {
      plain.unshift(w * plain[0]);
      residual.unshift(w * residual[0] + residual[0]);
    }
    return { plain, residual };
  }

  // Each norm divided by the last one, the gradient with which backward begins.
  const relative = (norms) => norms.map((norm) => Math.abs(norm) / norms[norms.length - 1]);

  const MODEL = "the model, w·x and w·x + x";
  const [LEFT, TOP, WIDTH, HEIGHT, HIGH, LOW] = [44, 20, 370, 260, 10, -20];
  const toX = (place, blocks) => LEFT + 6 + ((WIDTH - 12) * place) / blocks;
  // A norm that is too small for the axis is below the frame, where it is not seen.
  const toY = (norm) => TOP + (HEIGHT * (HIGH - Math.max(Math.log10(norm), 10 * LOW))) / (HIGH - LOW);

  function figure() {
    const drawing = Play.drawing(420, 302, "norm of the gradient after each block, plain and residual");
    drawing.append(Play.text(LEFT, 12, "‖dh‖, divided by ‖dh‖ of the last block", { "text-anchor": "start" }));
    for (let exponent = LOW; exponent <= HIGH; exponent += 5) {
      const y = toY(10 ** exponent);
      drawing.append(Play.segment(LEFT, y, LEFT + WIDTH, y, { class: "grid" }));
      drawing.append(
        Play.text(LEFT - 6, y + 4, exponent ? `1e${Play.fixed(exponent, 0)}` : "1", { "text-anchor": "end" }),
      );
    }
    drawing.append(
      Play.text(LEFT, 298, "first layer", { "text-anchor": "start" }),
      Play.text(LEFT + WIDTH, 298, "last layer: backward begins here", { "text-anchor": "end" }),
    );
    // The curves, in the coordinates of the whole, hidden outside the frame.
    const inside = Play.svg("svg", {
      x: LEFT,
      y: TOP,
      width: WIDTH,
      height: HEIGHT,
      viewBox: `${LEFT} ${TOP} ${WIDTH} ${HEIGHT}`,
    });
    drawing.append(inside);

    const readout = Play.html("p", { class: "readout" });
    const measured = Object.keys(GRADIENT_NORMS).map((name) => [name, `measured: ${name}`]);
    const network = Play.choice("networks", { [MODEL]: MODEL, ...Object.fromEntries(measured) }, show);
    const depth = Play.choice("layers", { 20: "20", 110: "110" }, show);
    const weight = Play.slider("w", { min: -0.5, max: 1.5, step: 0.1, value: 0.1 }, show);
    const place = Play.slider("block", { min: 0, max: 54, step: 1, value: 0 }, show);
    const [weightValue, placeValue] = [Play.html("span", {}), Play.html("span", {})];
    weight.label.append(weightValue);
    place.label.append(placeValue);

    function show() {
      const [name, layers, w] = [network.input.value, depth.input.value, Number(weight.input.value)];
      const blocks = (layers - 2) / 2; // of two layers; the first convolution and the linear layer are outside
      const pick = (setting) => ({ plain: setting[`plain${layers}`], residual: setting[`residual${layers}`] });
      const norms = name === MODEL ? chain(w, blocks) : pick(GRADIENT_NORMS[name]);
      const curves = { plain: relative(norms.plain), residual: relative(norms.residual) };
      const every = blocks / (norms.plain.length - 1); // the drawing of the page has every second block of 110 layers
      Play.set(place.input, { max: blocks, step: every });
      const block = Number(place.input.value);
      weight.label.hidden = name !== MODEL;
      weightValue.textContent = Play.fixed(w, 1);
      placeValue.textContent = block;

      inside.replaceChildren(
        Play.segment(toX(block, blocks), TOP, toX(block, blocks), TOP + HEIGHT, { class: "ink dashed" }),
      );
      for (const [family, colour] of [
        ["plain", "b"],
        ["residual", "a"],
      ]) {
        const points = curves[family].map((norm, i) => [toX(every * i, blocks), toY(norm)]);
        inside.append(Play.line(points, { class: colour }));
        const [cx, cy] = points[block / every];
        inside.append(Play.svg("circle", { cx, cy, r: 5, class: `fill-${colour}` }));
      }
      const where = block === 0 ? "Before the first block" : `After block ${block} of ${blocks}`;
      const value = (family) => Play.short(curves[family][block / every], 2);
      const factor = (family) => Play.fixed(curves[family][0] ** (1 / blocks), 2);
      readout.textContent =
        `${where}: plain ${value("plain")}, residual ${value("residual")} times the gradient of the last block. ` +
        `Over the whole depth each block multiplies it by ${factor("plain")} (plain) and ` +
        `${factor("residual")} (residual), on average.`;
    }

    show();
    for (const [left, colour, name] of [
      [270, "b", "plain"],
      [344, "a", "residual"],
    ]) {
      const label = Play.text(left + 22, 12, name, { "text-anchor": "start" });
      drawing.append(Play.segment(left, 8, left + 18, 8, { class: colour }), label);
    }
    return [
      Play.row(network.label, depth.label, weight.label, place.label),
      Play.html("div", { class: "row wide" }, drawing),
      readout,
      Play.paragraph(
        "In the model, take 110 layers and move w:",
        "for which w does the plain gradient arrive, and for which the residual one?",
        "Then take the measured networks. In which does the plain gradient vanish, in which does it explode,",
        "and in which is the residual one worse than the plain one?",
      ),
    ];
  }

  if (typeof module !== "undefined") module.exports = { chain };
  else Play.mount("vanishing_gradient.svg", null, "Play: how much of the gradient arrives", figure);
}
