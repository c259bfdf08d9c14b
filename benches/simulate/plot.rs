//! Draws what the table says: mean, p99, goodput and mean batch over load, as one SVG a device and arrival process.
//! Plain text by hand; who reads the numbers reads the table.

use std::{fmt::Write as _, io, path::Path};

use super::{Arrivals, Device, Figures, Row};

const PANEL: (f64, f64) = (300.0, 200.0);
/// Left, top, right and bottom of a panel's lines.
const MARGIN: (f64, f64, f64, f64) = (46.0, 30.0, 10.0, 34.0);
const FRAME: (f64, f64) = (PANEL.0 - MARGIN.0 - MARGIN.2, PANEL.1 - MARGIN.1 - MARGIN.3);
const HEAD: f64 = 44.0;

/// Name and colour of a line, dashed for the peers.
const LINES: [(&str, &str, &str); 5] = [
    ("convoy", "#c1121f", ""),
    ("best peer, tuned for each load", "#1d3557", "5 3"),
    ("Triton 5 ms, untuned", "#2a9d8f", "2 3"),
    ("mosec 10 ms, untuned", "#e09f3e", "2 3"),
    ("greedy, untuned", "#8d99ae", "2 3"),
];

/// What a panel shows.
struct Panel {
    title: &'static str,
    value: fn(&Figures) -> f64,
    /// Which of the tuned peers it is held against.
    tuned: usize,
    logarithmic: bool,
}

const PANELS: [Panel; 4] = [
    Panel { title: "mean, ms", value: |figures| figures.mean, tuned: 0, logarithmic: true },
    Panel { title: "p99, ms", value: |figures| figures.p99, tuned: 1, logarithmic: true },
    Panel { title: "in time, of capacity", value: |figures| figures.goodput, tuned: 2, logarithmic: false },
    Panel { title: "mean batch", value: |figures| figures.mean_batch, tuned: 0, logarithmic: true },
];

/// Writes `DEVICE-ARRIVALS.svg` into `folder`.
pub(crate) fn draw(folder: &Path, device: &Device, arrivals: Arrivals, rows: &[Row]) -> io::Result<()> {
    let (width, height) = (PANEL.0 * PANELS.len() as f64, PANEL.1 + HEAD);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let title = format!(
        "{}, {} arrivals, deadline {} ms (virtual time)",
        device.name,
        arrivals.name(),
        device.deadline.as_millis()
    );
    text(&mut svg, (12.0, 16.0), "start", &title);
    legend(&mut svg);
    for (index, one) in PANELS.iter().enumerate() {
        panel(&mut svg, PANEL.0 * index as f64, one, rows);
    }
    svg.push_str("</svg>\n");
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{}-{}.svg", device.name.to_lowercase(), arrivals.name())), svg)
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    let _infallible =
        writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>", at.0, at.1);
}

fn line(svg: &mut String, points: &[(f64, f64)], colour: &str, dash: &str) {
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _infallible = writeln!(
        svg,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-dasharray=\"{dash}\" points=\"{}\"/>",
        path.join(" ")
    );
}

fn legend(svg: &mut String) {
    for (index, (name, colour, dash)) in LINES.iter().enumerate() {
        let x = 12.0 + 220.0 * index as f64;
        line(svg, &[(x, 32.0), (x + 26.0, 32.0)], colour, dash);
        text(svg, (x + 32.0, 36.0), "start", name);
    }
}

fn panel(svg: &mut String, left: f64, panel: &Panel, rows: &[Row]) {
    let series = series(panel, rows);
    let values = || series.iter().flatten().copied().filter(|value| *value > 0.0);
    let highest = values().fold(f64::MIN, f64::max);
    let lowest = if panel.logarithmic { values().fold(f64::MAX, f64::min) } else { 0.0 };
    let scale = Scale { low: lowest, high: highest.max(lowest * 1.5), logarithmic: panel.logarithmic };
    let x = |index: usize| left + MARGIN.0 + FRAME.0 * index as f64 / (rows.len() - 1).max(1) as f64;
    let y = |value: f64| HEAD + MARGIN.1 + FRAME.1 * (1.0 - scale.share(value));
    text(svg, (left + MARGIN.0, HEAD + MARGIN.1 - 10.0), "start", panel.title);
    for tick in scale.ticks() {
        line(svg, &[(x(0), y(tick)), (x(rows.len() - 1), y(tick))], "#dddddd", "");
        text(svg, (x(0) - 5.0, y(tick) + 4.0), "end", &format!("{tick}"));
    }
    for (index, row) in rows.iter().enumerate().filter(|(index, _)| index % 2 == 0) {
        text(
            svg,
            (x(index), HEAD + PANEL.1 - MARGIN.3 + 16.0),
            "middle",
            &format!("{:.0}", row.load * 100.0),
        );
    }
    text(svg, (left + MARGIN.0 + FRAME.0 / 2.0, HEAD + PANEL.1 - 4.0), "middle", "load, % of capacity");
    for (values, (_, colour, dash)) in series.iter().zip(LINES).rev() {
        let points = values.iter().enumerate().filter(|(_, value)| **value > 0.0 || !panel.logarithmic);
        line(svg, &points.map(|(index, &value)| (x(index), y(value))).collect::<Vec<_>>(), colour, dash);
    }
}

/// One row of values for each of [`LINES`].
fn series(panel: &Panel, rows: &[Row]) -> [Vec<f64>; 5] {
    let of =
        |figures: &dyn Fn(&Row) -> Figures| rows.iter().map(|row| (panel.value)(&figures(row))).collect();
    [
        of(&|row| row.ours),
        of(&|row| row.tuned[panel.tuned].1),
        of(&|row| row.untuned[0].1),
        of(&|row| row.untuned[1].1),
        of(&|row| row.untuned[2].1),
    ]
}

struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// Where `value` lies between the ends, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// One, two and five times the powers of ten that lie between the ends, or quarters.
    fn ticks(&self) -> Vec<f64> {
        let candidates: Vec<f64> = if self.logarithmic {
            (-2..6).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(power))).collect()
        } else {
            (0..9).map(|step| 0.25 * f64::from(step)).collect()
        };
        candidates.into_iter().filter(|tick| (self.low * 0.999..=self.high * 1.001).contains(tick)).collect()
    }
}
