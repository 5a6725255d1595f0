//! One merge in a process of its own, so that its memory and its time are its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use checkpoint::Access;
use engine::{KnownDigests, Observer, Settings};
use serde::{Deserialize, Serialize};

use crate::Error;

/// How often the memory is looked at.
const SAMPLE: Duration = Duration::from_millis(2);

/// Ticks of a second in `/proc/self/stat`: the kernel's interface has this many whatever its own are.
const TICKS: f64 = 100.0;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Merged {
    /// From the start of the process to its end.
    #[serde(skip)]
    pub wall: f64,
    /// Of both user and system, over all threads.
    pub cpu: f64,
    pub peak_anonymous: u64,
    pub peak_resident: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Merge {
    recipe: PathBuf,
    out: PathBuf,
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    memory: u64,
    /// Where digests of inputs are kept.
    #[arg(long)]
    digests: Option<PathBuf>,
}

/// Starts this program again to merge, and waits.
pub fn run(recipe: &Path, out: &Path, settings: &Settings) -> Result<Merged, Error> {
    let program = std::env::current_exe().map_err(Error::io("the program"))?;
    let started = Instant::now();
    let digests = settings.known_digests.0.iter().flat_map(|dir| ["--digests".into(), dir.clone().into_os_string()]);
    let child = Command::new(program)
        .arg("merge")
        .args([recipe, out])
        .args(["--threads", &settings.threads.to_string(), "--memory", &settings.memory.to_string()])
        .args(digests)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Error::io("the program"))?;
    let wall = started.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&child.stdout);
    let merged: Merged = serde_json::from_str(&text).map_err(|_| Error::Failed(child.status.to_string()))?;
    Ok(Merged { wall, ..merged })
}

/// The other end: merges and prints what it took.
pub fn merge(arguments: &Merge) -> Result<(), Error> {
    let text = std::fs::read_to_string(&arguments.recipe).map_err(Error::io(&arguments.recipe))?;
    let recipe = recipe::Recipe::parse(&text, false)?;
    let settings = Settings {
        threads: arguments.threads,
        memory: arguments.memory,
        known_digests: KnownDigests(arguments.digests.clone()),
        ..Settings::default()
    };
    let done = AtomicBool::new(false);
    let peak = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(status("RssAnon:"), Ordering::Relaxed);
                std::thread::sleep(SAMPLE);
            }
        });
        let merged = merge_files(&recipe, &text, &settings, &arguments.out);
        done.store(true, Ordering::Relaxed);
        let (bytes_in, bytes_out) = merged?;
        let merged = Merged {
            wall: 0.0,
            cpu: cpu_seconds(),
            peak_anonymous: peak.load(Ordering::Relaxed),
            peak_resident: status("VmHWM:"),
            bytes_in,
            bytes_out,
        };
        println!("{}", serde_json::to_string(&merged).expect("numbers serialise"));
        Ok(())
    })
}

fn merge_files(recipe: &recipe::Recipe, text: &str, settings: &Settings, out: &Path) -> Result<(u64, u64), Error> {
    let (plan, sources) = engine::open_and_plan(recipe, &Access::Anywhere, settings)?;
    let (ignore, cancel) = (|_| (), AtomicBool::new(false));
    let artifact = engine::execute(&plan, &sources, text, out, &Observer { on_progress: &ignore, cancel: &cancel })?;
    let bytes_in = sources.iter().flat_map(|source| &source.checkpoint.files).map(|file| file.bytes).sum();
    Ok((bytes_in, artifact.files.iter().map(|file| file.bytes).sum()))
}

/// Bytes of a line of `/proc/self/status`.
fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // the name of the program may have spaces; what follows it has none
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS
}
