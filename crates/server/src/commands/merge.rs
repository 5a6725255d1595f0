//! `amalgam merge`: plan and execute here, without a server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use engine::{ExecuteError, Observer, Progress};
use recipe::Variant;
use serde_json::json;
use transfer::{Publication, Target};

use crate::bar::Bar;
use crate::cli::MergeCommand;
use crate::config::cached_digests;
use crate::report::{Failure, warn};
use crate::size::Bytes;

pub async fn run(args: MergeCommand) -> Result<(), Failure> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = cancel.clone();
    let mut merge = tokio::task::spawn_blocking(move || merge(&args, &flag));
    tokio::select! {
        result = &mut merge => return result.unwrap_or_else(|panic| Err(Failure::failed(panic))),
        () = super::asked_to_stop() => cancel.store(true, Ordering::Relaxed),
    }
    merge.await.unwrap_or_else(|panic| Err(Failure::failed(panic)))
}

fn merge(args: &MergeCommand, cancel: &AtomicBool) -> Result<(), Failure> {
    let started = Instant::now();
    let text = super::read_recipe(&args.recipe)?;
    let merge = the_one(args, super::merges(&args.recipe, &text, &args.reading)?)?;
    let planned = super::plan::plan(&merge, args.reading.lenient, &args.merge.settings(cached_digests()));
    let refused = |refusal| Failure::recipe(&args.recipe, &refusal, args.reading.json);
    let plan = planned.map_err(refused)?;
    let text = merge.text().map_err(refused)?;
    warn(&args.recipe, &plan.warnings);
    let target = Target::Folder(args.out.clone());
    if let Some(publication) = transfer::find_published(&target, plan.digest()) {
        return tell(args, &publication, started, "is there already, whole");
    }
    check_way(&args.out)?;
    let work = work_dir(&args.out, plan.digest())?;
    let bar = Bar::new();
    let on_progress = |p: Progress| bar.set("merging", p.bytes_done, p.bytes_total);
    let merged = engine::execute_stages(plan, &text, &work, &Observer { on_progress: &on_progress, cancel });
    bar.clear();
    let artifact = merged.map_err(|error| {
        if matches!(error, ExecuteError::Cancelled) || error.is_transient() {
            return Failure::failed(format!(
                "{error}; what is done stays in {}, and the same command goes on from there",
                work.display()
            ));
        }
        // half of a merge that cannot be made is of no use; a failure to remove it changes nothing about the first
        let _ = std::fs::remove_dir_all(&work);
        Failure::failed(error)
    })?;
    make_way(&args.out);
    // beside the output, as the work is, nothing is copied
    let goes_on = |_| !cancel.load(Ordering::Relaxed);
    let publication = transfer::prepare(artifact, &target, "merge", &goes_on)
        .and_then(transfer::Prepared::publish)
        .map_err(|error| Failure::failed(format!("{error}; the merged model stays in {}", work.display())))?;
    tell(args, &publication, started, "written")
}

fn the_one(args: &MergeCommand, merges: Vec<Variant>) -> Result<Variant, Failure> {
    match <[Variant; 1]>::try_from(merges) {
        Ok([only]) => Ok(only),
        Err(many) => Err(Failure::refused(format!(
            "{} makes {} merges: {}; choose one with --variant NAME, or submit all to a server",
            args.recipe.display(),
            many.len(),
            super::names(&many)
        ))),
    }
}

/// The place must be free, or an empty directory; anything else is somebody's.
pub fn check_way(out: &Path) -> Result<(), Failure> {
    if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| Failure::refused(format!("{}: {e}", parent.display())))?;
    }
    let is_empty = || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if out.exists() && !is_empty() {
        let detail = format!("{} exists and is not empty; choose another directory", out.display());
        return Err(Failure::refused(detail));
    }
    Ok(())
}

/// An empty directory makes way when the artifact is ready; if it is not empty any more, publishing says so.
fn make_way(out: &Path) {
    let _ = std::fs::remove_dir(out);
}

/// Beside the output, so that publishing is one rename.
fn work_dir(out: &Path, digest: &str) -> Result<PathBuf, Failure> {
    let out = std::path::absolute(out).map_err(Failure::refused)?;
    let name =
        out.file_name().ok_or_else(|| Failure::refused(format!("{} names no directory to make", out.display())))?;
    Ok(out.with_file_name(format!(".{}.merging-{}", name.to_string_lossy(), &digest[..16])))
}

fn tell(args: &MergeCommand, publication: &Publication, started: Instant, how: &str) -> Result<(), Failure> {
    let seconds = started.elapsed().as_secs_f64();
    if args.reading.json {
        println!("{}", json!({"output": args.out, "seconds": seconds, "publication": publication}));
    } else {
        println!(
            "{} {how}: {} in {} files, {seconds:.2} s",
            args.out.display(),
            Bytes(publication.bytes),
            publication.files.len() + 1
        );
    }
    Ok(())
}
