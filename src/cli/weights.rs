//! `convoy weights`: lists, fetches, converts, checks and makes classifier weights. What the steps are is `weights`'
//! business; this file prints.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::FetchArgs;
use crate::vision::{Arch, random::Recipe};
use crate::weights::{
    convert::{Conversion, Float, convert},
    download::{self, HttpClient},
    fetch::{Event, Fetcher},
    hub::Hub,
    inspect,
    manifest::{Encoder, Manifest, Model},
};

/// Subcommands of `convoy weights`.
#[derive(Debug, Subcommand)]
pub(super) enum WeightsCommand {
    /// Show the models that can be fetched by name.
    List,
    /// Fetch a model by name, check it, and put it into the weights folder.
    Fetch {
        /// A name that `list` shows.
        name: String,
        #[command(flatten)]
        args: FetchArgs,
    },
    /// Turn a checkpoint (.pth in either layout, or .safetensors) into checked safetensors.
    Convert {
        /// The checkpoint.
        input: PathBuf,
        /// Where to write it.
        #[arg(value_parser = super::output)]
        output: PathBuf,
        /// How numbers are stored.
        #[arg(long, value_enum, default_value = "f32")]
        dtype: Float,
        /// Architecture it must have; found from the file when not given.
        #[arg(long)]
        arch: Option<Arch>,
    },
    /// Check that a file is a complete network, and print its digest and what it holds.
    Verify {
        /// A safetensors or .pth file.
        file: PathBuf,
        /// Architecture it must have; found from the file when not given.
        #[arg(long)]
        arch: Option<Arch>,
    },
    /// Write a checkpoint of seeded random weights: a network of the real size whose labels mean nothing.
    Random {
        /// resnet18, resnet34, resnet50, resnet101, resnet152 or efficientnet-lite0.
        arch: Arch,
        /// Where to write it.
        #[arg(long, value_name = "FILE", value_parser = super::output)]
        out: PathBuf,
        /// Number of classes.
        #[arg(long, default_value_t = 1000)]
        classes: usize,
        /// The same seed makes the same file.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

/// Runs one of them.
pub(super) fn run(command: WeightsCommand) -> anyhow::Result<()> {
    match command {
        WeightsCommand::List => list(&Manifest::embedded()),
        WeightsCommand::Fetch { name, args } => match Manifest::embedded().encoder(&name) {
            Some(encoder) => fetch_encoder(encoder, &args),
            None => fetch(Manifest::embedded().get(&name)?, &args),
        },
        WeightsCommand::Convert { input, output, dtype, arch } => {
            let info = convert(&input, &output, Conversion { float: dtype, arch })?;
            say(format_args!("{}: {}, {} classes", output.display(), info.arch, info.classes))
        }
        WeightsCommand::Verify { file, arch } => verify(&file, arch),
        WeightsCommand::Random { arch, out, classes, seed } => {
            let recipe = Recipe { classes, seed, ..Recipe::new(arch) };
            recipe.write(&out).with_context(|| format!("cannot write {}", out.display()))?;
            say(format_args!(
                "{}: {arch} with random weights (seed {seed}); its labels mean nothing",
                out.display()
            ))
        }
    }
}

/// One line of result. A reader that has gone is no reason to panic.
fn say(line: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{line}").context("cannot write to standard output")
}

fn list(manifest: &Manifest) -> anyhow::Result<()> {
    let row = |name: &str, licence: &str, transform: &str, about: &str| {
        say(format_args!("{name:<20}{licence:<14}{transform:<26}{about}"))
    };
    row("NAME", "LICENCE", "TRANSFORM", "MODEL")?;
    for model in &manifest.models {
        row(&model.name, &model.licence, &model.transform_text(), &model.about)?;
        for origin in &model.origins {
            let bytes = origin.bytes.map(|bytes| format!(", {bytes} bytes")).unwrap_or_default();
            let sha256 =
                origin.sha256.as_ref().map(|sha256| format!(", sha256 {sha256:.8}")).unwrap_or_default();
            say(format_args!("    {}{bytes}{sha256}", origin.place))?;
        }
    }
    for encoder in &manifest.encoders {
        row(&encoder.name, &encoder.licence, "sentence embeddings", &encoder.about)?;
        let bytes: u64 = encoder.files.iter().map(|file| file.bytes).sum();
        say(format_args!("    PyPI {} or hub {}, {bytes} bytes", encoder.pypi, encoder.hub))?;
    }
    Ok(())
}

fn fetcher(args: &FetchArgs) -> anyhow::Result<Fetcher> {
    Ok(Fetcher {
        hub: Hub::new(args.endpoint(), args.token.clone(), args.hf_home()),
        client: HttpClient::new(args.limits(), args.ca_file())?,
        folder: args.dir.clone(),
        python: args.python.clone(),
        force: args.force,
    })
}

fn fetch_encoder(encoder: &Encoder, args: &FetchArgs) -> anyhow::Result<()> {
    let fetcher = fetcher(args)?;
    let mut display = Display::default();
    let fetched = fetcher.fetch_encoder(encoder, &mut |event| display.show(&event));
    display.clear();
    let fetched = fetched?;
    let (path, files) = (fetched.path.display(), encoder.files.len());
    say(format_args!("{path}: {files} files, {} of them fetched, every digest right", fetched.fetched))
}

fn fetch(model: &Model, args: &FetchArgs) -> anyhow::Result<()> {
    let fetcher = fetcher(args)?;
    let mut display = Display::default();
    let fetched = fetcher.fetch(model, &mut |event| display.show(&event));
    display.clear();
    let fetched = fetched?;
    display.failures.iter().for_each(|failure| tracing::warn!("not from the first origin: {failure}"));
    let (path, info) = (fetched.path.display(), fetched.info);
    match fetched.source {
        None => say(format_args!("{path}: {}, {} classes, was there already", info.arch, info.classes)),
        Some((place, sha)) => {
            say(format_args!("{path}: {}, {} classes, from {place} (sha256 {sha})", info.arch, info.classes))
        }
    }
}

fn verify(file: &Path, arch: Option<Arch>) -> anyhow::Result<()> {
    let digest = inspect::digest(file)?;
    say(format_args!("sha256   {digest}"))?;
    if let Some((model, origin)) = Manifest::embedded().by_digest(digest) {
        say(format_args!("known as {} from {}", model.name, origin.place))?;
    }
    let content = inspect::content(file, arch)?;
    say(format_args!("network  {}, {} classes", content.arch, content.classes))?;
    let dtypes = content.dtypes.join(" ");
    say(format_args!("tensors  {}, {} numbers, {dtypes}", content.tensors, content.elements))?;
    if let Some(source) = &content.source {
        say(format_args!("made of  {source}"))?;
    }
    say(format_args!("random   {}", if content.random { "yes: its labels mean nothing" } else { "no" }))
}

/// The progress of a fetch on the terminal; where standard error is none, only its steps.
#[derive(Default)]
struct Display {
    bar: Option<ProgressBar>,
    /// Origins that failed: worth a word when another one succeeds, and part of the error when none does.
    failures: Vec<String>,
}

impl Display {
    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Transfer(download::Event::Progress { received, total }) => {
                self.progress(*received, *total)
            }
            other => {
                self.clear();
                log(other);
            }
        }
    }

