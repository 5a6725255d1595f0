//! The files of a model that torch saved, each read as a list of tensors.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::index::Index;
use crate::open::{read_config, read_json, regular};
use crate::read_at::{FileBytes, ReadAt};
use crate::torch::{TorchFile, TorchTensor};
use crate::{Access, CheckpointError, TensorInfo, TensorPlace, limits};

const SINGLE: &str = "pytorch_model.bin";
const INDEX: &str = "pytorch_model.bin.index.json";

pub(super) struct Input {
    /// Where config and tokenizer are.
    pub dir: PathBuf,
    pub config: Option<Value>,
    pub files: Vec<InputFile>,
    /// In the order of the files and of what is in them.
    pub tensors: Vec<InputTensor>,
    pub notes: Vec<String>,
}

impl Input {
    /// The tensors as those of a checkpoint that is opened.
    pub fn places(&self) -> BTreeMap<String, TensorPlace> {
        let place = |input: &InputTensor| {
            let TorchTensor { dtype, shape, start, bytes, .. } = input.tensor.clone();
            TensorPlace { file: input.file, info: TensorInfo { dtype, shape, start, bytes } }
        };
        self.tensors.iter().map(|input| (input.tensor.name.clone(), place(input))).collect()
    }
}

pub(super) struct InputFile {
    pub name: String,
    pub bytes: FileBytes,
}

pub(super) struct InputTensor {
    pub file: usize,
    pub tensor: TorchTensor,
}

pub(super) fn open(from: &Path) -> Result<Input, CheckpointError> {
    let (dir, index) = locate(from)?;
    let mut notes = Vec::new();
    let config = match dir.join("config.json").exists() {
        true => Some(read_config(&dir, &Access::Anywhere)?),
        false => {
            notes.push("there is no config.json here, which merging needs; put it beside the result".to_owned());
            None
        }
    };
    let mut input = Input { dir, config, files: Vec::new(), tensors: Vec::new(), notes };
    let mut seen = HashSet::new();
    for name in &index.files {
        add_file(&mut input, name, &index, &mut seen)?;
    }
    if let Some((tensor, file)) = index.weight_map.iter().filter(|(tensor, _)| !seen.contains(*tensor)).min() {
        let reason = format!("says that tensor {tensor:?} is in {file}, which does not have it");
        return Err(CheckpointError::malformed(INDEX, reason));
    }
    Ok(input)
}

fn locate(from: &Path) -> Result<(PathBuf, Index), CheckpointError> {
    if !from.is_dir() {
        let name = from.file_name().and_then(|name| name.to_str());
        let name = name.filter(|_| from.is_file()).ok_or(CheckpointError::NotFound { under_roots: false })?;
        return Ok((from.parent().unwrap_or(Path::new("")).to_owned(), Index::of_one(name)));
    }
    for present in ["model.safetensors", "model.safetensors.index.json"] {
        if from.join(present).exists() {
            return Err(CheckpointError::Unsupported(format!(
                "{present} is here already; there is nothing to convert"
            )));
        }
    }
    if let Some(index) = read_json(from, INDEX, &Access::Anywhere)? {
        return Ok((from.to_owned(), Index::parse(&index, INDEX, ".bin")?));
    }
    if from.join(SINGLE).exists() {
        return Ok((from.to_owned(), Index::of_one(SINGLE)));
    }
    let reason = format!("neither {SINGLE} nor {INDEX} is here; name the file itself if it is called otherwise");
    Err(CheckpointError::Unsupported(reason))
}

fn add_file(input: &mut Input, name: &str, index: &Index, seen: &mut HashSet<String>) -> Result<(), CheckpointError> {
    let path = input.dir.join(name);
    regular(&path, name)?;
    let bytes = File::open(&path).and_then(FileBytes::new).map_err(CheckpointError::io(&path))?;
    let read = TorchFile::read(&bytes, name)?;
    input.notes.extend(read.left_out.into_iter().map(|what| format!("{name}: {what}")));
    let file = input.files.len();
    input.files.push(InputFile { name: name.to_owned(), bytes });
    for tensor in read.tensors {
        // where two files have a tensor of one name, the index says which counts
        if index.weight_map.get(&tensor.name).is_some_and(|said| said != name) {
            continue;
        }
        if input.tensors.len() == limits::TENSORS_MAX || !seen.insert(tensor.name.clone()) {
            let reason = format!("tensor {:?} is in another file too, or one too many", tensor.name);
            return Err(CheckpointError::malformed(name, reason));
        }
        input.tensors.push(InputTensor { file, tensor });
    }
    Ok(())
}

/// A view may repeat one element any number of times, and many names may share one storage: a small file must not
/// become a full disk.
pub(super) fn check_growth(input: &Input) -> Result<(), CheckpointError> {
    let has: u64 = input.files.iter().map(|file| file.bytes.len()).sum();
    let wants = input.tensors.iter().try_fold(0u64, |sum, t| sum.checked_add(t.tensor.bytes));
    if wants.is_none_or(|wants| wants > has.saturating_mul(limits::CONVERSION_GROWTH_MAX)) {
        let reason = format!(
            "its tensors would be more than {} times as large written out, for they share or repeat what they hold",
            limits::CONVERSION_GROWTH_MAX
        );
        return Err(CheckpointError::Unsupported(reason));
    }
    Ok(())
}
