//! A plan carried out: tensors merged tile by tile into their places, then the files around them.

mod adapter_files;
mod extraction;
mod journal;
mod mixture;
mod model;
mod output;
mod tensor;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use checkpoint::CheckpointError;

pub(crate) use self::journal::Journal;
use self::output::{Done, Output};
use crate::artifact::{self, Artifact};
use crate::backend::cpu::Cpu;
use crate::plan::Product;
use crate::stages::Earlier;
use crate::{Backend, Plan, Sources, TensorTask};

#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error("cancelled")]
    Cancelled,
    #[error(
        "what may be extracted does not differ between the models, so there is no adapter; see the parameters `rank`, `embeddings` and `save`"
    )]
    NothingToExtract,
    #[error("the output needs {needed} bytes and {available} are free; make room or choose another place")]
    DiskFull { needed: u64, available: u64 },
    #[error("tensor {tensor:?} is a buffer that differs between the models; only equal buffers can be carried over")]
    BuffersDiffer { tensor: String },
    #[error("tensor {tensor:?} cannot be merged: {reason}")]
    Unmergeable { tensor: String, reason: String },
    #[error(
        "element {element} of tensor {tensor:?} came out as NaN or infinite in {dtype}, though its inputs are finite; change the parameters or the output dtype, or set `options: {{allow_non_finite: true}}`"
    )]
    NotFinite { tensor: String, element: u64, dtype: String },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("cannot start the threads that merge: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// Of a stage before the result.
    #[error("stage {name:?}: {source}")]
    InStage { name: String, source: Box<ExecuteError> },
}

impl ExecuteError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl Fn(std::io::Error) -> ExecuteError {
        let path = path.into();
        move |source| ExecuteError::Io { path: path.clone(), source }
    }

    /// What went wrong, in whatever stage.
    pub fn root_cause(&self) -> &ExecuteError {
        match self {
            ExecuteError::InStage { source, .. } => source.root_cause(),
            cause => cause,
        }
    }

    /// That it went wrong in this stage; that a merge was cancelled is no matter of one.
    pub(crate) fn in_stage(self, name: &str) -> ExecuteError {
        match self {
            ExecuteError::Cancelled => ExecuteError::Cancelled,
            error => ExecuteError::InStage { name: name.to_owned(), source: Box::new(error) },
        }
    }

    /// Whether trying again later may help: a full disk gets room, a file system comes back.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.root_cause(),
            ExecuteError::DiskFull { .. }
                | ExecuteError::Io { .. }
                | ExecuteError::Checkpoint(CheckpointError::Io { .. })
        )
    }
}

/// How far a merge is. Bytes count what is written and what is digested, so they rise to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub tensors_done: u64,
    pub tensors_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

/// Who watches an execution: told of progress from any thread, often; asked to stop through a flag.
pub struct Observer<'a> {
    pub on_progress: &'a (dyn Fn(Progress) + Sync),
    pub cancel: &'a AtomicBool,
}

pub(crate) struct Execution<'a> {
    pub plan: &'a Plan,
    pub sources: &'a Sources,
    observer: &'a Observer<'a>,
    tensors_done: AtomicU64,
    bytes_done: AtomicU64,
    /// Reads so far.
    reads: AtomicU64,
    bytes_total: u64,
    /// What the artifact tells of stages before it.
    pub earlier: &'a Earlier,
}

impl Execution<'_> {
    /// Tells that the merge goes on, now and then while it reads: a pass over all inputs may write nothing for an hour.
    pub(crate) fn report_reads(&self) {
        if self.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(READS_TOLD) {
            self.report();
        }
    }

    fn report(&self) {
        (self.observer.on_progress)(Progress {
            tensors_done: self.tensors_done.load(Ordering::Relaxed),
            tensors_total: self.plan.tasks.len() as u64,
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            bytes_total: self.bytes_total,
        });
    }

    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
        self.report();
    }

    /// Counts tasks and the bytes that were planned for them.
    fn finished(&self, tasks: &[&TensorTask]) {
        self.tensors_done.fetch_add(tasks.len() as u64, Ordering::Relaxed);
        self.add_bytes(tasks.iter().map(|task| task.bytes()).sum());
    }

    /// Whether somebody asked it to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.observer.cancel.load(Ordering::Relaxed)
    }

    pub(crate) fn stop_if_cancelled(&self) -> Result<(), ExecuteError> {
        if self.is_cancelled() { Err(ExecuteError::Cancelled) } else { Ok(()) }
    }
}

/// Merges into `dir`, which is created. What an earlier execution of the same plan has done there is not done again; another
/// process may be executing it there at the same time.
/// `recipe_text` goes into the artifact as given.
pub fn execute(
    plan: &Plan,
    sources: &Sources,
    recipe_text: &str,
    dir: &Path,
    observer: &Observer<'_>,
) -> Result<Artifact, ExecuteError> {
    execute_after(&Earlier::default(), plan, sources, recipe_text, dir, observer)
}

/// [`execute`] of a stage that others were made before.
pub(crate) fn execute_after(
    earlier: &Earlier,
    plan: &Plan,
    sources: &Sources,
    recipe_text: &str,
    dir: &Path,
    observer: &Observer<'_>,
) -> Result<Artifact, ExecuteError> {
    let cpu = Cpu::new(plan.settings.memory, plan.settings.thread_count(), plan.inputs_max());
    run(&cpu, earlier, plan, sources, recipe_text, dir, observer)
}

