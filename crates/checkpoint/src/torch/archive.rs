//! The format since torch 1.6: a zip of a pickle and one entry for each storage, none compressed.

mod zip;

use super::state_dict::state_dict;
use super::{Place, TorchFile, read_bytes, storage_bytes};
use crate::pickle::{self, Storage, shorten};
use crate::read_at::ReadAt;

pub(super) fn read(source: &dyn ReadAt) -> Result<TorchFile, String> {
    let entries = zip::entries(source)?;
    let (folder, place) = find_pickle(&entries)?;
    if let Some(order) = entries.get(&format!("{folder}byteorder")) {
        let order = read_bytes(source, *order, "entry byteorder")?;
        if order.trim_ascii() != b"little" {
            return Err("is not of little-endian bytes; save it again on the machine that made it".to_owned());
        }
    }
    let bytes = read_bytes(source, place, "entry data.pkl")?;
    let pickle = pickle::read(&bytes, 0)?;
    state_dict(&pickle, &|storage| find_storage(&entries, folder, storage))
}

/// The one `data.pkl` and the folder it is in, which has the name that the file had when it was made.
fn find_pickle(entries: &zip::Entries) -> Result<(&str, Place), String> {
    let mut pickles = entries.iter().filter_map(|(name, place)| {
        let folder = name.strip_suffix("data.pkl")?;
        (folder.is_empty() || folder.find('/') == Some(folder.len() - 1)).then_some((folder, *place))
    });
    match (pickles.next(), pickles.next()) {
        (Some(found), None) => Ok(found),
        (None, _) => Err("is a zip without data.pkl, so no file of torch.save".to_owned()),
        _ => Err("has more than one data.pkl".to_owned()),
    }
}

fn find_storage(entries: &zip::Entries, folder: &str, storage: &Storage<'_>) -> Result<Place, String> {
    let place = entries.get(&format!("{folder}data/{}", shorten(storage.key)));
    let place = place.ok_or_else(|| format!("has no entry for storage {:?}", shorten(storage.key)))?;
    match storage_bytes(storage) {
        Some(bytes) if bytes <= place.bytes => Ok(*place),
        _ => Err(format!(
            "storage {:?} has {} bytes, too few for {} elements",
            shorten(storage.key),
            place.bytes,
            storage.elements
        )),
    }
}
