//! Draws a load and what each strategy made of it, as one SVG that follows the reader's light or dark theme.

use std::{fmt::Write as _, io, path::Path};

use super::{
    demand::Curve,
    ledger::{Figures, Sample},
    pool::{Pool, Strategy},
};

const WIDTH: f64 = 880.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const HEAD: f64 = 64.0;
/// Height of a panel and of its title.
const PANEL: f64 = 112.0;
const TITLE: f64 = 26.0;
const FOOT: f64 = 34.0;

/// Most points of a line: samples are thinned to their highest.
const POINTS: usize = 240;

const STYLE: &str = "<style>
svg{--paper:#ffffff;--ink:#1f2328;--faint:#d0d7de;--load:#dbe2ea;--a:#57606a;--b:#0969da;--c:#1a7f37;--d:#bc4c00}
@media (prefers-color-scheme:dark){svg{--paper:#0d1117;--ink:#e6edf3;--faint:#30363d;--load:#2a313a;--a:#8b949e;--b:#58a6ff;--c:#3fb950;--d:#f0883e}}
.paper{fill:var(--paper)}text{fill:var(--ink)}.rule{stroke:var(--faint)}.load{fill:var(--load);stroke:none}
polyline{fill:none;stroke-width:1.7;stroke-linejoin:round}.s0{stroke:var(--a);stroke-dasharray:6 3}.s1{stroke:var(--b)}.s2{stroke:var(--c)}
.s3{stroke:var(--d);stroke-dasharray:2 2}
</style>";

/// One of the stacked pictures.
struct Panel {
    title: &'static str,
    value: fn(&Sample, f64) -> f64,
    /// Whether the load is drawn behind.
    load: bool,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "asked (area) and what ready pods can serve, requests/s",
        value: |sample, capacity| sample.ready as f64 * capacity,
        load: true,
    },
    Panel { title: "refused, requests/s", value: |sample, _| sample.refused, load: false },
    Panel { title: "longest predicted drain, s", value: |sample, _| sample.drain, load: false },
    Panel { title: "nodes", value: |sample, _| sample.nodes as f64, load: false },
];

type Run = (&'static Strategy, Figures);

/// Writes `POOL-CURVE.svg` into `folder`.
pub(crate) fn draw(folder: &Path, pool: &Pool, curve: Curve, runs: &[Run]) -> io::Result<()> {
    let chosen: Vec<&Run> = pool
        .plotted
        .iter()
        .filter_map(|name| runs.iter().find(|(strategy, _)| strategy.name == *name))
        .collect();
    let height = HEAD + (PANEL + TITLE) * PANELS.len() as f64 + FOOT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n{STYLE}\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
    );
    text(&mut svg, (LEFT, 20.0), "start", &format!("{} pool, {} (simulated)", pool.name, curve.name()));
    for (index, (strategy, _)) in chosen.iter().enumerate() {
        let x = LEFT + 205.0 * index as f64;
        line(&mut svg, index, &[(x, 42.0), (x + 24.0, 42.0)]);
        text(&mut svg, (x + 30.0, 46.0), "start", strategy.name);
    }
    for (index, panel) in PANELS.iter().enumerate() {
        let top = HEAD + TITLE + (PANEL + TITLE) * index as f64;
        panel.draw(&mut svg, top, (pool.capacity(), curve.lasts()), &chosen);
    }
    hours(&mut svg, height - FOOT + 14.0, curve);
    svg.push_str("</svg>\n");
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{}-{}.svg", pool.name.to_lowercase(), curve.name())), svg)
}

impl Panel {
    fn draw(&self, svg: &mut String, top: f64, (capacity, lasts): (f64, f64), runs: &[&Run]) {
        let value = |sample: &Sample| (self.value)(sample, capacity);
        let load = runs.first().filter(|_| self.load).map(|run| &run.1.samples);
        let all = runs.iter().flat_map(|run| run.1.samples.iter().map(value));
        let highest = all.chain(load.into_iter().flatten().map(|sample| sample.asked)).fold(0.0, f64::max);
        let step = step(highest);
        let most = (highest / step).ceil().max(1.0) * step;
        let at = |seconds: f64, value: f64| {
            (LEFT + (WIDTH - LEFT - RIGHT) * seconds / lasts, top + (PANEL - 14.0) * (1.0 - value / most))
        };
        text(svg, (LEFT, top - 8.0), "start", self.title);
        if let Some(samples) = load {
            let mut points = vec![at(0.0, 0.0)];
            points.extend(thinned(samples, &|sample| sample.asked).iter().map(|&(x, y)| at(x, y)));
            points.push(at(lasts, 0.0));
            let _infallible = writeln!(svg, "<polygon class=\"load\" points=\"{}\"/>", path(&points));
        }
        for tick in 0..=(most / step).round() as usize {
            let value = tick as f64 * step;
            let (left, right) = (at(0.0, value), at(lasts, value));
            let _infallible = writeln!(
                svg,
                "<line class=\"rule\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
                left.0, left.1, right.0, right.1
            );
            text(svg, (LEFT - 6.0, left.1 + 4.0), "end", &format!("{value}"));
        }
        for (index, run) in runs.iter().enumerate() {
            let points: Vec<_> = thinned(&run.1.samples, &value).iter().map(|&(x, y)| at(x, y)).collect();
            line(svg, index, &points);
        }
    }
}

/// At most [`POINTS`] points, each the highest of its neighbours.
fn thinned(samples: &[Sample], value: &dyn Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    let each = samples.len().div_ceil(POINTS).max(1);
    let highest = |few: &[Sample]| few.iter().map(value).fold(0.0, f64::max);
    samples.chunks(each).map(|few| (few[0].at, highest(few))).collect()
}

/// One, two or five times a power of ten, so that `highest` is two to five of them.
fn step(highest: f64) -> f64 {
    let rough = (highest / 4.0).max(1e-3);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power)
}

fn hours(svg: &mut String, y: f64, curve: Curve) {
    let (every, unit, name) =
        if curve == Curve::Spike { (600.0, 60.0, "minutes") } else { (10_800.0, 3600.0, "hours") };
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - RIGHT) * seconds / curve.lasts();
    for tick in 0..=(curve.lasts() / every) as usize {
        let seconds = tick as f64 * every;
        let anchor = if x(seconds) > WIDTH - 30.0 { "end" } else { "middle" };
        text(svg, (x(seconds), y), anchor, &format!("{}", seconds / unit));
    }
    text(svg, (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, y + 16.0), "middle", name);
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    let _infallible =
        writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>", at.0, at.1);
}

fn line(svg: &mut String, index: usize, points: &[(f64, f64)]) {
    let _infallible = writeln!(svg, "<polyline class=\"s{index}\" points=\"{}\"/>", path(points));
}

fn path(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}
