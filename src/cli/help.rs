//! What helps at the command line: completions for shells, pages for `man`. Both are made from the same definitions as
//! `--help`.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// Flags of `convoy completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell that is to complete.
    shell: Shell,
}

/// Flags of `convoy man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write one page for each subcommand into this folder, instead of the first page to standard output.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Prints a completion script.
pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "convoy", &mut script);
    print(&script)
}

/// Prints the first manual page, or writes all of them.
pub(super) fn man(args: &ManArgs) -> anyhow::Result<()> {
    let command = Cli::command();
    match &args.out {
        Some(folder) => clap_mangen::generate_to(command, folder)
            .with_context(|| format!("cannot write manual pages into {}", folder.display())),
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            print(&page)
        }
    }
}

fn print(text: &[u8]) -> anyhow::Result<()> {
    io::stdout().lock().write_all(text).context("cannot write to standard output")
}
