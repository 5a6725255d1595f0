//! Stages made one after the other, each removed when no later one needs it.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Earlier, PlannedStage, StagedPlan};
use crate::artifact::{MANIFEST, finished, sync_dir};
use crate::execute::{already_there, bytes_total, check_room, execute_after};
use crate::{Artifact, ArtifactFile, ExecuteError, Observer, Progress};

/// Where the stages before the result stand in its directory while they are needed, and those that are kept for good.
const DIR: &str = "stages";

/// Makes every stage; the result in `dir`, the others below it. What an earlier execution has made is not made again.
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
    if let Some(artifact) = finished(&result.plan, recipe_text, dir)
        && !Told::any_in(&below)
    {
        return Ok(artifact);
    }
    std::fs::create_dir_all(&below).map_err(ExecuteError::io(&below))?;
    let already = making.already_made(&stages, &result);
    check_room(disk_bytes, already_there(&result.plan, dir), dir)?;
    for (i, (stage, already)) in stages.into_iter().zip(already).enumerate() {
        match already {
            Some(told) => making.skip(&stage, told),
            None => making.stage(stage)?,
        }
        making.remove_used_up(&last_uses, i)?;
    }
    let last = making.dirs.len();
    let artifact = making.result(result)?;
    making.remove_used_up(&last_uses, last)?;
    settle(&below, dir)?;
    Ok(artifact)
}

/// What is left of a stage that was made, when it is needed no more: what the result's manifest says of it.
#[derive(Serialize, Deserialize)]
struct Told {
    plan_digest: String,
    manifest: Value,
    /// Of a stage that is kept.
    files: Vec<ArtifactFile>,
}

const TOLD: &str = ".told-";

impl Told {
    fn path(below: &Path, name: &str) -> PathBuf {
        below.join(format!("{TOLD}{name}.json"))
    }

    fn any_in(below: &Path) -> bool {
        let Ok(mut entries) = std::fs::read_dir(below) else { return false };
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(TOLD)))
    }

    fn read(below: &Path, stage: &PlannedStage) -> Option<Told> {
        let text = std::fs::read(Told::path(below, stage.name.as_deref()?)).ok()?;
        let told: Told = serde_json::from_slice(&text).ok()?;
        (told.plan_digest == stage.plan.digest).then_some(told)
    }

    fn write(&self, below: &Path, name: &str) -> Result<(), ExecuteError> {
        let path = Told::path(below, name);
        let text = serde_json::to_vec(self).expect("a JSON value serialises");
        std::fs::write(&path, text).map_err(ExecuteError::io(&path))
    }

    fn remove_all(below: &Path) -> Result<(), ExecuteError> {
        for entry in std::fs::read_dir(below).map_err(ExecuteError::io(below))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TOLD) {
                std::fs::remove_file(entry.path()).map_err(ExecuteError::io(entry.path()))?;
            }
        }
        Ok(())
    }
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

    fn dir_of(&self, stage: &PlannedStage) -> PathBuf {
        self.dir.join(DIR).join(stage.name.as_deref().expect("only the result may have no name"))
    }

    /// Of each stage before the result what was told of it, where it need not be made: it was, and it is there still if
    /// anything that must be made uses it, or if it is kept.
    fn already_made(&self, stages: &[PlannedStage], result: &PlannedStage) -> Vec<Option<Told>> {
        let mut already: Vec<Option<Told>> = Vec::new();
        already.resize_with(stages.len(), || None);
        let uses = |stage: &PlannedStage, i: usize| stage.uses.iter().any(|of| of.stage == i);
        for (i, stage) in stages.iter().enumerate().rev() {
            let later = (i + 1..stages.len()).any(|j| already[j].is_none() && uses(&stages[j], i));
            let is_needed = stage.kept || later || uses(result, i);
            let is_whole = || finished(&stage.plan, self.recipe_text, &self.dir_of(stage)).is_some();
            already[i] = Told::read(&self.dir.join(DIR), stage).filter(|_| !is_needed || is_whole());
        }
        already
    }

    fn skip(&mut self, stage: &PlannedStage, told: Told) {
        self.dirs.push(self.dir_of(stage));
        self.count(stage);
        self.earlier.manifests.push(told.manifest);
        self.earlier.files.extend(told.files);
    }

    fn count(&mut self, stage: &PlannedStage) {
        self.done.tensors_done += stage.plan.tasks.len() as u64;
        self.done.bytes_done += bytes_total(&stage.plan, &stage.sources);
    }

    /// A stage before the result, with what is to be told of it there.
    fn stage(&mut self, stage: PlannedStage) -> Result<(), ExecuteError> {
        let (dir, kept, plan_digest) = (self.dir_of(&stage), stage.kept, stage.plan.digest.clone());
        let name = stage.name.clone().expect("only the result may have no name");
        let artifact = self.make(stage, &dir, &Earlier::default()).map_err(|error| error.in_stage(&name))?;
        let manifest = told(&name, kept, &artifact)?;
        let files = if kept { files(&name, &artifact)? } else { Vec::new() };
        self.earlier.manifests.push(manifest.clone());
        self.earlier.files.extend(files.clone());
        Told { plan_digest, manifest, files }.write(&self.dir.join(DIR), &name)?;
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
        self.count(&stage);
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
    Told::remove_all(below)?;
    let mut left = std::fs::read_dir(below).map_err(ExecuteError::io(below))?;
    if left.next().is_some() {
        sync_dir(below)?
    } else {
        remove(below)?
    }
    sync_dir(dir)
}