/// [`execute`] on a given backend.
pub fn execute_on(
    backend: &dyn Backend,
    plan: &Plan,
    sources: &Sources,
    recipe_text: &str,
    dir: &Path,
    observer: &Observer<'_>,
) -> Result<Artifact, ExecuteError> {
    run(backend, &Earlier::default(), plan, sources, recipe_text, dir, observer)
}

fn run(
    backend: &dyn Backend,
    earlier: &Earlier,
    plan: &Plan,
    sources: &Sources,
    recipe_text: &str,
    dir: &Path,
    observer: &Observer<'_>,
) -> Result<Artifact, ExecuteError> {
    let execution = Execution {
        plan,
        sources,
        observer,
        tensors_done: AtomicU64::new(0),
        bytes_done: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        bytes_total: bytes_total(plan, sources),
        earlier,
    };
    if let Some(artifact) = artifact::finished(plan, recipe_text, dir) {
        execution.tensors_done.store(plan.tasks.len() as u64, Ordering::Relaxed);
        execution.add_bytes(execution.bytes_total);
        // whoever wrote the manifest may have died before it did this
        Journal::remove(dir)?;
        return Ok(artifact);
    }
    std::fs::create_dir_all(dir).map_err(ExecuteError::io(dir))?;
    check_room(plan.disk_bytes(), already_there(plan, dir), dir)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(plan.settings.thread_count())
        .thread_name(|i| format!("merge-{i}"))
        .build()?;
    pool.install(|| match &plan.product {
        Product::Model => merge_model(&execution, backend, recipe_text, dir),
        Product::Mixture(mixture) => mixture::run(&execution, mixture, recipe_text, dir),
        Product::Extraction(extraction) => extraction::run(&execution, extraction, recipe_text, dir),
    })
}

fn merge_model(
    execution: &Execution<'_>,
    backend: &dyn Backend,
    recipe_text: &str,
    dir: &Path,
) -> Result<Artifact, ExecuteError> {
    let (output, journal) = Output::open(execution.plan, dir)?;
    let done: Vec<&TensorTask> =
        execution.plan.tasks.iter().zip(&output.done).filter_map(|(t, d)| d.then_some(t)).collect();
    execution.finished(&done);
    let merge = |done: &Done<'_>| merge_tensors(execution, backend, &output, done);
    let write = || output.write(execution, journal, merge);
    let (written, inputs) = rayon::join(write, || artifact::inputs(execution));
    written?;
    let inputs = inputs?;
    artifact::complete(execution, inputs, output.digests(), recipe_text, dir)
}

/// What progress counts to: bytes written, and bytes digested.
pub(crate) fn bytes_total(plan: &Plan, sources: &Sources) -> u64 {
    plan.tensor_bytes() + artifact::digested_bytes(plan, sources)
}

pub(crate) fn check_room(needed: u64, already: u64, dir: &Path) -> Result<(), ExecuteError> {
    let space = rustix::fs::statvfs(dir).map_err(|errno| ExecuteError::io(dir)(errno.into()))?;
    let available = space.f_bavail * space.f_frsize;
    if available + already < needed { Err(ExecuteError::DiskFull { needed, available }) } else { Ok(()) }
}

/// Bytes on the disk of shards that an earlier execution left, which are written over.
pub(crate) fn already_there(plan: &Plan, dir: &Path) -> u64 {
    let there = plan.shards.iter().filter_map(|s| std::fs::metadata(dir.join(&s.file_name)).ok());
    there.map(|m| m.blocks() * 512).sum()
}

/// One read in so many is told of: some hundred megabytes.
const READS_TOLD: u64 = 1 << 10;

/// Bytes of an input that are asked for ahead.
const READ_AHEAD_BYTES: u64 = 64 << 20;

/// Tensors in the order of their places. Each is itself split over threads, and only the innermost work holds buffers, so
/// that there are never more of them than threads.
fn merge_tensors(
    execution: &Execution<'_>,
    backend: &dyn Backend,
    output: &Output,
    done: &Done<'_>,
) -> Result<(), ExecuteError> {
    let over_model = model::statistics(execution, backend)?;
    let to_do = output.to_do();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let will_read = |at: usize| {
        let inputs = to_do.get(at).map_or(&[][..], |index| &execution.plan.tasks[*index].inputs);
        for input in inputs {
            execution.sources.list[input.source].checkpoint.will_read(&input.place, READ_AHEAD_BYTES);
        }
    };
    let merge = |index: usize| {
        let task = &execution.plan.tasks[index];
        let over_model = over_model.as_ref().and_then(|o| o.of(&task.name));
        tensor::merge(execution, backend, task, output.file(task.shard), over_model)?;
        execution.tensors_done.fetch_add(1, Ordering::Relaxed);
        execution.report();
        done.tell(index)
    };
    let failure = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    // a parallel iterator would give each thread a range of its own, and the digests would wait for the last
    let threads = rayon::current_num_threads();
    (0..threads).for_each(will_read);
    rayon::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|_| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(index) = to_do.get(at) else { return };
                    // what this thread will probably come to after it
                    will_read(at + threads);
                    if let Err(error) = merge(*index) {
                        next.store(to_do.len(), Ordering::Relaxed);
                        failure().get_or_insert(error);
                    }
                }
            });
        }
    });
    failure().take().map_or(Ok(()), Err)
}
