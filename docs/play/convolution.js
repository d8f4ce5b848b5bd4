// Play with the convolution of docs/conv2d.md: click an output gradient, and see dx and dweight fill.
"use strict";
{
  // The picture and the filter of examples/book/convolution_on_5x5.rs.
  const X = [
    [1, 2, 1, 8, 9],
    [2, 1, 2, 9, 8],
    [1, 2, 8, 9, 9],
    [2, 1, 9, 8, 9],
    [1, 8, 9, 9, 8],
  ];
  const WEIGHT = [
    [-1, 0, 1],
    [-2, 0, 2],
    [-1, 0, 1],
  ];

  const zeros = (size) => Array.from({ length: size }, () => new Array(size).fill(0));

  // Rows and columns of y.
  const outputs = (stride, padding) => Math.floor((X.length + 2 * padding - WEIGHT.length) / stride) + 1;

  // The list of the page: one term (place in y, place in weight, place in x) for every product of the forward pass.
  function terms(stride, padding) {
    const list = [];
    for (let ho = 0; ho < outputs(stride, padding); ho++)
      for (let wo = 0; wo < outputs(stride, padding); wo++)
        for (let p = 0; p < WEIGHT.length; p++)
          for (let q = 0; q < WEIGHT.length; q++) {
            const [h, w] = [ho * stride + p - padding, wo * stride + q - padding];
            const inside = h >= 0 && h < X.length && w >= 0 && w < X.length;
            if (inside)
              list.push([
                [ho, wo],
                [p, q],
                [h, w],
              ]);
          }
    return list;
  }

  // The three readings of the list.
  function convolution(dy, stride, padding) {
    const [y, dx, dweight] = [zeros(dy.length), zeros(X.length), zeros(WEIGHT.length)];
    for (const [[ho, wo], [p, q], [h, w]] of terms(stride, padding)) {
      y[ho][wo] += WEIGHT[p][q] * X[h][w];
      dx[h][w] += WEIGHT[p][q] * dy[ho][wo];
      dweight[p][q] += X[h][w] * dy[ho][wo];
    }
    return { y, dx, dweight };
  }

  const CELL = 30;

  // An array of squares in `drawing`. `show` writes the values; `mark` draws a window of that many squares, or none.
  function grid(drawing, name, left, top, size) {
    const [x0, y0] = [left * CELL, top * CELL];
    const cells = [];
    drawing.append(Play.text(x0 + (size * CELL) / 2, 14, name));
    for (let row = 0; row < size; row++)
      for (let column = 0; column < size; column++) {
        const [x, y] = [x0 + column * CELL, y0 + row * CELL];
        const square = Play.svg("rect", {
          x,
          y,
          width: CELL,
          height: CELL,
          class: "grid focus",
          "pointer-events": "all",
        });
        const text = Play.text(x + CELL / 2, y + CELL / 2 + 4, "");
        const cell = Play.svg("g", {}, square, text);
        cells.push({ cell, text, row, column });
        drawing.append(cell);
      }
    const window = Play.svg("rect", { class: "a fill-a soft", "pointer-events": "none", visibility: "hidden" });
    drawing.append(window);
    return {
      cells,
      show(values) {
        for (const { text, row, column } of cells) {
          text.textContent = Play.fixed(values[row][column], 0);
          Play.set(text, { class: values[row][column] === 0 ? "muted" : "" });
        }
      },
      mark(place, length) {
        if (!place) return Play.set(window, { visibility: "hidden" });
        const [y, x] = [y0 + place[0] * CELL + 1.5, x0 + place[1] * CELL + 1.5];
        Play.set(window, { x, y, width: length * CELL - 3, height: length * CELL - 3, visibility: "visible" });
      },
    };
  }

  function figure() {
    const readout = Play.html("p", { class: "readout", "aria-live": "polite" });
    const [input, outputsRow] = [Play.html("div", { class: "narrow" }), Play.html("div", { class: "row" })];
    const strides = Play.choice("stride", { 1: "1", 2: "2" }, begin);
    const paddings = Play.choice("padding", { 0: "0", 1: "1" }, begin);
    let stride, padding, dy, last, grids;

    // New drawings: the size of dy depends on stride and padding.
    function begin() {
      [stride, padding, last] = [Number(strides.input.value), Number(paddings.input.value), null];
      const size = outputs(stride, padding);
      dy = zeros(size);
      const clicked = Play.drawing(170, 24 + size * CELL + 6, "dy");
      const left = Play.drawing(340, 230, "weight and dx");
      const right = Play.drawing(340, 230, "x and dweight");
      grids = {
        dy: grid(clicked, "dy: click", 0.3, 0.8, size),
        weight: grid(left, "weight", 0.3, 1.6, 3),
        dx: grid(left, "dx", 5, 1.6, 5),
        x: grid(right, "x", 1, 1.6, 5),
        dweight: grid(right, "dweight", 7.7, 1.6, 3),
      };
      left.append(Play.text(4.1 * CELL, 3.3 * CELL, "→", { class: "large" }));
      right.append(Play.text(6.9 * CELL, 3.3 * CELL, "→", { class: "large" }));
      grids.x.show(X);
      grids.weight.show(WEIGHT);
      for (const { cell, row, column } of grids.dy.cells) {
        Play.set(cell, { role: "button", tabindex: 0 });
        cell.addEventListener("click", () => next(row, column));
        cell.addEventListener("keydown", (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          next(row, column);
        });
      }
      input.replaceChildren(clicked);
      outputsRow.replaceChildren(left, right);
      show();
    }

    // 0, 1, 10 and 0 again.
    function next(row, column) {
      dy[row][column] = { 0: 1, 1: 10, 10: 0 }[dy[row][column]];
      last = [row, column];
      show();
    }

    function show() {
      const { dx, dweight } = convolution(dy, stride, padding);
      grids.dy.show(dy);
      grids.dx.show(dx);
      grids.dweight.show(dweight);
      for (const { cell, row, column } of grids.dy.cells)
        Play.set(cell, { "aria-label": `dy[${row},${column}] = ${dy[row][column]}` });
      const window = last && last.map((place) => place * stride - padding);
      grids.dy.mark(last, 1);
      grids.x.mark(window, 3);
      grids.dx.mark(window, 3);
      readout.textContent = last ? sentence(window) : "All dy are 0, so dx and dweight are 0 as well.";
    }

    function sentence(window) {
      const [value, name] = [dy[last[0]][last[1]], `dy[${last}]`];
      if (value === 0) return `${name} is 0 again: it adds nothing.`;
      const times = value === 1 ? "" : `${value} · `;
      const outside = window.some((place) => place < 0 || place + WEIGHT.length > X.length);
      const dropped = outside ? " What lies outside the picture is dropped from dx, and is 0 in x." : "";
      return `${name} = ${value} adds ${times}weight to its window of dx, and ${times}its window of x to dweight.${dropped}`;
    }

    begin();
    const controls = Play.html(
      "div",
      { class: "row" },
      strides.label,
      paddings.label,
      Play.button("all dy = 0", begin),
    );
    return [
      Play.row(input, Play.html("div", { class: "beside" }, controls, readout)),
      outputsRow,
      Play.paragraph(
        "Click a square of dy (or press Enter on it): it becomes 1, then 10, then 0 again.",
        "First one square alone. Then make the drawing of the page: dy[0,0] = 1 and dy[1,1] = 10.",
        "Then take stride 2 and set all four dy to 1: how many windows contain dx[1,1], and how many dx[2,2]?",
      ),
    ];
  }

  if (typeof module !== "undefined") module.exports = { convolution, outputs };
  else Play.mount("convolution_on_5x5.svg", null, "Play: one list of terms", figure);
}
