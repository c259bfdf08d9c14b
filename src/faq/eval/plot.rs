//! Draws the reliability diagram of a report as SVG: how often the best match was right against its probability, with
//! the number of questions in each bin below. Text and shapes only; nothing is measured here.

use super::Report;
use super::figures::Bin;
use std::fmt::Write as _;

/// Side of the diagram, height of the histogram below it and margin around both, in pixels.
const SIDE: f64 = 360.0;
const HISTOGRAM: f64 = 80.0;
const MARGIN: f64 = 50.0;

/// The diagram as a complete SVG file.
pub fn reliability_svg(report: &Report) -> String {
    let (width, height) = (SIDE + 2.0 * MARGIN, SIDE + HISTOGRAM + 2.5 * MARGIN);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">"#
    );
    svg.push_str(r##"<rect width="100%" height="100%" fill="#fff"/>"##);
    axes(&mut svg);
    let largest = report.bins.iter().map(|bin| bin.questions).max().unwrap_or(0).max(1);
    for (index, bin) in report.bins.iter().enumerate().filter(|(_, bin)| bin.questions > 0) {
        draw_bin(&mut svg, index, report.bins.len(), bin, largest);
    }
    let title = format!("{} questions, ECE {:.4}", report.overall.questions, report.calibration_error);
    text(&mut svg, MARGIN + SIDE / 2.0, MARGIN * 0.6, "middle", &title);
    svg.push_str("</svg>\n");
    svg
}

/// Frames, the diagonal of perfect calibration, and labels.
fn axes(svg: &mut String) {
    let below = MARGIN + SIDE + MARGIN / 2.0;
    for (top, height) in [(MARGIN, SIDE), (below, HISTOGRAM)] {
        let _ = write!(
            svg,
            r##"<rect x="{MARGIN}" y="{top}" width="{SIDE}" height="{height}" fill="none" stroke="#444"/>"##
        );
    }
    let (right, bottom) = (MARGIN + SIDE, MARGIN + SIDE);
    let _ = write!(
        svg,
        r##"<line x1="{MARGIN}" y1="{bottom}" x2="{right}" y2="{MARGIN}" stroke="#999" stroke-dasharray="4 4"/>"##
    );
    for tick in 0..=5 {
        let share = f64::from(tick) / 5.0;
        text(svg, MARGIN - 6.0, bottom - share * SIDE + 4.0, "end", &format!("{share:.1}"));
        text(svg, MARGIN + share * SIDE, bottom + 16.0, "middle", &format!("{share:.1}"));
    }
    let under = below + HISTOGRAM + 18.0;
    text(
        svg,
        MARGIN + SIDE / 2.0,
        under,
        "middle",
        "probability of the best match; right answers above, questions below",
    );
}

fn draw_bin(svg: &mut String, index: usize, bins: usize, bin: &Bin, largest: usize) {
    let (wide, bottom) = (SIDE / bins as f64, MARGIN + SIDE);
    let left = MARGIN + index as f64 * wide;
    bar(svg, left, bottom, wide, bin.right * SIDE, "#7aa6d6");
    let floor = bottom + MARGIN / 2.0 + HISTOGRAM;
    bar(svg, left, floor, wide, bin.questions as f64 / largest as f64 * (HISTOGRAM - 4.0), "#bbb");
    let (x, y) = (MARGIN + bin.probability * SIDE, bottom - bin.right * SIDE);
    let _ = write!(svg, r##"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="#1b4f8a"/>"##);
}

fn bar(svg: &mut String, left: f64, floor: f64, wide: f64, tall: f64, colour: &str) {
    let _ = write!(
        svg,
        r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{tall:.1}" fill="{colour}"/>"#,
        left + 1.0,
        floor - tall,
        wide - 2.0
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#);
}
