// Play with the batch norm of docs/batch_norm.md: drag an x or a dy, and see every dx move and their sum stay 0.
"use strict";
{
  // The numbers of examples/book/batch_norm_three_paths.rs.
  const [X, DY, GAMMA, EPS] = [[1, 3, 5, 7], [9, 0, 0, 0], 3, 4];

  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // The equations of the page, for one channel; `direct`, `mean` and `variance` are what comes through each path to dx.
  function batchNorm(x, dy, gamma, eps) {
    const m = x.length;
    const mean = sum(x) / m;
    const variance = sum(x.map((x) => (x - mean) ** 2)) / m;
    const rstd = 1 / Math.sqrt(variance + eps);
    const xHat = x.map((x) => (x - mean) * rstd);
    const [dbeta, dgamma] = [sum(dy), sum(dy.map((dy, i) => dy * xHat[i]))];
    const paths = {
      direct: dy.map((dy) => gamma * rstd * dy),
      mean: dy.map(() => (-gamma * rstd * dbeta) / m),
      variance: xHat.map((xHat) => (-gamma * rstd * xHat * dgamma) / m),
    };
    const dx = x.map((_, i) => paths.direct[i] + paths.mean[i] + paths.variance[i]);
    return { mean, xHat, paths, dx, dgamma, dbeta };
  }

  const column = (i) => 62 + 84 * i;

  // Values from −`limit` to `limit` as heights: 0 is at `zero`, the largest `half` above it.
  function scale(drawing, name, zero, half, limit) {
    for (const value of [-limit, 0, limit]) {
      const y = zero - (value / limit) * half;
      drawing.append(
        Play.segment(24, y, 356, y, { class: "grid" }),
        Play.text(20, y + 4, Play.fixed(value, 0), { class: "small muted", "text-anchor": "end" }),
      );
    }
    drawing.append(Play.text(24, zero - half - 14, name, { "text-anchor": "start" }));
    return (value) => zero - (Math.max(-limit, Math.min(limit, value)) / limit) * half;
  }

  // Four bars with a dot to drag. `values` is changed in place, and `changed` called.
  function handles(drawing, name, zero, values, changed) {
    const y = scale(drawing, `${name}: drag`, zero, 52, 10);
    const shows = values.map((_, i) => {
      const bar = Play.svg("rect", { x: column(i) - 9, width: 18, class: "fill-ink soft" });
      const dot = Play.svg("circle", { cx: column(i), r: 8, class: "fill-ink focus" });
      const finger = Play.svg("circle", { cx: column(i), r: 16, "fill-opacity": 0 });
      const label = Play.text(column(i) + 14, 0, "", { "text-anchor": "start" });
      const handle = Play.svg(
        "g",
        { tabindex: 0, role: "slider", "aria-label": `${name}${i + 1}`, "aria-valuemin": -10, "aria-valuemax": 10 },
        bar,
        dot,
        finger,
        label,
      );
      const move = (value) => {
        values[i] = Math.max(-10, Math.min(10, Math.round(2 * value) / 2));
        changed();
      };
      handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
      handle.addEventListener("pointermove", (event) => {
        if (!handle.hasPointerCapture(event.pointerId)) return;
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
        move(((zero - at.y) / 52) * 10);
      });
      handle.addEventListener("keydown", (event) => {
        const by = { ArrowUp: 0.5, ArrowRight: 0.5, ArrowDown: -0.5, ArrowLeft: -0.5, PageUp: 2, PageDown: -2 }[
          event.key
        ];
        if (by === undefined) return;
        event.preventDefault();
        move(values[i] + by);
      });
      drawing.append(handle);
      return () => {
        const top = y(values[i]);
        Play.set(bar, { y: Math.min(top, zero), height: Math.abs(top - zero) });
        Play.set(dot, { cy: top });
        Play.set(finger, { cy: top });
        Play.set(label, { y: top + 4 });
        label.textContent = Play.fixed(values[i], Number.isInteger(values[i]) ? 0 : 1);
        Play.set(handle, { "aria-valuenow": values[i] });
      };
    });
    return { show: () => shows.forEach((show) => show()), y };
  }

  function figure() {
    const [x, dy] = [[...X], [...DY]];
    const given = Play.drawing(380, 296, "x and dy");
    const computed = Play.drawing(380, 296, "dx");
    const readout = Play.html("p", { class: "readout" });
    const mean = Play.segment(24, 0, 356, 0, { class: "ink dashed" });
    given.append(mean);
    const xs = handles(given, "x", 80, x, show);
    const dys = handles(given, "dy", 226, dy, show);

    const height = scale(computed, "dx, the sum of its three paths", 154, 124, 15);
    const kinds = [
      { kind: "direct", colour: "fill-a", name: "directly", left: 24 },
      { kind: "mean", colour: "fill-b", name: "through mean", left: 106 },
      { kind: "variance", colour: "fill-c", name: "through var", left: 216 },
      { kind: "dx", colour: "fill-ink", name: "dx", left: 312 },
    ];
    const bars = kinds.map(({ colour, name, left }, place) => {
      const text = Play.text(left + 16, 294, name, { class: "small", "text-anchor": "start" });
      computed.append(Play.svg("rect", { x: left, y: 285, width: 10, height: 10, class: colour }), text);
      return x.map((_, i) =>
        computed.appendChild(Play.svg("rect", { x: column(i) - 32 + 15 * place, width: 12, class: colour })),
      );
    });
    const labels = x.map((_, i) =>
      computed.appendChild(Play.text(column(i) + 13, 0, "", { class: "small", "text-anchor": "start" })),
    );

    function show() {
      const result = batchNorm(x, dy, GAMMA, EPS);
      xs.show();
      dys.show();
      Play.set(mean, { y1: xs.y(result.mean), y2: xs.y(result.mean) });
      const values = { ...result.paths, dx: result.dx };
      kinds.forEach(({ kind }, place) =>
        values[kind].forEach((value, i) => {
          const top = height(value);
          Play.set(bars[place][i], { y: Math.min(top, 154), height: Math.abs(top - 154) });
        }),
      );
      result.dx.forEach((value, i) => {
        labels[i].textContent = Play.fixed(value, 2);
        Play.set(labels[i], { y: height(value) + (value < 0 ? 12 : -4) });
      });
      const two = (value) => Play.fixed(value, 2);
      const total = (kind) => two(sum(values[kind]));
      readout.textContent =
        `mean = ${two(result.mean)} (the dashed line), dbeta = ${two(result.dbeta)}, dgamma = ${two(result.dgamma)}. ` +
        `Sum of dx: ${total("direct")} directly, ${total("mean")} through the mean, ` +
        `${total("variance")} through the variance; together ${total("dx")}.`;
    }

    // Changes the four values of `target`.
    function change(target, value) {
      target.forEach((_, i) => (target[i] = value(i)));
      show();
    }
    function startAgain() {
      change(x, (i) => X[i]);
      change(dy, (i) => DY[i]);
    }
    show();
    return [
      Play.row(
        Play.button("all x + 1", () => Math.max(...x) < 10 && change(x, (i) => x[i] + 1)),
        Play.button("dy = 1", () => change(dy, () => 1)),
        Play.button("start again", startAgain),
      ),
      Play.row(given, computed),
      readout,
      Play.paragraph(
        "Drag a dot up or down (or press Tab until it is marked, then the arrow keys).",
        "Drag one dy: all four dx move, and their sum stays 0.",
        "Then move all x by 1: no dx changes.",
        "Then move the x far apart: every dx becomes small, for rstd does.",
        "Last, dy = 1: why are all dx 0?",
      ),
    ];
  }

  if (typeof module !== "undefined") module.exports = { batchNorm };
  else Play.mount("batch_norm_three_paths.svg", null, "Play: one x moves the whole channel", figure);
}
