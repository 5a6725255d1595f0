//! Stages made one after the other, each removed when no later one needs it.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::{Earlier, PlannedStage, StagedPlan};
use crate::artifact::{MANIFEST, sync_dir};
use crate::execute::{already_there, bytes_total, check_room, execute_after};
use crate::{Artifact, ArtifactFile, ExecuteError, Observer, Progress};

/// Where the stages before the result stand in its directory while they are needed, and those that are kept for good.
const DIR: &str = "stages";

/// Makes every stage; the result in `dir`, the others below it. What an earlier execution left of stages is removed first.
pub fn execute_stages(
    plan: StagedPlan,
    recipe_text: &str,
    dir: &Path,
    observer: &Observer<'_>,
) -> Result<Artifact, ExecuteError> {
    let below = dir.join(DIR);
    let last_uses = plan.last_uses();
    let mut making = Making::new(&plan, recipe_text, dir, observer);
    let disk_bytes = plan.disk_bytes();
    let mut stages = plan.stages;
    let result = stages.pop().expect("there is at least one stage");
    if stages.is_empty() {
        return making.result(result);
    }
    remove(&below)?;
    std::fs::create_dir_all(dir).map_err(ExecuteError::io(dir))?;
    check_room(disk_bytes, already_there(&result.plan, dir), dir)?;
    for (i, stage) in stages.into_iter().enumerate() {
        making.stage(stage)?;
        making.remove_used_up(&last_uses, i)?;
    }
    let last = making.dirs.len();
    let artifact = making.result(result)?;
    making.remove_used_up(&last_uses, last)?;
    settle(&below, dir)?;
    Ok(artifact)
}

impl StagedPlan {
    /// After which stage each is needed no more; `None` for what stays.
    pub(super) fn last_uses(&self) -> Vec<Option<usize>> {
        let last = |i: usize| self.stages.iter().rposition(|s| s.uses.iter().any(|u| u.stage == i));
        self.stages.iter().enumerate().map(|(i, stage)| if stage.kept { None } else { last(i) }).collect()
    }
}

struct Making<'a> {
    recipe_text: &'a str,
    dir: &'a Path,
    cancel: &'a AtomicBool,
    on_progress: &'a (dyn Fn(Progress) + Sync),
    /// Of all stages.
    total: Progress,
    /// Of the stages made.
    done: Progress,
    dirs: Vec<PathBuf>,
    earlier: Earlier,
}

impl<'a> Making<'a> {
    fn new(plan: &StagedPlan, recipe_text: &'a str, dir: &'a Path, observer: &'a Observer<'_>) -> Making<'a> {
        let nothing = Progress { tensors_done: 0, tensors_total: 0, bytes_done: 0, bytes_total: 0 };
        let total = plan.stages.iter().fold(nothing, |total, stage| Progress {
            tensors_total: total.tensors_total + stage.plan.tasks.len() as u64,
            bytes_total: total.bytes_total + bytes_total(&stage.plan, &stage.sources),
            ..total
        });
        Making {
            recipe_text,
            dir,
            cancel: observer.cancel,
            on_progress: observer.on_progress,
            total,
            done: nothing,
            dirs: Vec::new(),
            earlier: Earlier::default(),
        }
    }

    /// A stage before the result, with what is to be told of it there.
    fn stage(&mut self, stage: PlannedStage) -> Result<(), ExecuteError> {
        let name = stage.name.clone().expect("only the result may have no name");
        let (dir, kept) = (self.dir.join(DIR).join(&name), stage.kept);
        let artifact = self.make(stage, &dir, &Earlier::default()).map_err(|error| error.in_stage(&name))?;
        self.earlier.manifests.push(told(&name, kept, &artifact)?);
        if kept {
            self.earlier.files.extend(files(&name, &artifact)?);
        }
        self.dirs.push(dir);
        Ok(())
    }

    fn result(&mut self, stage: PlannedStage) -> Result<Artifact, ExecuteError> {
        let earlier = std::mem::take(&mut self.earlier);
        self.make(stage, self.dir, &earlier)
    }

    fn make(&mut self, mut stage: PlannedStage, dir: &Path, earlier: &Earlier) -> Result<Artifact, ExecuteError> {
        for of in &stage.uses {
            stage.sources.open_stage(&of.model, &self.dirs[of.stage])?;
        }
        let on_progress = |progress| (self.on_progress)(self.of_all(progress));
        let observer = Observer { on_progress: &on_progress, cancel: self.cancel };
        let artifact = execute_after(earlier, &stage.plan, &stage.sources, self.recipe_text, dir, &observer)?;
        self.done.tensors_done += stage.plan.tasks.len() as u64;
        self.done.bytes_done += bytes_total(&stage.plan, &stage.sources);
        Ok(artifact)
    }

    fn of_all(&self, progress: Progress) -> Progress {
        Progress {
            tensors_done: self.done.tensors_done + progress.tensors_done,
            bytes_done: self.done.bytes_done + progress.bytes_done,
            ..self.total
        }
    }

    fn remove_used_up(&self, last_uses: &[Option<usize>], made: usize) -> Result<(), ExecuteError> {
        let used_up = last_uses.iter().zip(&self.dirs).filter(|(last, _)| **last == Some(made));
        used_up.map(|(_, dir)| dir).try_for_each(|dir| remove(dir))
    }
}

/// What the result's manifest says of a stage: its own, but for the files, which may be gone.
fn told(name: &str, kept: bool, artifact: &Artifact) -> Result<Value, ExecuteError> {
    let path = artifact.dir.join(MANIFEST);
    let text = std::fs::read(&path).map_err(ExecuteError::io(&path))?;
    let manifest: Value = serde_json::from_slice(&text).map_err(|e| ExecuteError::io(&path)(e.into()))?;
    let mut told = json!({"name": name, "kept": kept});
    for key in ["plan_digest", "method", "seed", "recipe", "inputs", "tensors", "parameters", "adapter"] {
        if let Some(value) = manifest.get(key) {
            told[key] = value.clone();
        }
    }
    Ok(told)
}

/// The files of a stage that is kept, as files of the result.
fn files(name: &str, artifact: &Artifact) -> Result<Vec<ArtifactFile>, ExecuteError> {
    let path = artifact.dir.join(MANIFEST);
    let bytes = std::fs::metadata(&path).map_err(ExecuteError::io(&path))?.len();
    let manifest = ArtifactFile { path: MANIFEST.to_owned(), bytes, sha256: artifact.manifest_sha256.clone() };
    let all = artifact.files.iter().cloned().chain([manifest]);
    Ok(all.map(|file| ArtifactFile { path: format!("{DIR}/{name}/{}", file.path), ..file }).collect())
}

fn remove(dir: &Path) -> Result<(), ExecuteError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ExecuteError::io(dir)(error)),
        _ => Ok(()),
    }
}

/// Only what is kept is left, and that for good.
fn settle(below: &Path, dir: &Path) -> Result<(), ExecuteError> {
    let mut left = std::fs::read_dir(below).map_err(ExecuteError::io(below))?;
    if left.next().is_some() {
        sync_dir(below)?
    } else {
        remove(below)?
    }
    sync_dir(dir)
}
