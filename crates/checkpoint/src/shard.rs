//! Shards out: places fixed before a byte is written, then filled in any order by any thread.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::{CheckpointError, bytes_of};

/// An output tensor and where it will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    /// Offset of the first byte from the start of the file.
    pub start: u64,
    pub bytes: u64,
}

/// One output file, planned to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardLayout {
    pub file_name: String,
    /// Length prefix and header, padded so that data starts at a multiple of 8.
    pub header: Vec<u8>,
    pub tensors: Vec<ShardTensor>,
    pub bytes: u64,
}

/// Distributes tensors, in the order given, over shards of at most `shard_bytes` each; a tensor is never split, so one
/// that is larger has a shard of its own.
pub fn layout_shards(tensors: Vec<(String, Dtype, Vec<u64>)>, shard_bytes: u64) -> Vec<ShardLayout> {
    let mut groups: Vec<(u64, Vec<ShardTensor>)> = Vec::new();
    for (name, dtype, shape) in tensors {
        let elements = shape.iter().product();
        let bytes = bytes_of(dtype, elements).expect("output dtypes fill whole bytes and shapes were checked");
        let tensor = ShardTensor { name, dtype, shape, start: 0, bytes };
        match groups.last_mut() {
            Some((total, group)) if *total + bytes <= shard_bytes => {
                *total += bytes;
                group.push(tensor);
            }
            _ => groups.push((bytes, vec![tensor])),
        }
    }
    let count = groups.len();
    groups.into_iter().enumerate().map(|(i, (_, group))| lay_out(file_name(i, count), group)).collect()
}

fn file_name(index: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    }
}

/// Wide dtypes come first, so that every tensor is aligned to its own dtype.
fn lay_out(file_name: String, mut tensors: Vec<ShardTensor>) -> ShardLayout {
    tensors.sort_by(|a, b| b.dtype.bitsize().cmp(&a.dtype.bitsize()).then_with(|| a.name.cmp(&b.name)));
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in &mut tensors {
        tensor.start = offset;
        offset += tensor.bytes;
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [tensor.start, offset]});
        entries.insert(tensor.name.clone(), entry);
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    for tensor in &mut tensors {
        tensor.start += header.len() as u64;
    }
    ShardLayout { bytes: header.len() as u64 + offset, file_name, header, tensors }
}

/// A shard being written.
#[derive(Debug)]
pub struct ShardFile {
    pub path: PathBuf,
    file: File,
}

impl ShardFile {
    /// Creates the file at its full length, space reserved where the file system can, with its header in place.
    /// An existing file keeps its content: whoever wrote it by the same plan wrote the same bytes.
    pub fn create(dir: &Path, layout: &ShardLayout) -> Result<ShardFile, CheckpointError> {
        let path = dir.join(&layout.file_name);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(CheckpointError::io(&path))?;
        reserve(&file, layout.bytes).map_err(CheckpointError::io(&path))?;
        file.write_all_at(&layout.header, 0).map_err(CheckpointError::io(&path))?;
        Ok(ShardFile { path, file })
    }

    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.file.write_all_at(bytes, offset).map_err(CheckpointError::io(&self.path))
    }

    /// Fills `buffer` with what was written at `offset`.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), CheckpointError> {
        self.file.read_exact_at(buffer, offset).map_err(CheckpointError::io(&self.path))
    }

    /// Has all that was written so far on the disk.
    pub fn sync_data(&self) -> Result<(), CheckpointError> {
        self.file.sync_data().map_err(CheckpointError::io(&self.path))
    }

    pub fn sync(&self) -> Result<(), CheckpointError> {
        self.file.sync_all().map_err(CheckpointError::io(&self.path))
    }
}

fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    if bytes > 0 {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    file.set_len(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> Vec<(String, Dtype, Vec<u64>)> {
        vec![
            ("a".into(), Dtype::BF16, vec![3]),
            ("b".into(), Dtype::F32, vec![2, 2]),
            ("c".into(), Dtype::BF16, vec![8]),
        ]
    }

    #[test]
    fn a_written_shard_is_what_the_formats_own_library_reads() {
        let dir = tempfile::tempdir().unwrap();
        let layouts = layout_shards(tensors(), 1 << 30);
        assert_eq!(layouts.len(), 1);
        let layout = &layouts[0];
        let shard = ShardFile::create(dir.path(), layout).unwrap();
        for (i, tensor) in layout.tensors.iter().enumerate() {
            assert_eq!(tensor.start % (tensor.dtype.bitsize() as u64 / 8), 0);
            shard.write_at(tensor.start, &vec![i as u8 + 1; tensor.bytes as usize]).unwrap();
        }
        shard.sync().unwrap();
        let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("b").unwrap().data(), [1; 16]);
        assert_eq!(read.tensor("a").unwrap().shape(), [3]);
        assert_eq!(read.tensor("c").unwrap().data(), [3; 16]);
    }

    #[test]
    fn shards_fill_up_to_their_bytes_and_never_split_a_tensor() {
        let layouts = layout_shards(tensors(), 22);
        let names: Vec<_> = layouts.iter().map(|l| (l.file_name.as_str(), l.tensors.len())).collect();
        assert_eq!(names, [("model-00001-of-00002.safetensors", 2), ("model-00002-of-00002.safetensors", 1)]);
        assert_eq!(layout_shards(tensors(), 1).len(), 3);
    }
}
