//! The flags of `convoy bench`, and the plan that they and the files they name come down to.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

use super::super::times::{time, time_or_none};
use crate::{
    config::ConfigError,
    load::{Arrivals, Goal, Pace, Payload, Plan, Target},
    server::terms::DEADLINE,
};

/// Connections of a closed loop, and the most of an open one, where none are given.
const CLOSED_CONNECTIONS: usize = 16;
const OPEN_CONNECTIONS: usize = 512;

/// How long a run is, and a step of a search, where nothing is said.
const RUN: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_secs(5);

/// Requests per second that a search begins with.
const FIRST_RATE: f64 = 20.0;

const EXAMPLES: &str = "Examples:
  convoy bench http://localhost:8080/faq                               16 connections, as fast as answers come
  convoy bench http://localhost:8080/classify --rate 20                20 photos a second, whatever the answers do
  convoy bench http://localhost:8080/faq --questions asked.txt --rate 2000 --arrivals poisson --html load.html
  convoy bench http://localhost:8080 --photo a.jpg b.jpg --question 'how do i sort' --duration 1m
  convoy bench http://localhost:8080/classify --find-rate --p99-ms 200
  convoy bench http://localhost:8080/score --body score.json --content-type application/json --json -

Latency counts from the moment a request was due (--rate) or a connection was free for it (closed loop) to its whole
answer. With --rate that includes waiting here for a free connection, so that a stall of the server shows.
Exit codes: 0 done, 1 the run could not be done or nothing was answered well, 64 the command line cannot be used.";

/// Flags of `convoy bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// What to put under load: http://HOST:PORT/faq, /classify, or any path with --body.
    url: Target,

    /// Photos to send in turn. A server may let identical photos in flight share one execution: give many. Without any
    /// payload, /classify gets 256 drawn ones.
    #[arg(long = "photo", value_name = "FILE", num_args = 1.., help_heading = "What is sent")]
    photos: Vec<PathBuf>,
    /// A question to send as JSON; may be given several times. Without any payload, /faq gets a few.
    #[arg(long = "question", value_name = "TEXT", help_heading = "What is sent")]
    question: Vec<String>,
    /// A file of questions, one a line.
    #[arg(long, value_name = "FILE", help_heading = "What is sent")]
    questions: Option<PathBuf>,
    /// Any body, to the URL's own path.
    #[arg(long, value_name = "FILE", requires = "content_type", help_heading = "What is sent")]
    #[arg(conflicts_with_all = ["photos", "question", "questions"])]
    body: Option<PathBuf>,
    /// What --body is.
    #[arg(long, value_name = "TYPE", requires = "body", help_heading = "What is sent")]
    content_type: Option<HeaderValue>,
    /// A header of every request; may be given several times.
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = header, help_heading = "What is sent")]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Milliseconds that the server is told an answer is worth something.
    #[arg(long, value_name = "MS", help_heading = "What is sent")]
    deadline_ms: Option<u32>,

    /// Requests per second, due at their own times (open loop). Without it, every connection sends its next request when
    /// it has its answer (closed loop). With --find-rate, where the search begins.
    #[arg(long, value_name = "R", value_parser = positive, help_heading = "How much")]
    rate: Option<f64>,
    /// How due times are spaced.
    #[arg(long, value_enum, default_value = "constant", help_heading = "How much")]
    arrivals: Arrivals,
    /// Of random arrivals: the same seed makes the same due times.
    #[arg(long, default_value_t = 0, help_heading = "How much")]
    seed: u64,
    /// Connections that stay open; with --rate the most that are opened. 16, with --rate 512.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = "How much")]
    connections: Option<u16>,
    /// How long requests count, like 30, 30s, 500ms or 2m. 10s; with --find-rate 5s a step; without end if --requests is
    /// given.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "How much")]
    duration: Option<Duration>,
    /// Time before that, under the same load, that does not count.
    #[arg(long, value_name = "TIME", value_parser = time_or_none, default_value = "1s", help_heading = "How much")]
    warm_up: Duration,
    /// Requests after which a run ends.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "How much")]
    requests: Option<u64>,
    /// For one request, connecting included; longer is a failure.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30s", help_heading = "How much")]
    timeout: Duration,

    /// Search the highest rate whose 99th percentile stays within --p99-ms, every request answered well.
    #[arg(long, requires = "p99_ms", conflicts_with = "requests", help_heading = "Search")]
    find_rate: bool,
    /// The goal, in milliseconds.
    #[arg(long, value_name = "MS", value_parser = positive, requires = "find_rate", help_heading = "Search")]
    p99_ms: Option<f64>,

    /// Where to write the report as JSON; - is standard output, and nothing else then goes there.
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    pub(super) json: Option<PathBuf>,
    /// Where to write the report as a page with plots.
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    pub(super) html: Option<PathBuf>,
}

impl BenchArgs {
    /// What to search: the goal, and the rate to begin with.
    pub(super) fn search(&self) -> Option<(Goal, f64)> {
        let p99 = Duration::from_secs_f64(self.p99_ms? / 1e3);
        Some((Goal { p99 }, self.rate.unwrap_or(FIRST_RATE)))
    }

