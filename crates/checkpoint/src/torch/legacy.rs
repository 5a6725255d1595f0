//! The format before torch 1.6: five pickles one after the other, then the storages.

use std::collections::HashMap;

use super::state_dict::state_dict;
use super::{Place, TorchFile, read_bytes};
use crate::pickle::{self, Object, Pickle, Storage, Value, shorten};
use crate::read_at::ReadAt;
use crate::{bytes_of, limits};

/// 0x1950a86a20f9469cfc6c, the lowest byte first.
const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;
/// Before the bytes of a storage stands how many elements it has.
const COUNT_BYTES: u64 = 8;

pub(super) fn read(source: &dyn ReadAt) -> Result<TorchFile, String> {
    let window = Place { start: 0, bytes: source.len().min(limits::PICKLE_BYTES_MAX) };
    let bytes = read_bytes(source, window, "the pickle")?;
    let magic = pickle::read(&bytes, 0)?;
    if magic.value != Value::Wide(MAGIC) {
        return Err("is a pickle that torch.save did not write".to_owned());
    }
    let version = pickle::read(&bytes, magic.end)?;
    if version.value != Value::Int(VERSION) {
        return Err("is of a version of torch.save that is not known".to_owned());
    }
    let system = pickle::read(&bytes, version.end)?;
    check_order(&system)?;
    let content = pickle::read(&bytes, system.end)?;
    let keys = pickle::read(&bytes, content.end)?;
    let places = places(source, &content, &keys)?;
    let find = |storage: &Storage<'_>| {
        let place = places.get(storage.key);
        place.copied().ok_or_else(|| format!("has no bytes for storage {:?}", shorten(storage.key)))
    };
    state_dict(&content, &find)
}

fn check_order(system: &Pickle<'_>) -> Result<(), String> {
    let Some(Object::Dict(entries)) = system.object(system.value) else {
        return Err("does not say on what system it was made".to_owned());
    };
    match entries.iter().find(|(key, _)| *key == Value::Text("little_endian")) {
        Some((_, Value::Bool(true))) => Ok(()),
        _ => Err("is not of little-endian bytes; save it again on the machine that made it".to_owned()),
    }
}

/// The storages lie one after the other in the order of the keys.
fn places<'a>(source: &dyn ReadAt, content: &Pickle<'a>, keys: &Pickle<'a>) -> Result<HashMap<&'a str, Place>, String> {
    let widths = widths(content)?;
    let Some(Object::List(list)) = keys.object(keys.value) else {
        return Err("has no list of storages".to_owned());
    };
    let mut at = keys.end as u64;
    let mut places = HashMap::new();
    for key in list {
        let Value::Text(key) = key else { return Err("has a storage whose key is no text".to_owned()) };
        let (width, expected) =
            widths.get(key).ok_or_else(|| format!("has a storage {:?} that no tensor is in", shorten(key)))?;
        let mut count = [0; COUNT_BYTES as usize];
        source.read_exact_at(&mut count, at).map_err(|_| "is cut off".to_owned())?;
        let count = u64::from_le_bytes(count);
        let place = count.checked_mul(*width).map(|bytes| Place { start: at + COUNT_BYTES, bytes });
        let end = place.and_then(|p| p.start.checked_add(p.bytes)).filter(|end| *end <= source.len());
        let (Some(place), Some(end)) = (place, end) else { return Err("is cut off".to_owned()) };
        if count != *expected || places.insert(*key, place).is_some() {
            return Err(format!("contradicts itself about storage {:?}", shorten(key)));
        }
        at = end;
    }
    Ok(places)
}

/// Bytes of one element, and how many elements, of each storage that the content speaks of.
fn widths<'a>(content: &Pickle<'a>) -> Result<HashMap<&'a str, (u64, u64)>, String> {
    let mut widths = HashMap::new();
    for object in &content.objects {
        let Object::Storage(storage) = object else { continue };
        let dtype = storage.dtype.ok_or("has a storage without a type")?;
        let width = bytes_of(dtype, 1).ok_or("has elements that fill no bytes")?;
        let said = (width, storage.elements);
        if *widths.entry(storage.key).or_insert(said) != said {
            return Err(format!("contradicts itself about storage {:?}", shorten(storage.key)));
        }
    }
    Ok(widths)
}
