//! The checkpoint that a conversion makes: built beside its place, then renamed to it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::Conversion;
use super::input::{Input, InputTensor};
use crate::beside::{PROCESSING, TOKENIZER, VOCABULARY};
use crate::open::regular;
use crate::{CheckpointError, ShardFile, ShardLayout, layout_shards, limits};

pub(super) struct Written {
    pub bytes: u64,
    pub files: Vec<String>,
}

pub(super) fn write(conversion: &Conversion<'_>, input: &Input) -> Result<Written, CheckpointError> {
    let work = work_dir(conversion.to)?;
    std::fs::create_dir(&work).map_err(CheckpointError::io(&work))?;
    let written = fill(conversion, input, &work).and_then(|written| publish(&work, conversion.to).map(|()| written));
    if written.is_err() {
        // half a checkpoint is of no use to anyone; a failure to remove it changes nothing about the first
        let _ = std::fs::remove_dir_all(&work);
    }
    written
}

/// Beside the output, so that publishing is one rename; of this process alone.
fn work_dir(to: &Path) -> Result<PathBuf, CheckpointError> {
    let to = std::path::absolute(to).map_err(CheckpointError::io(to))?;
    let name =
        to.file_name().ok_or_else(|| CheckpointError::Unsupported("the output names no directory".to_owned()))?;
    Ok(to.with_file_name(format!(".{}.converting-{}", name.to_string_lossy(), std::process::id())))
}

/// A rename takes the place of an empty directory and of nothing else.
fn publish(work: &Path, to: &Path) -> Result<(), CheckpointError> {
    sync_dir(work)?;
    std::fs::rename(work, to).map_err(CheckpointError::io(to))?;
    let parent = std::path::absolute(to).map_err(CheckpointError::io(to))?;
    parent.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> Result<(), CheckpointError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(CheckpointError::io(dir))
}

fn fill(conversion: &Conversion<'_>, input: &Input, work: &Path) -> Result<Written, CheckpointError> {
    let wanted = input.tensors.iter().map(|t| (t.tensor.name.clone(), t.tensor.dtype, t.tensor.shape.clone()));
    let shards = layout_shards(wanted.collect(), conversion.shard_bytes);
    if shards.len() > limits::SHARDS_MAX {
        let reason = format!(
            "would become {} shards; at most {} are written, so let them be larger",
            shards.len(),
            limits::SHARDS_MAX
        );
        return Err(CheckpointError::Unsupported(reason));
    }
    let mut writer = Writer::new(conversion, input);
    for shard in &shards {
        writer.write_shard(work, shard)?;
    }
    let mut files: Vec<String> = shards.iter().map(|shard| shard.file_name.clone()).collect();
    if shards.len() > 1 {
        files.push("model.safetensors.index.json".to_owned());
        write_file(work, "model.safetensors.index.json", &index(&shards))?;
    }
    let lists = [&["config.json"], PROCESSING, TOKENIZER, VOCABULARY];
    for name in lists.concat().iter().filter(|name| input.dir.join(name).exists()) {
        write_file(work, name, &read_carried(&input.dir, name)?)?;
        files.push((*name).to_owned());
    }
    Ok(Written { bytes: writer.done, files })
}

struct Writer<'a> {
    conversion: &'a Conversion<'a>,
    input: &'a Input,
    by_name: HashMap<&'a str, &'a InputTensor>,
    done: u64,
    total: u64,
}

impl<'a> Writer<'a> {
    fn new(conversion: &'a Conversion<'a>, input: &'a Input) -> Writer<'a> {
        let by_name = input.tensors.iter().map(|t| (t.tensor.name.as_str(), t)).collect();
        let total = input.tensors.iter().map(|t| t.tensor.bytes).sum();
        Writer { conversion, input, by_name, done: 0, total }
    }

    fn write_shard(&mut self, work: &Path, layout: &ShardLayout) -> Result<(), CheckpointError> {
        let shard = ShardFile::create(work, layout)?;
        for place in &layout.tensors {
            let wanted = self.by_name[place.name.as_str()];
            let file = &self.input.files[wanted.file];
            wanted.tensor.copy(&file.bytes, &file.name, &mut |offset, bytes| {
                self.go_on(bytes.len())?;
                shard.write_at(place.start + offset, bytes)
            })?;
        }
        shard.sync()
    }

    fn go_on(&mut self, bytes: usize) -> Result<(), CheckpointError> {
        if self.conversion.cancel.load(Ordering::Relaxed) {
            return Err(CheckpointError::Cancelled);
        }
        self.done += bytes as u64;
        (self.conversion.on_progress)(self.done, self.total);
        Ok(())
    }
}

fn index(shards: &[ShardLayout]) -> Vec<u8> {
    let tensors = || shards.iter().flat_map(|shard| shard.tensors.iter().map(move |tensor| (shard, tensor)));
    let total: u64 = tensors().map(|(_, tensor)| tensor.bytes).sum();
    let weight_map: Map<String, Value> =
        tensors().map(|(shard, tensor)| (tensor.name.clone(), json!(shard.file_name))).collect();
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    let mut text = serde_json::to_vec_pretty(&index).expect("a JSON value serialises");
    text.push(b'\n');
    text
}

fn read_carried(dir: &Path, name: &str) -> Result<Vec<u8>, CheckpointError> {
    let path = dir.join(name);
    regular(&path, name)?;
    let bytes = std::fs::metadata(&path).map_err(CheckpointError::io(&path))?.len();
    if bytes > limits::JSON_BYTES_MAX {
        let reason = format!("has {bytes} bytes; at most {} are read", limits::JSON_BYTES_MAX);
        return Err(CheckpointError::malformed(name, reason));
    }
    std::fs::read(&path).map_err(CheckpointError::io(&path))
}

fn write_file(dir: &Path, name: &str, content: &[u8]) -> Result<(), CheckpointError> {
    let path = dir.join(name);
    let mut file = File::create(&path).map_err(CheckpointError::io(&path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(CheckpointError::io(&path))
}
