//! Measures merges of synthetic checkpoints as a ratio to what the machine needs to move the same bytes.

mod child;
mod floor;
mod methods;
mod shape;
mod synthetic;
mod table;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use engine::{KnownDigests, Settings};

use crate::methods::{METHODS, Measured};
use crate::shape::Size;
use crate::table::Row;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Refused(#[from] recipe::Refusal),
    #[error(transparent)]
    Execute(#[from] engine::ExecuteError),
    #[error("no method is called {0:?}")]
    UnknownMethod(String),
    #[error("the merge ended with {0}")]
    Failed(String),
    #[error("the shape has no tensors")]
    NoTensors,
}

impl Error {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}

/// Merges synthetic checkpoints, each run after a run of the floor: every input byte read once and the output's bytes
/// written once, on as many threads.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    size: Size,
    /// Where models are made and merged; models that are there are used again.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// All of them where none is named.
    #[arg(long, value_delimiter = ',')]
    methods: Vec<String>,
    /// How often each is measured.
    #[arg(long, default_value = "5")]
    runs: NonZeroUsize,
    #[arg(long, default_value_t = Settings::default().thread_count())]
    threads: usize,
    /// Digest every input in every merge, as if it were merged for the first time.
    #[arg(long)]
    unknown_inputs: bool,
    /// Bytes that a merge may use.
    #[arg(long, default_value_t = Settings::default().memory)]
    memory: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Merges once and tells what it took, as the other commands start it.
    #[command(hide = true)]
    Merge(child::Merge),
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Merge(merge)) => child::merge(merge),
        None => measure(&arguments),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(), Error> {
    let methods = chosen(&arguments.methods)?;
    let most = methods.iter().map(|method| method.models()).max().unwrap_or(0);
    let models = synthetic::make(&arguments.dir, arguments.size, most)?;
    println!("{}", table::head());
    for method in methods {
        println!("{}", row(arguments, method, &models)?);
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Measured>, Error> {
    if names.is_empty() {
        return Ok(METHODS.iter().collect());
    }
    let find = |name: &String| METHODS.iter().find(|method| method.name == name);
    names.iter().map(|name| find(name).ok_or_else(|| Error::UnknownMethod(name.clone()))).collect()
}

fn row(arguments: &Arguments, method: &'static Measured, models: &[PathBuf]) -> Result<Row, Error> {
    let recipe = arguments.dir.join("recipe.json");
    std::fs::write(&recipe, method.recipe(models).to_string()).map_err(Error::io(&recipe))?;
    let inputs: Vec<PathBuf> = models[..method.models()].iter().map(|model| model.join("model.safetensors")).collect();
    let digests = (!arguments.unknown_inputs).then(|| arguments.dir.join("digests"));
    let settings = Settings {
        threads: arguments.threads,
        memory: arguments.memory,
        known_digests: KnownDigests(digests),
        ..Settings::default()
    };
    let once = || {
        let floor = floor::take(&inputs, arguments.size.bytes(), &arguments.dir, arguments.threads)?;
        let out = arguments.dir.join("out");
        let merged = child::run(&recipe, &out, &settings)?;
        remove(&out)?;
        Ok((floor, merged))
    };
    if !arguments.unknown_inputs {
        // the first merge of all digests the inputs
        once()?;
    }
    let runs = (0..arguments.runs.get()).map(|_| once()).collect::<Result<_, Error>>()?;
    Ok(Row { method, runs })
}

fn remove(dir: &Path) -> Result<(), Error> {
    std::fs::remove_dir_all(dir).map_err(Error::io(dir))
}