    /// The bar starts where an earlier run ended, so that its rate is of what comes now.
    fn progress(&mut self, received: u64, total: Option<u64>) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar =
                ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()).with_position(received);
            bar.reset_eta();
            bar.with_style(style(total.is_some()))
        });
        bar.set_position(received);
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style(bounded: bool) -> ProgressStyle {
    let template = match bounded {
        true => "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        false => "{spinner} {bytes}, {bytes_per_sec}",
    };
    ProgressStyle::with_template(template).expect("bug: the templates are constant and valid")
}

fn log(event: &Event<'_>) {
    match event {
        Event::Trying(place) => tracing::info!("fetching from {place}"),
        Event::Waiting(path) => {
            tracing::info!("another process is writing {}: waiting for it", path.display())
        }
        Event::Cached(path) => tracing::info!("found in the hub's cache: {}", path.display()),
        Event::Checking => tracing::info!("checking every tensor"),
        Event::Transfer(download::Event::Retrying { error, delay }) => {
            tracing::warn!("{}; trying again in {delay:.1?}", chain(error));
        }
        Event::Transfer(download::Event::Restarting) => {
            tracing::warn!("the part that was there is of no use: from the start");
        }
        Event::Failed(_) | Event::Transfer(download::Event::Progress { .. }) => {}
    }
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
