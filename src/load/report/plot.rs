//! One plot as inline SVG: axes, ticks, lines, a legend, and a title and description for those who do not see it. Colours
//! are the page's style sheet's.

use std::fmt::Write as _;

use super::{
    axis::{Axis, Scale},
    html::escape,
};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;

/// Width of a character of the legend, more or less.
const CHARACTER: f64 = 7.5;

/// A line. Points without a second number leave a gap.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// Lines over one pair of axes.
pub(super) struct Plot {
    /// Unique on the page.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What can be seen, in a sentence.
    pub(super) description: String,
    pub(super) x: (Scale, &'static str),
    pub(super) y: (Scale, &'static str),
    pub(super) lines: Vec<Line>,
    /// Whether each point is worth a mark.
    pub(super) marks: bool,
}

struct Frame {
    x: Axis,
    y: Axis,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }
}

impl Plot {
    /// The element with everything in it.
    pub(super) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let frame = Frame {
            x: Axis::over(self.x.0, points().map(|point| point.0)),
            y: Axis::over(self.y.0, points().filter_map(|point| point.1)),
        };
        let (id, title, description) = (self.id, escape(self.title), escape(&self.description));
        let mut svg = format!(
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{id}-t {id}-d"><title id="{id}-t">{title}</title><desc id="{id}-d">{description}</desc>"#
        );
        self.axes(&mut svg, &frame);
        for (index, line) in self.lines.iter().enumerate() {
            draw(&mut svg, &frame, line, index, self.marks);
        }
        self.legend(&mut svg);
        svg.push_str("</svg>");
        svg
    }

    fn axes(&self, svg: &mut String, frame: &Frame) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, label) in frame.y.ticks() {
            let y = frame.y(value);
            rule(svg, [LEFT, y, right, y]);
            text(svg, LEFT - 6.0, y + 4.0, "end", &label);
        }
        for (value, label) in frame.x.ticks() {
            let x = frame.x(value);
            rule(svg, [x, TOP, x, bottom]);
            text(svg, x, bottom + 17.0, "middle", &label);
        }
        text(svg, LEFT.midpoint(right), HEIGHT - 8.0, "middle", self.x.1);
        let middle = TOP.midpoint(bottom);
        let _ = write!(
            svg,
            r#"<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{}</text>"#,
            escape(self.y.1)
        );
    }

    fn legend(&self, svg: &mut String) {
        let mut x = LEFT;
        for (index, line) in self.lines.iter().enumerate() {
            let _ = write!(svg, r#"<path class="line l{index}" d="M{x:.1} 16h22"/>"#);
            text(svg, x + 28.0, 20.0, "start", line.name);
            x += 44.0 + CHARACTER * line.name.len() as f64;
        }
    }
}

fn draw(svg: &mut String, frame: &Frame, line: &Line, index: usize, marks: bool) {
    let mut path = String::new();
    let mut pen_down = false;
    for (x, y) in &line.points {
        let Some(y) = y else {
            pen_down = false;
            continue;
        };
        let (x, y) = (frame.x(*x), frame.y(*y));
        // A point without neighbours is a line of no length, which round ends make visible.
        let _ = match pen_down {
            true => write!(path, "L{x:.1} {y:.1}"),
            false => write!(path, "M{x:.1} {y:.1}h0"),
        };
        pen_down = true;
        if marks {
            let _ = write!(svg, r#"<circle class="mark m{index}" cx="{x:.1}" cy="{y:.1}" r="3.5"/>"#);
        }
    }
    let _ = write!(svg, r#"<path class="line l{index}" d="{path}"/>"#);
}

fn rule(svg: &mut String, [x1, y1, x2, y2]: [f64; 4]) {
    let _ = write!(svg, r#"<path class="rule" d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}"/>"#);
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = escape(text);
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, Option<f64>)>) -> String {
        Plot {
            id: "p",
            title: "a < b",
            description: "what is seen".to_owned(),
            x: (Scale::Linear, "seconds"),
            y: (Scale::Linear, "milliseconds"),
            lines: vec![Line { name: "p50", points }],
            marks: false,
        }
        .svg()
    }

    #[test]
    fn a_gap_lifts_the_pen() {
        let svg = plot(vec![(0.0, Some(1.0)), (1.0, Some(4.0)), (2.0, None), (4.0, Some(2.0))]);
        let path = svg.split(r#"<path class="line l0" d=""#).nth(1).unwrap().split('"').next().unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1), "{path}");
        assert!(path.contains(&format!("L{:.1} {TOP:.1}", LEFT + (WIDTH - LEFT - RIGHT) / 4.0)), "{path}");
    }

    #[test]
    fn a_plot_tells_what_it_shows_even_with_nothing_on_it() {
        let svg = plot(Vec::new());
        assert!(svg.contains("<title id=\"p-t\">a &lt; b</title><desc id=\"p-d\">what is seen</desc>"));
        assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"));
    }
}
