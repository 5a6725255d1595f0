//! The index of a checkpoint of several files.

use checkpoint::Index;

pub fn run(data: &[u8]) {
    let Ok(index) = serde_json::from_slice(data) else { return };
    for suffix in [".safetensors", ".bin"] {
        let Ok(index) = Index::parse(&index, "index", suffix) else { continue };
        assert!(index.weight_map.values().all(|file| index.files.binary_search(file).is_ok()));
        for file in &index.files {
            let inside = std::path::Path::new(file).components().count() == 1 && !file.contains('\0');
            assert!(inside && file.ends_with(suffix) && !file.starts_with('.'), "{file:?}");
        }
    }
}
