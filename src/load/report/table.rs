//! A report as text for the terminal, and one line for each step of a search.

use std::fmt::{self, Write as _};

use super::{Latency, Report, Summary};
use crate::load::{Step, Tally};

/// The report as lines of text.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    write(&mut text, report).expect("bug: writing to memory does not fail");
    text
}

fn write(text: &mut String, report: &Report) -> fmt::Result {
    let run = &report.run;
    writeln!(text, "{}\n", headline(run))?;
    let share = 100.0 * run.answered as f64 / run.requests.max(1) as f64;
    writeln!(text, "requests     {} in {:.2} s, {share:.2} % answered well", run.requests, run.seconds)?;
    writeln!(text, "rate         {}", rates(run))?;
    writeln!(text, "statuses     {}", list(run.statuses.iter()))?;
    writeln!(text, "errors       {}", list(run.failures.iter()))?;
    let (sent, received) = (bytes(run.body_bytes_sent), bytes(run.body_bytes_received));
    writeln!(text, "bodies       {sent} sent, {received} received")?;
    writeln!(text, "connections  {} opened, at most {} at once\n", run.opened, run.connections)?;
    writeln!(
        text,
        "{:<16}{:>9}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "milliseconds", "count", "mean", "p50", "p90", "p99", "p99.9", "max"
    )?;
    for (name, latency) in rows(run) {
        let Latency { count, mean, p50, p90, p99, p999, max } = latency;
        write!(text, "{name:<16}{count:>9}")?;
        [mean, p50, p90, p99, p999, max].iter().try_for_each(|ms| write!(text, "{:>10}", figure(**ms)))?;
        writeln!(text)?;
    }
    for complaint in run.complaints() {
        writeln!(text, "\n{complaint}")?;
    }
    if let Some(found) = &report.search {
        let goal = figure(found.goal_p99_ms);
        match found.rate {
            Some(rate) => {
                writeln!(text, "\nhighest rate with p99 within {goal} ms: {} requests/s", figure(rate))
            }
            None => writeln!(text, "\nno rate that was tried kept p99 within {goal} ms"),
        }?;
    }
    Ok(())
}

/// What ran, in a line.
pub(super) fn headline(run: &Summary) -> String {
    let pace = match (run.rate, run.arrivals) {
        (Some(rate), Some(arrivals)) => {
            format!("open loop, {arrivals} arrivals, {} requests/s", figure(rate))
        }
        _ => format!("closed loop, {} connections", run.connections),
    };
    let warm_up = figure(run.warm_up_seconds);
    format!("{} (POST {}): {pace}, after {warm_up} s of warm-up", run.url, run.paths.join(", "))
}

pub(super) fn rates(run: &Summary) -> String {
    let (due, answered) = (figure(run.due_rate), figure(run.answered_rate));
    match run.rate {
        Some(rate) => format!("{} requests/s asked, {due} due, {answered} answered well", figure(rate)),
        None => format!("{answered} requests/s answered well"),
    }
}

/// The kinds of latency that there are, with their names.
pub(super) fn rows(run: &Summary) -> Vec<(&'static str, &Latency)> {
    let rows = [
        ("due to answer", &run.latency_ms),
        ("sent to answer", &run.service_ms),
        ("other statuses", &run.refusals_ms),
    ];
    rows.into_iter().filter_map(|(name, latency)| Some((name, latency.as_ref()?))).collect()
}

fn list<'a, K: fmt::Display + 'a>(tallies: impl Iterator<Item = (&'a K, &'a Tally)>) -> String {
    let parts: Vec<_> = tallies.map(|(what, tally)| format!("{what}: {}", tally.count)).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// A step of a search in a line.
pub fn step_line(step: &Step) -> String {
    let (rate, achieved) = (figure(step.rate), figure(step.achieved));
    let ms = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), figure);
    let verdict = step.missed.as_deref().unwrap_or("kept");
    let (p50, p99) = (ms(step.p50_ms), ms(step.p99_ms));
    format!("{rate:>8} requests/s  answered {achieved:>8}/s  p50 {p50:>8} ms  p99 {p99:>8} ms  {verdict}")
}

/// Three significant digits, or all before the point where there are more.
pub(super) fn figure(value: f64) -> String {
    let places = match value.abs() {
        0.0 => 0,
        size if size < 0.1 => 3,
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.places$}")
}

pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut size = count as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{} {}", figure(size), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(
            [0.0, 0.0312, 0.312, 3.124, 31.24, 312.4, 31240.0].map(figure),
            ["0", "0.031", "0.31", "3.12", "31.2", "312", "31240"]
        );
        assert_eq!([0, 999, 1000, 12_345_678].map(bytes), ["0 B", "999 B", "1.00 kB", "12.3 MB"]);
    }

    #[test]
    fn a_step_says_whether_the_goal_was_kept() {
        let step = Step {
            rate: 100.0,
            achieved: 99.0,
            p50_ms: Some(1.0),
            p99_ms: None,
            failed: 0,
            missed: Some("p99 is above the goal".to_owned()),
        };
        assert!(step_line(&step).ends_with("p99        - ms  p99 is above the goal"));
        assert!(step_line(&Step { missed: None, ..step }).ends_with("kept"));
    }
}
