//! A checkpoint as users have it: a directory of safetensors files with its config.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::index::Index;
use crate::{Access, Beside, CheckpointError, Header, TensorInfo, limits, quantised};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// An opened checkpoint: every header read and checked, no tensor data read.
#[derive(Debug)]
pub struct Checkpoint {
    pub dir: PathBuf,
    pub files: Vec<CheckpointFile>,
    /// Sorted by name.
    pub tensors: BTreeMap<String, TensorPlace>,
    pub config: Value,
    /// What stands beside the weights, where the checkpoint was planned and not opened.
    pub(crate) planned: Option<BTreeMap<String, Beside>>,
}

#[derive(Debug)]
pub struct CheckpointFile {
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
    pub header_digest: String,
    pub modified_ns: i128,
    /// `None` until a planned file is written.
    pub(crate) file: Option<File>,
}

/// A tensor and the file it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    pub file: usize,
    pub info: TensorInfo,
}

impl Checkpoint {
    pub fn open(dir: &Path, access: &Access) -> Result<Checkpoint, CheckpointError> {
        let config = read_config(dir, access)?;
        let index = shard_names(dir, access)?;
        let mut files = Vec::with_capacity(index.files.len());
        let mut headers = Vec::with_capacity(index.files.len());
        let mut entries = 0;
        for name in index.files {
            let (file, header) = CheckpointFile::open(dir, name, access)?;
            entries += header.tensors.len();
            if entries > limits::TENSORS_MAX {
                let reason = format!("brings the checkpoint to more than {} tensors", limits::TENSORS_MAX);
                return Err(CheckpointError::malformed(&file.name, reason));
            }
            files.push(file);
            headers.push(header);
        }
        let tensors = gather(&files, headers, index.weight_map)?;
        quantised::refuse_tensors(&tensors)?;
        Ok(Checkpoint { dir: dir.to_owned(), files, tensors, config, planned: None })
    }

    /// One safetensors file that is no model of its own, with the JSON file that says what it is.
    pub fn open_single(
        dir: &Path,
        weights: &str,
        config: &str,
        access: &Access,
    ) -> Result<Checkpoint, CheckpointError> {
        let config_value = read_json(dir, config, access)?
            .filter(Value::is_object)
            .ok_or_else(|| CheckpointError::malformed(config, "is missing, or no JSON object"))?;
        let (file, header) = CheckpointFile::open(dir, weights.to_owned(), access)?;
        let files = vec![file];
        let tensors = gather(&files, vec![header], HashMap::new())?;
        Ok(Checkpoint { dir: dir.to_owned(), files, tensors, config: config_value, planned: None })
    }

    /// Takes another's files in, so that places of its tensors can be read here: gives what to add to their file index.
    pub fn adopt(&mut self, other: Checkpoint) -> usize {
        let offset = self.files.len();
        self.files.extend(other.files);
        offset
    }

    /// Fills `buffer` from byte `offset` of the tensor at `place`.
    pub fn read_at(&self, place: &TensorPlace, offset: u64, buffer: &mut [u8]) -> Result<(), CheckpointError> {
        let file = &self.files[place.file];
        debug_assert!(offset + buffer.len() as u64 <= place.info.bytes);
        let open = file.file.as_ref().ok_or_else(|| CheckpointError::malformed(&file.name, "is not written yet"))?;
        open.read_exact_at(buffer, place.info.start + offset).map_err(CheckpointError::io(&file.path))
    }

    /// Tells the system that the tensor's first `most` bytes will be read soon: they then come from the disk in large pieces,
    /// whatever the order in which they are read.
    pub fn will_read(&self, place: &TensorPlace, most: u64) {
        if let Some(open) = &self.files[place.file].file {
            let length = std::num::NonZeroU64::new(place.info.bytes.min(most));
            // a hint: where it is not taken, reading is slower
            let _ = rustix::fs::fadvise(open, place.info.start, length, rustix::fs::Advice::WillNeed);
        }
    }

