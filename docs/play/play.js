// What the four playable figures share: where they go on a page, and short names for making elements.
//
// The pages are plain Markdown. A figure looks for the drawing it belongs to, and does nothing on the other pages.
"use strict";

const Play = {
  // The element `tag` with these attributes and children (elements or texts).
  html(tag, attributes, ...children) {
    return Play.filled(document.createElement(tag), attributes, children);
  },

  svg(tag, attributes, ...children) {
    return Play.filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  },

  filled(element, attributes, children) {
    Play.set(element, attributes);
    element.append(...children);
    return element;
  },

  set(element, attributes) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  },

  // A drawing of that many units; it is scaled to the width of the page.
  drawing(width, height, label) {
    return Play.svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
  },

  text(x, y, content, attributes = {}) {
    return Play.svg("text", { x, y, "text-anchor": "middle", ...attributes }, content);
  },

  // Elements side by side, or below one another where the page is narrow.
  row(...children) {
    return Play.html("div", { class: "row" }, ...children);
  },

  paragraph(...sentences) {
    return Play.html("p", {}, sentences.join(" "));
  },

  // Straight lines through the points.
  line(points, attributes) {
    return Play.svg("polyline", {
      points: points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "),
      ...attributes,
    });
  },

  segment(x1, y1, x2, y2, attributes) {
    return Play.svg("line", { x1, y1, x2, y2, ...attributes });
  },

  button(label, action) {
    const button = Play.html("button", { type: "button" }, label);
    button.addEventListener("click", action);
    return button;
  },

  // A labelled slider; `action` is called when it moves.
  slider(label, { min, max, step, value }, action) {
    const input = Play.html("input", { type: "range", min, max, step, value });
    input.addEventListener("input", action);
    return { input, label: Play.html("label", {}, label, input) };
  },

  // A labelled choice; `options` has what one reads for each value.
  choice(label, options, action) {
    const input = Play.html(
      "select",
      {},
      ...Object.entries(options).map(([value, name]) => Play.html("option", { value }, name)),
    );
    input.addEventListener("change", action);
    return { input, label: Play.html("label", {}, label, input) };
  },

  // "−3.50" for −3.5 and 2 digits; never "−0.00".
  fixed(value, digits) {
    const text = value.toFixed(digits);
    return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
  },

  // "0.25", "2.4e−7": as many digits as are needed, `digits` at most.
  short(value, digits) {
    const [size, rounded] = [Math.abs(value), Number(value.toPrecision(digits))];
    const plain = size === 0 || (size > 1e-3 && size < 1e4);
    return (plain ? String(rounded) : rounded.toExponential()).replaceAll("-", "−").replace("+", "");
  },

  // Puts what `figure` returns on the page that shows the drawing `image`: at the end of the section with the heading
  // `section`, or, if none is given, of the section of the drawing.
  mount(image, section, title, figure) {
    const drawing = document.querySelector(`img[src$="/${image}"]`);
    if (!drawing) return;
    let last = document.getElementById(section) || drawing.closest("p");
    while (last.nextElementSibling && !/^H[1-6]$/.test(last.nextElementSibling.tagName)) last = last.nextElementSibling;
    const heading = Play.html("p", { class: "play-title" }, title);
    const place = Play.html("section", { class: "play", "aria-label": title }, heading, ...figure());
    // Else the arrow keys, which move a slider, would turn the page as well.
    place.addEventListener("keydown", (event) => event.stopPropagation());
    last.after(place);
  },
};
