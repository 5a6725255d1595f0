//! The files around the shards: index, config, tokenizer, card, recipe and manifest.
//!
//! Invariant: nothing here depends on when or where the merge ran, so equal plans and recipe texts give equal artifacts,
//! byte for byte.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use checkpoint::beside::{PROCESSING, TOKENIZER, VOCABULARY};
use checkpoint::{Beside, Checkpoint, CheckpointError, ShardLayout, digest_file};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::execute::{Execution, Journal};
use crate::plan::code;
use crate::{ExecuteError, Plan, Sources};

pub const MANIFEST: &str = "manifest.json";
const RECIPE: &str = "recipe.yml";
const INDEX: &str = "model.safetensors.index.json";

/// A finished output directory, not yet published.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub dir: PathBuf,
    pub plan_digest: String,
    /// Every file but the manifest, which lists them.
    pub files: Vec<ArtifactFile>,
    pub manifest_sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactFile {
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

/// A small file that the plan holds whole.
#[derive(Debug)]
pub(crate) struct MadeFile {
    pub name: &'static str,
    pub content: Vec<u8>,
}

impl MadeFile {
    pub fn json(name: &'static str, value: &Value) -> MadeFile {
        MadeFile { name, content: pretty(value) }
    }
}

/// Bytes that digests read: every input file used, every shard.
pub(crate) fn digested_bytes(plan: &Plan, sources: &Sources) -> u64 {
    let inputs: u64 = used_files(plan, sources)
        .iter()
        .map(|(source, file)| sources.list[*source].checkpoint.files[*file].bytes)
        .sum();
    inputs + plan.shards.iter().map(|s| s.bytes).sum::<u64>()
}

fn used_files(plan: &Plan, sources: &Sources) -> BTreeSet<(usize, usize)> {
    let inputs = || plan.tasks.iter().flat_map(|t| &t.inputs);
    let gathered = inputs().filter_map(|i| i.rows.as_ref()).flat_map(|rows| {
        rows.sources().filter_map(|source| Some((source, rows.places[source].as_ref()?.file))).collect::<BTreeSet<_>>()
    });
    let adapters = sources.list.iter().enumerate().filter_map(|(i, s)| Some((i, s.applied.as_ref()?.file)));
    inputs().map(|i| (i.source, i.place.file)).chain(gathered).chain(adapters).collect()
}

/// Writes what belongs beside the shards and makes everything durable.
/// `inputs` and `shards` are what was digested meanwhile.
pub(crate) fn complete(
    execution: &Execution<'_>,
    inputs: Value,
    shards: Vec<String>,
    recipe_text: &str,
    dir: &Path,
) -> Result<Artifact, ExecuteError> {
    let plan = execution.plan;
    let mut beside = vec![write(dir, "config.json", &pretty(&plan.config))?];
    if plan.shards.len() > 1 {
        beside.push(write(dir, INDEX, &pretty(&index(plan)))?);
    }
    beside.extend(carry(execution, dir)?);
    beside.push(write(dir, RECIPE, recipe_text.as_bytes())?);
    if plan.options.write_model_card {
        beside.push(write(dir, "README.md", card(plan, recipe_text).as_bytes())?);
    }
    let shards = plan.shards.iter().zip(shards);
    let mut files: Vec<ArtifactFile> = shards
        .map(|(shard, sha256)| ArtifactFile { path: shard.file_name.clone(), bytes: shard.bytes, sha256 })
        .collect();
    files.extend(beside);
    files.extend(execution.earlier.files.iter().cloned());
    let manifest = manifest(execution, inputs, &files);
    let io = ExecuteError::io(dir.join(MANIFEST));
    let manifest = fault::around("manifest.write", io, || write(dir, MANIFEST, &pretty(&manifest)))?;
    sync_dir(dir)?;
    // what is whole needs no journal; the manifest is the last word
    Journal::remove(dir)?;
    sync_dir(dir)?;
    Ok(Artifact { dir: dir.to_owned(), plan_digest: plan.digest.clone(), files, manifest_sha256: manifest.sha256 })
}

/// The artifact of an execution that was killed when only the last word was missing: the manifest is written when all else is.
pub(crate) fn finished(plan: &Plan, recipe_text: &str, dir: &Path) -> Option<Artifact> {
    let bytes = std::fs::read(dir.join(MANIFEST)).ok()?;
    let manifest: Value = serde_json::from_slice(&bytes).ok()?;
    let files: Vec<ArtifactFile> = serde_json::from_value(manifest.get("outputs")?.clone()).ok()?;
    let is_whole = |file: &ArtifactFile| std::fs::metadata(dir.join(&file.path)).is_ok_and(|m| m.len() == file.bytes);
    let recipe = files.iter().find(|file| file.path == RECIPE)?;
    let is_this = manifest["plan_digest"] == plan.digest.as_str()
        && recipe.sha256 == checkpoint::digest_bytes(recipe_text.as_bytes());
    (is_this && files.iter().all(is_whole)).then(|| Artifact {
        dir: dir.to_owned(),
        plan_digest: plan.digest.clone(),
        files,
        manifest_sha256: checkpoint::digest_bytes(&bytes),
    })
}

/// The files of an adapter around its weights, which are written: config, recipe, card and manifest.
pub(crate) fn complete_adapter(
    execution: &Execution<'_>,
    layout: &ShardLayout,
    config: &Value,
    report: Value,
    recipe_text: &str,
    dir: &Path,
) -> Result<Artifact, ExecuteError> {
    let plan = execution.plan;
    let mut files = vec![
        digest_shard(execution, dir, &layout.file_name)?,
        write(dir, adapter::files::CONFIG, &pretty(config))?,
        write(dir, RECIPE, recipe_text.as_bytes())?,
    ];
    if plan.options.write_model_card {
        files.push(write(dir, "README.md", adapter_card(plan, config, recipe_text).as_bytes())?);
    }
    files.extend(execution.earlier.files.iter().cloned());
    let mut manifest = manifest(execution, inputs(execution)?, &files);
    manifest["tensors"] = json!(layout.tensors.len());
    manifest["parameters"] = json!(layout.tensors.iter().map(|t| t.shape.iter().product::<u64>()).sum::<u64>());
    manifest["adapter"] = report;
    let manifest = write(dir, MANIFEST, &pretty(&manifest))?;
    sync_dir(dir)?;
    Ok(Artifact { dir: dir.to_owned(), plan_digest: plan.digest.clone(), files, manifest_sha256: manifest.sha256 })
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("a JSON value serialises");
    text.push(b'\n');
    text
}

/// Writes a file whole. One that is there is written over, never emptied first: another process that executes the same plan
/// writes the same bytes, and nobody sees less of them than there were.
fn write(dir: &Path, name: &str, content: &[u8]) -> Result<ArtifactFile, ExecuteError> {
    let path = dir.join(name);
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let put = |file: std::fs::File| {
        fault::before("file.write")?;
        file.write_all_at(content, 0)?;
        file.set_len(content.len() as u64)?;
        file.sync_all()?;
        fault::after("file.write")
    };
    file.and_then(put).map_err(ExecuteError::io(&path))?;
    Ok(ArtifactFile { path: name.to_owned(), bytes: content.len() as u64, sha256: checkpoint::digest_bytes(content) })
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), ExecuteError> {
    let sync = || std::fs::File::open(dir).and_then(|d| d.sync_all());
    fault::around("dir.sync", |error| error, sync).map_err(ExecuteError::io(dir))
}

fn index(plan: &Plan) -> Value {
    let mut weight_map = Map::new();
    for task in &plan.tasks {
        weight_map.insert(task.name.clone(), json!(plan.shards[task.shard].file_name));
    }
    json!({"metadata": {"total_size": plan.tensor_bytes()}, "weight_map": weight_map})
}

/// Which files of which sources are carried into the artifact as they are.
pub(crate) fn carried(plan: &Plan, sources: &Sources) -> Vec<(&'static str, Beside)> {
    // a tokenizer that the recipe asks for is written whatever the option says
    let asked_for = plan.options.copy_tokenizer || !plan.tokenizer_digests.is_empty();
    let tokenizer = TOKENIZER.iter().chain(VOCABULARY).filter(|_| asked_for);
    let of_tokenizer = tokenizer.map(|name| (plan.tokenizer_donor, *name));
    let all = PROCESSING.iter().map(|name| (plan.donor, *name)).chain(of_tokenizer);
    let all = all.filter(|(_, name)| !is_replaced(plan, name));
    all.filter_map(|(source, name)| Some((name, sources.list[source].checkpoint.beside(name)?))).collect()
}

/// Whether a file is made anew, or says what one that is made says otherwise.
fn is_replaced(plan: &Plan, name: &str) -> bool {
    let is_made = |name: &str| plan.made.iter().any(|file| file.name == name);
    is_made(name)
        || (is_made("tokenizer.json") && VOCABULARY.contains(&name))
        || (is_made("chat_template.jinja") && name == "chat_template.json")
}

/// The files beside config and shards: those carried, and those made.
fn beside(plan: &Plan, sources: &Sources) -> Vec<(&'static str, Beside)> {
    let made = plan.made.iter().map(|file| (file.name, Beside::Content(file.content.as_slice().into())));
    carried(plan, sources).into_iter().chain(made).collect()
}

/// The artifact as a checkpoint, before it is written.
pub(crate) fn planned(plan: &Plan, sources: &Sources) -> Result<Checkpoint, CheckpointError> {
    let beside = beside(plan, sources).into_iter().map(|(name, file)| (name.to_owned(), file)).collect();
    Checkpoint::planned(&plan.shards, &pretty(&plan.config), beside)
}

/// What is wrong with the files of a source that may be carried: at submit, not when the merge is done.
pub(crate) fn unreadable(source: &crate::Source, access: &checkpoint::Access) -> Vec<String> {
    if source.stage.is_some() {
        // told of the models that it takes them from
        return Vec::new();
    }
    let dir = &source.checkpoint.dir;
    let present =
        PROCESSING.iter().chain(TOKENIZER).chain(VOCABULARY).filter(|name| dir.join(name).symlink_metadata().is_ok());
    present
        .filter_map(|name| match access.resolve_file(&dir.join(name)).map(std::fs::metadata) {
            Ok(Ok(metadata)) if metadata.is_file() && metadata.len() <= checkpoint::limits::JSON_BYTES_MAX => None,
            Ok(Ok(metadata)) if metadata.is_file() => {
                Some(format!("{name} has {} bytes, which is too many", metadata.len()))
            }
            Ok(Ok(_)) => Some(format!("{name} is no regular file")),
            Ok(Err(error)) => Some(format!("{name}: {error}")),
            Err(error) => Some(error.to_string()),
        })
        .collect()
}

/// Names, lengths and times of the carried files, for the plan's digest.
pub(crate) fn carried_identity(plan: &Plan, sources: &Sources) -> Vec<Value> {
    let identity = |(name, file): (&str, Beside)| {
        let path = match file {
            Beside::At(path) => path,
            Beside::Content(content) => return json!([name, checkpoint::digest_bytes(&content)]),
        };
        let metadata = std::fs::metadata(path).ok();
        let modified = metadata
            .as_ref()
            .and_then(|m| m.modified().ok())
            .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        json!([name, metadata.map(|m| m.len()), modified.map(|t| t.as_nanos().to_string())])
    };
    carried(plan, sources).into_iter().map(identity).collect()
}

fn carry(execution: &Execution<'_>, dir: &Path) -> Result<Vec<ArtifactFile>, ExecuteError> {
    let mut written = Vec::new();
    for (name, file) in beside(execution.plan, execution.sources) {
        let content = file.read(&execution.sources.access)?;
        if code::without_code(name, &content)?.is_some() {
            // when it was planned it did not, or it would have been made anew
            let reason = "names code, which it did not when the merge was planned";
            return Err(CheckpointError::Malformed { file: name.to_owned(), reason: reason.to_owned() }.into());
        }
        written.push(write(dir, name, &content)?);
    }
    Ok(written)
}

fn digest_shard(execution: &Execution<'_>, dir: &Path, name: &str) -> Result<ArtifactFile, ExecuteError> {
    execution.stop_if_cancelled()?;
    let path = dir.join(name);
    let bytes = std::fs::metadata(&path).map_err(ExecuteError::io(&path))?.len();
    let sha256 = digest_file(&path)?;
    execution.add_bytes(bytes);
    Ok(ArtifactFile { path: name.to_owned(), bytes, sha256 })
}

/// Each model with the files that were read of it.
pub(crate) fn inputs(execution: &Execution<'_>) -> Result<Value, ExecuteError> {
    let used: Vec<(usize, usize)> = used_files(execution.plan, execution.sources).into_iter().collect();
    let digests: Result<Vec<String>, ExecuteError> = used
        .par_iter()
        .map(|(source, file)| {
            execution.stop_if_cancelled()?;
            let file = &execution.sources.list[*source].checkpoint.files[*file];
            let opened = file.opened().ok_or_else(|| CheckpointError::Malformed {
                file: file.name.clone(),
                reason: "is not written yet".to_owned(),
            })?;
            let digest = execution.plan.settings.known_digests.digest(opened, &file.path, &|bytes| {
                execution.add_bytes(bytes);
                !execution.is_cancelled()
            })?;
            digest.ok_or(ExecuteError::Cancelled)
        })
        .collect();
    let mut models: Vec<Value> = execution.plan.models.iter().map(|m| json!({"model": m, "files": []})).collect();
    for ((source, file), sha256) in used.iter().zip(digests?) {
        let file = &execution.sources.list[*source].checkpoint.files[*file];
        let entry = json!({"path": file.name, "bytes": file.bytes, "sha256": sha256});
        models[*source]["files"].as_array_mut().expect("made as a list").push(entry);
    }
    Ok(Value::Array(models))
}

fn manifest(execution: &Execution<'_>, inputs: Value, files: &[ArtifactFile]) -> Value {
    let plan = execution.plan;
    let mut manifest = json!({
        "format": 1,
        "engine": {"name": "amalgam", "version": crate::VERSION},
        "plan_digest": plan.digest,
        "method": plan.about.name,
        "seed": plan.seed,
        "recipe": plan.recipe,
        "inputs": inputs,
        "tensors": plan.tasks.len(),
        "parameters": plan.tasks.iter().map(|t| t.parameters.elements()).sum::<u64>(),
        "outputs": files,
    });
    if !plan.code_left_out.is_empty() {
        manifest["code_left_out"] = json!(plan.code_left_out);
    }
    if !execution.earlier.manifests.is_empty() {
        manifest["stages"] = json!(execution.earlier.manifests);
    }
    manifest
}

/// A model card with the metadata by which the Hub knows a merge.
fn card(plan: &Plan, recipe_text: &str) -> String {
    let hub_name = |m: &String| Some(m.parse::<recipe::ModelRef>().ok().filter(recipe::ModelRef::is_hub_like)?.path);
    let bases: BTreeSet<String> = plan.made_of.iter().filter_map(hub_name).collect();
    let mut front = String::from("---\n");
    if !bases.is_empty() {
        front += "base_model:\n";
        for base in bases {
            front += &format!("- {base}\n");
        }
        front += "base_model_relation: merge\n";
    }
    front += "library_name: transformers\ntags:\n- merge\n- amalgam\n---\n";
    format!("{front}# Merged model\n\n{}", made_how(plan, recipe_text))
}

fn adapter_card(plan: &Plan, config: &Value, recipe_text: &str) -> String {
    let base = config["base_model_name_or_path"].as_str().and_then(|m| m.parse::<recipe::ModelRef>().ok());
    let base = base.filter(recipe::ModelRef::is_hub_like).map_or(String::new(), |m| format!("base_model: {m}\n"));
    let front = format!("---\n{base}library_name: peft\ntags:\n- lora\n- merge\n- amalgam\n---\n");
    format!("{front}# LoRA adapter\n\n{}", made_how(plan, recipe_text))
}

fn made_how(plan: &Plan, recipe_text: &str) -> String {
    let is_stage = |m: &String| !plan.made_of.contains(m);
    let models =
        plan.models.iter().map(|m| format!("- `{m}`{}\n", if is_stage(m) { ", a stage of the recipe" } else { "" }));
    let through = plan.made_of.iter().filter(|m| !plan.models.contains(m));
    let models: String = models.chain(through.map(|m| format!("- `{m}`, through a stage\n"))).collect();
    // a fence longer than any run of backticks in the recipe cannot be closed by it
    let fence = "`".repeat(longest_run(recipe_text, '`').max(2) + 1);
    format!(
        "Made by [Amalgam](https://github.com/amalgam-merge/amalgam) {} with the method \
         [{}]({}): {}.\n\n## Models\n\n{models}\n## Recipe\n\n{fence}yaml\n{}\n{fence}\n\n\
         Inputs, their digests and the digests of these files are in `{MANIFEST}`.\n",
        crate::VERSION,
        plan.about.title,
        plan.about.source,
        plan.about.formula,
        recipe_text.trim_end(),
    )
}

fn longest_run(text: &str, of: char) -> usize {
    text.split(|c| c != of).map(str::len).max().unwrap_or(0)
}
