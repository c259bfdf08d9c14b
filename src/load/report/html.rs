//! A report as one page of HTML that needs nothing else: figures, tables, and the plots of `plot`. Light and dark follow
//! the reader's system.

use std::fmt::Write as _;

use super::{
    Found, Latency, Report, Summary,
    charts::{against_throughput, by_percentile, latency_over_time, rate_over_time},
    plot::Plot,
    table::{bytes, figure, headline, rates, rows},
};

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn page(report: &Report) -> String {
    let run = &report.run;
    let (url, version) = (escape(&run.url), report.version);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>Load on {url}</title><style>\n{STYLE}</style></head>\n\
         <body><main><h1>Load on {url}</h1><p>{}</p>",
        escape(&headline(run))
    );
    if let Some(found) = &report.search {
        search(&mut page, found);
    }
    figures(&mut page, run);
    latencies(&mut page, run);
    page.push_str("<div class=\"plots\">");
    figure_of(&mut page, &by_percentile(run));
    figure_of(&mut page, &latency_over_time(run));
    figure_of(&mut page, &rate_over_time(run));
    page.push_str("</div>");
    moments(&mut page, run);
    let _ = writeln!(page, "<footer>convoy {version}</footer></main></body></html>");
    page
}

/// Text that can stand in an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A table that scrolls sideways where the screen is narrow; the first cell of a row is its head.
fn table(page: &mut String, caption: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let _ = write!(page, "<div class=\"wide\"><table><caption>{}</caption><thead><tr>", escape(caption));
    for name in head {
        let _ = write!(page, "<th scope=\"col\">{}</th>", escape(name));
    }
    page.push_str("</tr></thead><tbody>");
    for row in rows {
        let mut cells = row.iter().map(|cell| escape(cell));
        let _ = write!(page, "<tr><th scope=\"row\">{}</th>", cells.next().unwrap_or_default());
        cells.for_each(|cell| {
            let _ = write!(page, "<td>{cell}</td>");
        });
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
}

fn figures(page: &mut String, run: &Summary) {
    let statuses: Vec<_> =
        run.statuses.iter().map(|(status, tally)| format!("{status}: {}", tally.count)).collect();
    let share = 100.0 * run.answered as f64 / run.requests.max(1) as f64;
    let (sent, received) = (bytes(run.body_bytes_sent), bytes(run.body_bytes_received));
    let entries = [
        ("Requests", format!("{} in {:.2} s", run.requests, run.seconds)),
        ("Answered well", format!("{} ({share:.2} %)", run.answered)),
        ("Rate", rates(run)),
        ("Statuses", if statuses.is_empty() { "none".to_owned() } else { statuses.join(", ") }),
        ("Bodies", format!("{sent} sent, {received} received")),
        ("Connections", format!("{} opened, at most {} at once", run.opened, run.connections)),
    ];
    page.push_str("<dl>");
    for (name, value) in entries {
        let _ = write!(page, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    page.push_str("</dl>");
    for complaint in run.complaints() {
        let _ = write!(page, "<p class=\"complaint\">{}</p>", escape(&complaint));
    }
}

fn latencies(page: &mut String, run: &Summary) {
    let head = ["", "count", "mean", "p50", "p90", "p99", "p99.9", "max"];
    let rows = rows(run).into_iter().map(|(name, latency)| {
        let Latency { count, mean, p50, p90, p99, p999, max } = latency;
        let times = [mean, p50, p90, p99, p999, max].into_iter().map(|ms| figure(*ms));
        [name.to_owned(), count.to_string()].into_iter().chain(times).collect()
    });
    table(page, "Latency in milliseconds", &head, rows);
}

fn figure_of(page: &mut String, plot: &Plot) {
    let _ = write!(page, "<figure><figcaption>{}</figcaption>{}</figure>", escape(plot.title), plot.svg());
}

fn search(page: &mut String, found: &Found) {
    let goal = figure(found.goal_p99_ms);
    let verdict = match found.rate {
        Some(rate) => format!("{} requests/s is the highest rate with p99 within {goal} ms.", figure(rate)),
        None => format!("No rate that was tried kept p99 within {goal} ms."),
    };
    let _ = write!(page, "<p class=\"verdict\">{}</p>", escape(&verdict));
    page.push_str("<div class=\"plots\">");
    figure_of(page, &against_throughput(found, verdict));
    let ms = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), figure);
    let rows = found.steps.iter().map(|step| {
        let verdict = step.missed.clone().unwrap_or_else(|| "kept".to_owned());
        vec![figure(step.rate), figure(step.achieved), ms(step.p50_ms), ms(step.p99_ms), verdict]
    });
    let head = ["requests/s", "answered/s", "p50 ms", "p99 ms", "goal"];
    table(page, "Rates in the order they were tried", &head, rows);
    page.push_str("</div>");
}

fn moments(page: &mut String, run: &Summary) {
    page.push_str("<details><summary>The run over time, as a table</summary>");
    let ms = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), figure);
    let rows = run.timeline.iter().map(|moment| {
        let rates = [moment.due_rate, moment.answered_rate, moment.failed_rate].map(figure);
        let times = [moment.p50, moment.p99, moment.max].map(ms);
        [format!("{:.1}", moment.second)].into_iter().chain(rates).chain(times).collect()
    });
    let head = ["second", "due/s", "answered/s", "failed/s", "p50 ms", "p99 ms", "max ms"];
    table(page, "Spans by when they begin", &head, rows);
    page.push_str("</details>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_element() {
        assert_eq!(escape(r#"<a href="x">&'"#), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
    }
}
