//! A checkpoint that is still to be written: what opening it will give, known from its plan.
//!
//! Invariant: what is opened once it is written is what was planned, or an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::open::read_file;
use crate::{
    Access, Checkpoint, CheckpointError, CheckpointFile, ShardLayout, ShardTensor, TensorInfo, TensorPlace,
    digest_bytes,
};

/// A file beside the weights: there already, or to be written with this content.
#[derive(Debug, Clone)]
pub enum Beside {
    At(PathBuf),
    Content(Arc<[u8]>),
}

/// Below it there can be nothing, so that no name leads to a file by accident.
const NOWHERE: &str = "/dev/null";

/// Before a header stands its length.
const LENGTH_BYTES: usize = 8;

impl Beside {
    pub fn read(&self, access: &Access) -> Result<Vec<u8>, CheckpointError> {
        match self {
            Beside::Content(content) => Ok(content.to_vec()),
            Beside::At(path) => read_file(path, access),
        }
    }
}

impl Checkpoint {
    /// What opening a directory with these shards, this `config.json` and these files will give.
    pub fn planned(
        shards: &[ShardLayout],
        config: &[u8],
        beside: BTreeMap<String, Beside>,
    ) -> Result<Checkpoint, CheckpointError> {
        let config = serde_json::from_slice(config)
            .map_err(|error| CheckpointError::malformed("config.json", error.to_string()))?;
        let files = shards.iter().map(file).collect();
        let places = shards.iter().enumerate().flat_map(|(file, shard)| {
            shard.tensors.iter().map(move |tensor| (tensor.name.clone(), TensorPlace { file, info: info(tensor) }))
        });
        Ok(Checkpoint { dir: NOWHERE.into(), files, tensors: places.collect(), config, planned: Some(beside) })
    }

    /// Whether the weights are not there yet.
    pub fn is_planned(&self) -> bool {
        self.files.iter().any(|file| file.file.is_none())
    }

    /// Makes a planned checkpoint readable, once its shards have been written to `dir`.
    pub fn open_written(&mut self, dir: &Path) -> Result<(), CheckpointError> {
        for file in self.files.iter_mut().filter(|file| file.file.is_none()) {
            let (written, header) = CheckpointFile::open(dir, file.name.clone(), &Access::Anywhere)?;
            if (header.file_bytes, &header.digest) != (file.bytes, &file.header_digest) {
                return Err(CheckpointError::malformed(&file.name, "is not what was planned"));
            }
            *file = written;
        }
        Ok(())
    }

    /// A file beside the weights, `None` when it is not there and will not be.
    pub fn beside(&self, name: &str) -> Option<Beside> {
        match &self.planned {
            Some(planned) => planned.get(name).cloned(),
            None => Some(self.dir.join(name)).filter(|path| path.is_file()).map(Beside::At),
        }
    }
}

fn file(shard: &ShardLayout) -> CheckpointFile {
    let json = shard.header.get(LENGTH_BYTES..).unwrap_or_default();
    CheckpointFile {
        name: shard.file_name.clone(),
        path: Path::new(NOWHERE).join(&shard.file_name),
        bytes: shard.bytes,
        header_digest: digest_bytes(json),
        modified_ns: 0,
        file: None,
    }
}

fn info(tensor: &ShardTensor) -> TensorInfo {
    TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), start: tensor.start, bytes: tensor.bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, ShardFile, layout_shards};

    fn layouts() -> Vec<ShardLayout> {
        let tensor = |name: &str, dtype| (name.to_owned(), dtype, vec![3, 2]);
        layout_shards(vec![tensor("a", Dtype::BF16), tensor("b", Dtype::F32), tensor("c", Dtype::BF16)], 40)
    }

    fn write(dir: &Path, layouts: &[ShardLayout]) {
        for layout in layouts {
            let shard = ShardFile::create(dir, layout).unwrap();
            layout.tensors.iter().for_each(|t| shard.write_at(t.start, &[t.name.as_bytes()[0]; 12]).unwrap());
        }
        let map: serde_json::Map<String, serde_json::Value> = layouts
            .iter()
            .flat_map(|l| l.tensors.iter().map(|t| (t.name.clone(), l.file_name.clone().into())))
            .collect();
        let index = serde_json::json!({"weight_map": map}).to_string();
        std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
        std::fs::write(dir.join("config.json"), "{\"a\": 1.5}").unwrap();
    }

    #[test]
    fn what_is_planned_is_what_opening_it_gives() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &layouts());
        let opened = Checkpoint::open(dir.path(), &Access::Anywhere).unwrap();
        let mut planned = Checkpoint::planned(&layouts(), b"{\"a\": 1.5}", BTreeMap::new()).unwrap();
        assert_eq!((&planned.tensors, &planned.config), (&opened.tensors, &opened.config));
        let files = |c: &Checkpoint| -> Vec<(String, u64, String)> {
            c.files.iter().map(|f| (f.name.clone(), f.bytes, f.header_digest.clone())).collect()
        };
        assert_eq!(files(&planned), files(&opened));
        let mut bytes = [0; 12];
        assert!(planned.is_planned() && planned.read_at(&planned.tensors["b"], 0, &mut bytes).is_err());
        planned.open_written(dir.path()).unwrap();
        planned.read_at(&planned.tensors["b"], 0, &mut bytes).unwrap();
        assert_eq!((planned.is_planned(), bytes), (false, [b'b'; 12]));
    }

    #[test]
    fn something_else_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let other = layout_shards(vec![("x".into(), Dtype::F32, vec![9])], 40);
        std::fs::create_dir_all(dir.path()).unwrap();
        let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let renamed: Vec<_> =
            names.map(|n| ShardLayout { file_name: n.into(), ..other[0].clone() }).into_iter().collect();
        write(dir.path(), &renamed);
        let mut planned = Checkpoint::planned(&layouts(), b"{}", BTreeMap::new()).unwrap();
        let error = planned.open_written(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not what was planned"), "{error}");
    }

    #[test]
    fn files_beside_it_are_copies_or_content_and_nothing_else_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copied.json");
        std::fs::write(&path, "[1]").unwrap();
        let content = Beside::Content(Arc::from(&b"[2]"[..]));
        let beside = BTreeMap::from([("a.json".to_owned(), Beside::At(path)), ("b.json".to_owned(), content)]);
        let planned = Checkpoint::planned(&layouts(), b"{}", beside).unwrap();
        let json = |name| planned.json(name, &Access::Anywhere).unwrap();
        assert_eq!(
            [json("a.json"), json("b.json"), json("copied.json")],
            [Some(serde_json::json!([1])), Some(serde_json::json!([2])), None]
        );
        let elsewhere = Access::Under(vec![dir.path().join("nowhere")]);
        assert!(planned.json("a.json", &elsewhere).is_err() && planned.json("b.json", &elsewhere).is_ok());
        assert!(planned.beside("a.json").is_some() && planned.beside("c.json").is_none());
    }
}
