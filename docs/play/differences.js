// Play with the differences of docs/checking_gradients.md: a slider for h, a smooth curve and a kink.
"use strict";
{
  // Rounds to the type. The operations are those of the example program, so the results are bit-identical.
  const TYPES = { f64: (value) => value, f32: Math.fround };
  const LOSSES = {
    abs: { loss: (x) => Math.abs(x), derivative: (x) => (x === 0 ? NaN : Math.sign(x)) },
    cube: { loss: (x, round) => round(round(x * x) * x), derivative: (x) => 3 * x * x },
  };

  // The change of loss from x to x + h, divided by the step that was really made.
  function forwardDifference(name, type, x, h) {
    const [loss, round] = [LOSSES[name].loss, TYPES[type]];
    const above = round(round(x) + h);
    return round(round(loss(above, round) - loss(round(x), round)) / round(above - round(x)));
  }

  // The change of loss from x − h to x + h, divided by the step that was really made.
  function centralDifference(name, type, x, h) {
    const [loss, round] = [LOSSES[name].loss, TYPES[type]];
    const [above, below] = [round(round(x) + h), round(round(x) - h)];
    return round(round(loss(above, round) - loss(below, round)) / round(above - below));
  }

  // Whether x + h is x.
  const isLost = (type, x, h) => TYPES[type](TYPES[type](x) + h) === TYPES[type](x);

  const KS = Array.from({ length: 53 }, (_, k) => k); // h = 2⁻ᵏ
  const powerOfTwo = (k) => (k === 0 ? "1" : "2⁻" + [...String(k)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join(""));

  // The frame of a plot in `drawing`, and in it a drawing that hides what lies outside.
  const [LEFT, TOP, WIDTH, HEIGHT] = [40, 24, 330, 220];
  function frame(drawing, title) {
    const inside = Play.svg("svg", { x: LEFT, y: TOP, width: WIDTH, height: HEIGHT });
    drawing.append(Play.text(LEFT, 14, title, { "text-anchor": "start" }), inside);
    drawing.append(Play.svg("rect", { x: LEFT, y: TOP, width: WIDTH, height: HEIGHT, class: "grid" }));
    return inside;
  }

  // The curve from x = −1.5 to 1.5, with its chords.
  const curveAt = (x, y) => [((x + 1.5) / 3) * WIDTH, ((2.25 - y) / 3.75) * HEIGHT];
  function drawCurve(inside, { name, type, x, h }) {
    const { loss } = LOSSES[name];
    const exact = TYPES.f64;
    const curve = Array.from({ length: 121 }, (_, i) => -1.5 + i / 40).map((x) => curveAt(x, loss(x, exact)));
    // A line through the points of the curve at x − h and x + h, or x and x + h.
    const chord = (from, slope, colour) => {
      const y = (at) => loss(from, exact) + slope * (at - from);
      return Play.line([curveAt(-1.5, y(-1.5)), curveAt(1.5, y(1.5))], { class: colour });
    };
    const dot = (x, colour) => {
      const [cx, cy] = curveAt(x, loss(x, exact));
      return Play.svg("circle", { cx, cy, r: 4, class: colour });
    };
    const [zeroX, zeroY] = curveAt(0, 0);
    inside.replaceChildren(
      Play.segment(0, zeroY, WIDTH, zeroY, { class: "grid" }),
      Play.segment(zeroX, 0, zeroX, HEIGHT, { class: "grid" }),
      Play.line(curve, { class: "ink" }),
    );
    if (isLost(type, x, h)) return inside.append(dot(x, "fill-ink"));
    inside.append(
      chord(x, forwardDifference(name, type, x, h), "b dashed"),
      chord(x - h, centralDifference(name, type, x, h), "a"),
      dot(x - h, "fill-a"),
      dot(x + h, "fill-a"),
      dot(x, "fill-b"),
    );
  }

  // The error for every h; an error of 0 is at the lower edge, 1e−14.
  const errorAt = (k, error) => [
    ((52 - k) / 52) * (WIDTH - 12) + 6,
    ((1.5 - Math.max(-14, Math.log10(error))) / 15.5) * (HEIGHT - 8) + 4,
  ];
  function drawErrors(inside, { name, type, x, k }) {
    const derivative = LOSSES[name].derivative(TYPES[type](x));
    const [left, bottom] = errorAt(k, 0);
    inside.replaceChildren(Play.segment(left, 4, left, bottom, { class: "ink" }));
    if (Number.isNaN(derivative)) return;
    for (const [colour, difference] of Object.entries({ b: forwardDifference, a: centralDifference })) {
      const ks = KS.filter((k) => !isLost(type, x, 2 ** -k));
      const points = ks.map((k) => errorAt(k, Math.abs(difference(name, type, x, 2 ** -k) - derivative)));
      inside.append(Play.line(points, { class: colour }));
      points.forEach(([cx, cy], i) =>
        inside.append(Play.svg("circle", { cx, cy, r: ks[i] === k ? 5 : 1.5, class: `fill-${colour}` })),
      );
    }
  }

  function sentence({ name, type, x, h, k }) {
    const step = k === 0 ? "h = 1." : `h = ${powerOfTwo(k)} = ${Play.short(h, 2)}.`;
    if (isLost(type, x, h)) return `${step} In ${type}, x + h is x: nothing can be measured.`;
    const [forward, central] = [forwardDifference, centralDifference].map((difference) => difference(name, type, x, h));
    const measured = `Measured: central ${Play.short(central, 9)}, forward ${Play.short(forward, 9)}.`;
    const derivative = LOSSES[name].derivative(TYPES[type](x));
    if (Number.isNaN(derivative))
      return `${step} ${measured} At the kink itself there is no derivative: the slope jumps from −1 to 1.`;
    const error = Play.short(Math.abs(central - derivative), 2);
    const right = `The derivative is ${Play.short(derivative, 9)}; error of the central difference ${error}.`;
    const crosses = name === "abs" && Math.abs(x) < h;
    const mixture = crosses ? "The step crosses the kink: central measures x/h, a mixture of the slopes −1 and 1." : "";
    return `${step} ${measured} ${right} ${mixture}`;
  }

  function figure() {
    const curve = Play.drawing(380, 270, "the curve and its chords");
    const errors = Play.drawing(380, 270, "the error for every h");
    const [curveInside, errorsInside] = [
      frame(curve, "loss; chords: central solid, forward dashed"),
      frame(errors, "error; the vertical line is h"),
    ];
    for (const x of [-1, 0, 1]) curve.append(Play.text(LEFT + curveAt(x, 0)[0], TOP + HEIGHT + 15, Play.fixed(x, 0)));
    for (const y of [-1, 0, 1, 2])
      curve.append(
        Play.text(LEFT - 6, TOP + curveAt(0, y)[1] + 4, Play.fixed(y, 0), { class: "small", "text-anchor": "end" }),
      );
    for (const k of [52, 39, 26, 17, 8, 0])
      errors.append(Play.text(LEFT + errorAt(k, 1)[0], TOP + HEIGHT + 15, powerOfTwo(k), { class: "small" }));
    for (const [exponent, label] of [
      [0, "1"],
      [-4, "1e−4"],
      [-8, "1e−8"],
      [-12, "1e−12"],
      [-14, "0"],
    ])
      errors.append(
        Play.text(LEFT - 6, TOP + errorAt(0, 10 ** exponent)[1] + 4, label, { class: "small", "text-anchor": "end" }),
      );

    const readout = Play.html("p", { class: "readout" });
    const loss = Play.choice("loss", { abs: "|x|", cube: "x³" }, show);
    const type = Play.choice("computed in", { f64: "f64", f32: "f32" }, show);
    const x = Play.slider("x", { min: -1, max: 1, step: 0.05, value: 0.25 }, show);
    const step = Play.slider("h", { min: -52, max: 0, step: 1, value: -1 }, show);
    const xValue = Play.html("span", {});
    x.label.append(xValue);

    function show() {
      const k = -Number(step.input.value);
      const state = { name: loss.input.value, type: type.input.value, x: Number(x.input.value), k, h: 2 ** -k };
      xValue.textContent = Play.fixed(state.x, 2);
      Play.set(step.input, { "aria-valuetext": powerOfTwo(k) });
      drawCurve(curveInside, state);
      drawErrors(errorsInside, state);
      readout.textContent = sentence(state);
    }

    show();
    return [
      Play.row(loss.label, type.label, x.label, step.label),
      Play.row(curve, errors),
      readout,
      Play.paragraph(
        "Move h to the left until the step no longer crosses the kink: the error falls to 0 at once.",
        "Move x to 0: now every step crosses it.",
        "Then take x³ at x = 0.7, and find the best h in f64 and in f32.",
      ),
    ];
  }

  if (typeof module !== "undefined") module.exports = { forwardDifference, centralDifference };
  else Play.mount("error_against_h.svg", "kinks", "Play: the step h, and a kink", figure);
}
