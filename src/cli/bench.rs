//! `convoy bench`: puts load on a server and reports. How load is made and judged is `load`'s business; this file runs it,
//! shows progress and writes the reports.

mod args;

use std::{
    cell::RefCell,
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(super) use args::BenchArgs;

use crate::load::{
    self, Goal, Plan, Progress, Search,
    report::{Report, page, step_line, table},
};

/// Requests per second that a search does not go beyond.
const MOST: f64 = 200_000.0;

/// Runs the load and reports.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let plan = args.plan()?;
    let alone = args.json.as_deref() == Some(Path::new("-"));
    let report = match args.search() {
        Some((goal, start)) => search(&plan, &goal, start, alone)?,
        None => measure(&plan)?,
    };
    if !alone {
        say(table(&report).trim_end())?;
    }
    if let Some(path) = &args.json {
        if alone { say(report.json().trim_end()) } else { write(path, &report.json()) }?;
    }
    if let Some(path) = &args.html {
        write(path, &page(&report))?;
    }
    if report.run.answered == 0 {
        let complaints = report.run.complaints();
        bail!("no request was answered well: {}", complaints.join("; "));
    }
    Ok(())
}

fn measure(plan: &Plan) -> anyhow::Result<Report> {
    let mut display = Display::default();
    let recording = load::run(plan, |progress| display.show(progress));
    display.clear();
    Ok(Report::of_run(plan, &recording?))
}

fn search(plan: &Plan, goal: &Goal, start: f64, alone: bool) -> anyhow::Result<Report> {
    let mut search = Search::new(start, MOST);
    let display = RefCell::new(Display::default());
    let mut told = Ok(());
    let steps = load::find_rate(
        plan,
        goal,
        &mut search,
        |progress| display.borrow_mut().show(progress),
        |step| {
            display.borrow_mut().clear();
            if !alone && told.is_ok() {
                told = say(&step_line(step));
            }
        },
    );
    display.borrow_mut().clear();
    told?;
    if !alone {
        say("")?;
    }
    Report::of_search(plan, goal, &steps?).context("bug: a search tries at least one rate")
}

/// Lines of result. A reader that has gone is no reason to panic.
fn say(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{text}").context("cannot write to standard output")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A line that follows the run on a terminal; nothing elsewhere.
#[derive(Default)]
struct Display {
    bar: Option<ProgressBar>,
}

impl Display {
    fn show(&mut self, progress: &Progress) {
        let bar = self.bar.get_or_insert_with(|| bar(progress));
        bar.set_position(progress.elapsed.as_millis() as u64);
        let p99 = progress.p99_ms.map(|ms| format!(", p99 {ms:.2} ms")).unwrap_or_default();
        let waiting = match progress.waiting {
            0 => String::new(),
            waiting => format!(", {waiting} waiting for a connection"),
        };
        bar.set_message(format!("{} requests, {} failed{p99}{waiting}", progress.requests, progress.failed));
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(progress: &Progress) -> ProgressBar {
    let total = progress.total.map(|total| total.as_millis() as u64);
    let template = match total {
        Some(_) => "{bar:30} {elapsed} {msg}",
        None => "{spinner} {elapsed} {msg}",
    };
    let style = ProgressStyle::with_template(template).expect("bug: the templates are constant and valid");
    ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()).with_style(style)
}