    /// A JSON file beside the weights, `None` when it is not there.
    pub fn json(&self, name: &str, access: &Access) -> Result<Option<Value>, CheckpointError> {
        match &self.planned {
            Some(planned) => planned.get(name).map(|file| parse_json(name, &file.read(access)?)).transpose(),
            None => read_json(&self.dir, name, access),
        }
    }
}

impl CheckpointFile {
    /// The file as it was opened, whatever stands at its path now; `None` until a planned one is written.
    pub fn opened(&self) -> Option<&File> {
        self.file.as_ref()
    }

    pub(crate) fn open(dir: &Path, name: String, access: &Access) -> Result<(CheckpointFile, Header), CheckpointError> {
        let (file, path) = access.open_file(&dir.join(&name))?;
        let header = Header::read(&file, &name)?;
        let metadata = file.metadata().map_err(CheckpointError::io(&path))?;
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let opened = CheckpointFile {
            name,
            path,
            bytes: header.file_bytes,
            header_digest: header.digest.clone(),
            modified_ns,
            file: Some(file),
        };
        Ok((opened, header))
    }
}

pub(crate) fn read_config(dir: &Path, access: &Access) -> Result<Value, CheckpointError> {
    let config = read_json(dir, "config.json", access)?
        .ok_or_else(|| CheckpointError::malformed("config.json", "is missing"))?;
    if !config.is_object() {
        return Err(CheckpointError::malformed("config.json", "is no JSON object"));
    }
    quantised::refuse_config(&config)?;
    Ok(config)
}

/// Opening a pipe would wait for a writer that may never come.
pub(crate) fn regular(path: &Path, name: &str) -> Result<(), CheckpointError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(CheckpointError::malformed(name, "is no regular file")),
        Ok(_) => Ok(()),
        Err(source) => Err(CheckpointError::Io { path: path.to_owned(), source }),
    }
}

pub(crate) fn read_json(dir: &Path, name: &str, access: &Access) -> Result<Option<Value>, CheckpointError> {
    let path = dir.join(name);
    if !path.exists() {
        return Ok(None);
    }
    parse_json(name, &read_file(&path, access)?).map(Some)
}

fn parse_json(name: &str, text: &[u8]) -> Result<Value, CheckpointError> {
    serde_json::from_slice(text).map_err(|e| CheckpointError::malformed(name, e.to_string()))
}

/// A small file read whole.
pub(crate) fn read_file(path: &Path, access: &Access) -> Result<Vec<u8>, CheckpointError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (file, _) = access.open_file(path)?;
    let bytes = file.metadata().map_err(CheckpointError::io(path))?.len();
    if bytes > limits::JSON_BYTES_MAX {
        return Err(CheckpointError::malformed(
            &name,
            format!("has {bytes} bytes; at most {} are read", limits::JSON_BYTES_MAX),
        ));
    }
    let mut content = Vec::new();
    // one that grows meanwhile is cut off
    file.take(bytes).read_to_end(&mut content).map_err(CheckpointError::io(path))?;
    Ok(content)
}

/// The shards to open, and which of them each tensor is in when there is an index.
fn shard_names(dir: &Path, access: &Access) -> Result<Index, CheckpointError> {
    if let Some(index) = read_json(dir, INDEX, access)? {
        return Index::parse(&index, INDEX, ".safetensors");
    }
    if dir.join(SINGLE).exists() {
        return Ok(Index::of_one(SINGLE));
    }
    Err(CheckpointError::NotACheckpoint { found: what_is_here(&access.names_in(dir)) })
}