    /// Reads the files and puts the plan together.
    ///
    /// # Errors
    /// Every problem found, not only the first.
    pub(super) fn plan(&self) -> Result<Plan, ConfigError> {
        let open = self.find_rate || self.rate.is_some();
        let default = if self.find_rate { STEP } else { RUN };
        let pace = match self.rate.unwrap_or(FIRST_RATE) {
            rate if open => Pace::Open { rate, arrivals: self.arrivals, seed: self.seed },
            _ => Pace::Closed,
        };
        Ok(Plan {
            target: self.url.clone(),
            payloads: self.payloads()?,
            pace,
            connections: self
                .connections
                .map_or(if open { OPEN_CONNECTIONS } else { CLOSED_CONNECTIONS }, usize::from),
            warm_up: self.warm_up,
            duration: self.duration.or((self.requests.is_none()).then_some(default)),
            requests: self.requests,
            timeout: self.timeout,
        })
    }

    fn payloads(&self) -> Result<Vec<Payload>, ConfigError> {
        let (target, mut problems) = (&self.url, Vec::new());
        let mut payloads = self.given(&mut problems);
        if payloads.is_empty() && problems.is_empty() {
            match target.path() {
                "/" | "/classify" => payloads = Payload::drawn_photos(target),
                "/faq" => payloads = Payload::ready_questions(target),
                path => problems.push(format!(
                    "nothing to send to {path}: give --photo FILE, --question TEXT, or --body FILE --content-type TYPE"
                )),
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        let mut headers: HeaderMap = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if let Some(ms) = self.deadline_ms {
            headers.insert(DEADLINE, ms.into());
        }
        Ok(payloads.into_iter().map(|payload| payload.with_headers(&headers)).collect())
    }

    /// What the flags name.
    fn given(&self, problems: &mut Vec<String>) -> Vec<Payload> {
        let target = &self.url;
        let asks = !self.question.is_empty() || self.questions.is_some();
        if asks && !self.photos.is_empty() && target.path() != "/" {
            problems.push(format!(
                "photos and questions cannot both go to {}: leave the path out of the URL",
                target.path()
            ));
        }
        let mut payloads = Vec::new();
        for path in &self.photos {
            payloads.extend(read("--photo", path, problems).map(|bytes| Payload::photo(target, bytes)));
        }
        payloads.extend(self.question.iter().map(|text| Payload::question(target, text)));
        if let Some(path) = &self.questions {
            let lines = read("--questions", path, problems).map(|bytes| lines(&bytes));
            if lines.as_ref().is_some_and(Vec::is_empty) {
                problems.push(format!("--questions {}: no line in it", path.display()));
            }
            payloads.extend(lines.iter().flatten().map(|text| Payload::question(target, text)));
        }
        if let (Some(path), Some(content_type)) = (&self.body, &self.content_type) {
            let bytes = read("--body", path, problems);
            payloads.extend(bytes.map(|bytes| Payload::body(target, content_type.clone(), bytes)));
        }
        payloads
    }
}

fn read(flag: &str, path: &Path, problems: &mut Vec<String>) -> Option<Vec<u8>> {
    fs::read(path).map_err(|error| problems.push(format!("{flag} {}: {error}", path.display()))).ok()
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is written NAME:VALUE")?;
    let name = name.trim().parse().map_err(|error| format!("{name}: {error}"))?;
    let value = value.trim().parse().map_err(|error| format!("{value}: {error}"))?;
    Ok((name, value))
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "a number above 0 is wanted")?;
    if (1e-3..=1e7).contains(&number) {
        Ok(number)
    } else {
        Err("it must lie between 0.001 and 1e7".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parse(arguments: &[&str]) -> BenchArgs {
        let line = ["bench", "http://convoy"].iter().chain(arguments);
        Line::try_parse_from(line).map(|line| line.args).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_run_lasts_ten_seconds_unless_something_else_ends_it() {
        let duration = |arguments: &[&str]| parse(arguments).plan().unwrap().duration;
        assert_eq!(duration(&[]), Some(RUN));
        assert_eq!(duration(&["--requests", "9"]), None);
        assert_eq!(duration(&["--requests", "9", "--duration", "3s"]), Some(Duration::from_secs(3)));
        assert_eq!(duration(&["--find-rate", "--p99-ms", "9"]), Some(STEP));
    }

    #[test]
    fn a_rate_makes_the_loop_open() {
        let plan = parse(&["--rate", "5", "--arrivals", "poisson", "--seed", "3"]).plan().unwrap();
        assert_eq!(plan.pace, Pace::Open { rate: 5.0, arrivals: Arrivals::Poisson, seed: 3 });
        assert_eq!(plan.connections, OPEN_CONNECTIONS);
        let plan = parse(&["--connections", "2"]).plan().unwrap();
        assert_eq!((plan.pace, plan.connections), (Pace::Closed, 2));
    }

    #[test]
    fn every_file_that_cannot_be_read_is_named() {
        let arguments = ["--photo", "/nowhere/a", "/nowhere/b", "--questions", "/nowhere/c"];
        let problems = parse(&arguments).plan().unwrap_err().problems;
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn photos_and_questions_mix_where_the_url_has_no_path() {
        let folder = tempfile::tempdir().unwrap();
        let (photo, asked) = (folder.path().join("p"), folder.path().join("q"));
        fs::write(&photo, "photo").unwrap();
        fs::write(&asked, "one\n\n  two \n").unwrap();
        let (photo, asked) = (photo.to_str().unwrap(), asked.to_str().unwrap());
        let args = parse(&["--photo", photo, "--questions", asked, "--question", "three"]);
        let paths: Vec<_> = args.plan().unwrap().payloads.iter().map(|p| p.path().to_owned()).collect();
        assert_eq!(paths, ["/classify", "/faq", "/faq", "/faq"]);
    }
}
