//! Files beside the weights, read whole: those of a source that are not JSON.

use std::io::Read;

use checkpoint::{Access, Beside};

use crate::Source;

/// A file of at most `max` bytes; `None` where there is none that can be read.
pub(crate) fn bytes(source: &Source, name: &str, max: u64, access: &Access) -> Option<Vec<u8>> {
    match source.checkpoint.beside(name)? {
        Beside::Content(content) => (content.len() as u64 <= max).then(|| content.to_vec()),
        Beside::At(path) => {
            let (file, _) = access.open_file(&path).ok()?;
            let bytes = file.metadata().ok()?.len();
            let mut content = Vec::new();
            (bytes <= max).then(|| file.take(bytes).read_to_end(&mut content).ok())??;
            Some(content)
        }
    }
}

pub(crate) fn text(source: &Source, name: &str, max: u64, access: &Access) -> Option<String> {
    String::from_utf8(bytes(source, name, max, access)?).ok()
}