fn what_is_here(names: &[String]) -> Option<String> {
    let has = |suffixes: &[&str]| names.iter().find(|n| suffixes.iter().any(|s| n.ends_with(s)));
    if let Some(name) = has(&["pytorch_model.bin", "pytorch_model.bin.index.json"]) {
        return Some(format!(
            "{name} is a pickle, which no merge reads; `amalgam convert DIR NEW_DIR` makes safetensors of it"
        ));
    }
    if let Some(name) = has(&[".bin", ".pt", ".pth", ".ckpt"]) {
        return Some(format!(
            "{name} is a pickle, which no merge reads; `amalgam convert DIR/{name} NEW_DIR` makes safetensors of it"
        ));
    }
    if let Some(name) = has(&[".gguf"]) {
        return Some(format!("{name} is GGUF; merge the safetensors original and convert the result"));
    }
    if has(&["adapter_model.safetensors"]).is_some() {
        return Some("adapter_model.safetensors is a LoRA adapter, not a model".to_owned());
    }
    has(&[".safetensors"]).map(|name| format!("{name} has no index beside it"))
}

fn gather(
    files: &[CheckpointFile],
    headers: Vec<Header>,
    weight_map: HashMap<String, String>,
) -> Result<BTreeMap<String, TensorPlace>, CheckpointError> {
    let mut tensors = BTreeMap::new();
    for (file, header) in headers.into_iter().enumerate() {
        for (tensor, info) in header.tensors {
            // where two shards have a tensor of one name, the index says which counts
            if weight_map.get(&tensor).is_some_and(|shard| *shard != files[file].name) {
                continue;
            }
            if tensors.len() == limits::TENSORS_MAX {
                let reason = format!("brings the checkpoint to more than {} tensors", limits::TENSORS_MAX);
                return Err(CheckpointError::malformed(&files[file].name, reason));
            }
            if tensors.insert(tensor.clone(), TensorPlace { file, info }).is_some() {
                let reason = format!("tensor {tensor:?} is in another shard too");
                return Err(CheckpointError::malformed(&files[file].name, reason));
            }
        }
    }
    if let Some((tensor, shard)) = weight_map.iter().filter(|(tensor, _)| !tensors.contains_key(*tensor)).min() {
        let reason = format!("says that tensor {tensor:?} is in {shard}, which does not have it");
        return Err(CheckpointError::malformed(INDEX, reason));
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A shard of two tensors: "w", which every shard has, and one named like the shard.
    fn write(dir: &Path, name: &str, value: u8) {
        let entry = |at: u64| json!({"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]});
        let header = json!({"w": entry(0), name: entry(1)}).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[value, 0]].concat();
        std::fs::write(dir.join(name), bytes).unwrap();
    }

    #[test]
    fn the_index_says_which_of_two_shards_counts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        let (a, b) = ("a.safetensors", "b.safetensors");
        write(dir.path(), a, 1);
        write(dir.path(), b, 2);
        for (shard, value) in [(a, 1), (b, 2)] {
            let map = json!({"weight_map": {"w": shard, a: a, b: b}});
            std::fs::write(dir.path().join(INDEX), map.to_string()).unwrap();
            let checkpoint = Checkpoint::open(dir.path(), &Access::Anywhere).unwrap();
            let mut byte = [0];
            checkpoint.read_at(&checkpoint.tensors["w"], 0, &mut byte).unwrap();
            assert_eq!(byte, [value]);
        }
        let lie = json!({"weight_map": {"w": "a.safetensors", "x": "b.safetensors"}});
        std::fs::write(dir.path().join(INDEX), lie.to_string()).unwrap();
        let error = Checkpoint::open(dir.path(), &Access::Anywhere).unwrap_err().to_string();
        assert!(error.contains(r#"tensor "x" is in b.safetensors, which does not have it"#), "{error}");
    }

    #[test]
    fn an_index_leads_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        for name in ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", ".x.safetensors", "x.bin", ""] {
            std::fs::write(dir.path().join(INDEX), json!({"weight_map": {"w": name}}).to_string()).unwrap();
            let error = Checkpoint::open(dir.path(), &Access::Anywhere).unwrap_err().to_string();
            assert!(error.contains("plain file name"), "{name}: {error}");
        }
    }
}
