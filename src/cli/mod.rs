//! The command line: one file a subcommand. Standard output is for results, standard error for logs.

mod bench;
mod classify;
mod faq;
mod help;
mod keys;
mod log;
mod plan;
mod ready;
mod serve;
mod times;
mod weights;

use std::{fs, io::stderr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::config::{ConfigError, LogArgs};
use log::{Log, Reader};

/// Exit code of a command line or configuration that cannot be used (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// What `--help` ends with.
const AFTER_HELP: &str = "\
Examples:
  convoy serve                            photos and questions on port 8080
  convoy classify cat.jpg dog.jpg         classes of photos, without a server
  convoy faq ask 'how to copy an array?'  the best matches of a question
  convoy weights fetch resnet50           get a model's weights, verified
  convoy keys new web --file keys.toml    make a key that callers must give, for serve --keys keys.toml
  convoy ready --wait 1m                  wait until that server wants traffic
  convoy bench URL --photo cat.jpg        how much a server bears

Exit codes:
  0   it did what was asked
  1   something went wrong; the last line on standard error says what
  64  arguments or configuration cannot be used; every problem is named";

/// Scores photos and questions in real time.
#[derive(Debug, Parser)]
#[command(name = "convoy", version, max_term_width = 110, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve photos and questions over HTTP.
    Serve(Box<crate::config::ServeArgs>),
    /// Tell what photos show, without a server.
    Classify(Box<classify::ClassifyArgs>),
    /// Train, judge and ask a FAQ model.
    #[command(subcommand)]
    Faq(faq::FaqCommand),
    /// Make and check classifier weights.
    #[command(subcommand)]
    Weights(weights::WeightsCommand),
    /// Make and check the keys that callers of a server must give.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Ask a server whether it wants traffic.
    Ready(ready::ReadyArgs),
    /// Put load on a server and report rates and latencies.
    Bench(Box<bench::BenchArgs>),
    /// Show the steps of a network's forward pass on this machine's CPU.
    Plan(plan::PlanArgs),
    /// Print a completion script for a shell.
    Completions(help::CompletionsArgs),
    /// Print the manual page, or write all of them.
    Man(help::ManArgs),
}

/// Runs the command line: 0 when it did what was asked, 64 when the arguments or the configuration cannot be used, 1
/// when something else went wrong.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _closed_terminal = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // Nobody may wait for the reader of a server's log; whoever runs another command reads along.
    let reader = match &cli.command {
        Command::Serve(_) => Reader::Collector,
        _ => Reader::Caller,
    };
    let log = match Log::start(&cli.log, reader) {
        Ok(log) => log,
        Err(error) => {
            log::say(&error, stderr());
            return code(&error);
        }
    };
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(*args, &log),
        Command::Classify(args) => classify::run(*args),
        Command::Faq(command) => faq::run(command),
        Command::Weights(command) => weights::run(command),
        Command::Keys(command) => keys::run(command),
        Command::Ready(args) => ready::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Completions(args) => help::completions(&args),
        Command::Man(args) => help::man(&args),
    };
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let code = code(&error);
    log.end_with(&error);
    code
}

fn code(error: &anyhow::Error) -> ExitCode {
    if error.is::<ConfigError>() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
}

/// The path of a file to write: one that is there must be a file, because what is written takes its place.
fn output(text: &str) -> Result<PathBuf, String> {
    match fs::metadata(text) {
        Ok(there) if !there.is_file() => Err("it is there and no regular file".to_owned()),
        _ => Ok(text.into()),
    }
}
