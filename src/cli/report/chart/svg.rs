//! A scene as SVG.
//!
//! Colours are written twice: as attributes, for a separate file on white, and as classes (`text`, `grid`, `blue`), so that
//! the style sheet of a page can change them.

use super::{Anchor, Scene, Shape, WIDTH, colour::Ink};
use crate::cli::report::markup::{Markup, element};
use crate::cli::report::png;

/// The scene as a part of an HTML page.
pub fn inline(scene: &Scene) -> Markup {
    draw(scene, &[], Markup::new())
}

/// The scene as a separate file, on white.
pub fn document(scene: &Scene) -> Markup {
    let mut document = Markup::written_here("<!-- resnet report -->\n");
    let white = element("rect", &[("width", "100%"), ("height", "100%"), ("fill", "#ffffff")], "");
    document.push(draw(scene, &[("xmlns", "http://www.w3.org/2000/svg")], white));
    document.push("\n");
    document
}

fn draw(scene: &Scene, more: &[(&'static str, &str)], mut content: Markup) -> Markup {
    let (width, height) = (number(WIDTH), number(scene.height));
    let view = format!("0 0 {width} {height}");
    let mut attributes = more.to_vec();
    attributes.extend([
        ("viewBox", view.as_str()),
        ("width", &width),
        ("height", &height),
        ("role", "img"),
        ("aria-label", &scene.title),
        ("font-family", "DejaVu Sans, Verdana, sans-serif"),
    ]);
    scene.shapes.iter().for_each(|shape| content.push(draw_shape(shape)));
    element("svg", &attributes, content)
}

fn draw_shape(shape: &Shape) -> Markup {
    match shape {
        Shape::Line { points, ink, width, dashed } => {
            let points: Vec<String> = points.iter().map(|[x, y]| format!("{},{}", number(*x), number(*y))).collect();
            let (points, width) = (points.join(" "), number(*width));
            let mut attributes = vec![("points", points.as_str()), ("fill", "none"), ("stroke-width", &width)];
            attributes.extend([("stroke-linejoin", "round"), ("stroke-linecap", "round")]);
            if *dashed {
                attributes.push(("stroke-dasharray", "1 4"));
            }
            painted("polyline", &attributes, "stroke", *ink, Markup::new())
        }
        Shape::Rect { corner: [x, y], size: [width, height], ink, opacity, note } => {
            let [x, y, width, height, opacity] = [*x, *y, *width, *height, *opacity].map(number);
            let mut attributes = vec![("x", x.as_str()), ("y", &y), ("width", &width), ("height", &height)];
            if opacity != "1" {
                attributes.push(("fill-opacity", &opacity));
            }
            let note = note.as_ref().map_or(Markup::new(), |note| element("title", &[], note));
            painted("rect", &attributes, "fill", *ink, note)
        }
        Shape::Circle { centre: [x, y], radius, ink, ring } => {
            let [x, y, radius] = [*x, *y, *radius].map(number);
            let mut attributes = vec![("cx", x.as_str()), ("cy", &y), ("r", &radius)];
            if *ring {
                attributes.extend([("fill", "none"), ("stroke-width", "1.5")]);
            }
            painted("circle", &attributes, if *ring { "stroke" } else { "fill" }, *ink, Markup::new())
        }
        Shape::Text { at: [x, y], text, size, anchor, ink, bold, upwards } => {
            let [x, y, size] = [*x, *y, *size].map(number);
            let turned = format!("rotate(-90 {x} {y})");
            let mut attributes = vec![("x", x.as_str()), ("y", &y), ("font-size", &size)];
            match anchor {
                Anchor::Start => {}
                Anchor::Middle => attributes.push(("text-anchor", "middle")),
                Anchor::End => attributes.push(("text-anchor", "end")),
            }
            if *bold {
                attributes.push(("font-weight", "600"));
            }
            if *upwards {
                attributes.push(("transform", &turned));
            }
            painted("text", &attributes, "fill", *ink, text.into())
        }
        Shape::Pixels { corner: [x, y], size: [width, height], pixels, on_white } => {
            let [x, y, width, height] = [*x, *y, *width, *height].map(number);
            let picture = png::data_uri(pixels.view());
            let attributes = [
                ("x", x.as_str()),
                ("y", &y),
                ("width", &width),
                ("height", &height),
                ("class", if *on_white { "on-white" } else { "own-colours" }),
                ("preserveAspectRatio", "none"),
                ("style", "image-rendering:pixelated"),
                ("href", &picture),
            ];
            element("image", &attributes, "")
        }
    }
}

/// An element whose `property`, fill or stroke, has the colour `ink`.
fn painted(
    name: &'static str,
    attributes: &[(&'static str, &str)],
    property: &'static str,
    ink: Ink,
    content: Markup,
) -> Markup {
    let [red, green, blue] = ink.on_white();
    let colour = format!("#{red:02x}{green:02x}{blue:02x}");
    let is_area = name == "rect" && matches!(ink, Ink::Colour(_));
    let class = ink.name().filter(|_| !is_area).map(|name| format!("{property}-{name}"));
    let mut attributes = attributes.to_vec();
    attributes.push((property, &colour));
    attributes.extend(class.as_ref().map(|class| ("class", class.as_str())));
    element(name, &attributes, content)
}

/// At most two decimals.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([1.0, 0.5, 12.346, -0.001, 100.0].map(number), ["1", "0.5", "12.35", "0", "100"]);
    }

    #[test]
    fn texts_are_escaped_and_colours_said_twice() {
        let mut scene = Scene::new("<script>&\"", 100.0);
        scene.rect([1.0, 2.0], [3.0, 4.0], super::super::colour::BLUE, 0.25, Some("a < b".to_string()));
        let svg = document(&scene);
        let svg = svg.as_str();
        assert!(svg.contains("aria-label=\"&lt;script&gt;&amp;&quot;\"") && !svg.contains("<script>"), "{svg}");
        assert!(svg.contains("class=\"fill-text\">&lt;script&gt;&amp;&quot;</text>"), "{svg}");
        let rect = "<rect x=\"1\" y=\"2\" width=\"3\" height=\"4\" fill-opacity=\"0.25\" fill=\"#0072b2\"><title>a &lt; b</title></rect>";
        assert!(svg.contains(rect), "{svg}");
        assert!(!inline(&scene).as_str().contains("http"));
    }
}
