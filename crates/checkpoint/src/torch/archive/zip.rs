//! The directory of a zip whose entries are stored as they are, zip64 included.
//!
//! Invariant: both headers of an entry agree on its name, and no two entries share a byte, so that no two readers can
//! see different content in one file.

use std::collections::BTreeMap;

use super::super::Place;
use crate::limits;
use crate::read_at::ReadAt;

pub(super) type Entries = BTreeMap<String, Place>;

const END: &[u8] = b"PK\x05\x06";
const END_BYTES: u64 = 22;
const END_64: &[u8] = b"PK\x06\x06";
const END_64_BYTES: u64 = 56;
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const LOCATOR_64_BYTES: u64 = 20;
const ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_BYTES: u64 = 30;
/// The longest comment that may follow the end record.
const COMMENT_MAX: u64 = 65_535;
const ENCRYPTED: u16 = 1;

/// Every entry by name, with the place of its content.
pub(super) fn entries(source: &dyn ReadAt) -> Result<Entries, String> {
    let directory = find_directory(source)?;
    let mut listed = list(source, &directory)?;
    listed.sort_by_key(|entry| entry.header);
    let mut entries = Entries::new();
    let mut free = 0;
    for entry in listed {
        let place = locate(source, &entry)?;
        if entry.header < free || place.start + place.bytes > directory.start {
            return Err(format!("entry {:?} overlaps another or the directory", entry.name));
        }
        free = place.start + place.bytes;
        if entries.insert(entry.name.clone(), place).is_some() {
            return Err(format!("entry {:?} occurs twice", entry.name));
        }
    }
    Ok(entries)
}

#[derive(Debug)]
struct Directory {
    start: u64,
    bytes: u64,
    count: u64,
}

/// An entry as the directory lists it.
#[derive(Debug)]
struct Listed {
    name: String,
    /// Where its local header is.
    header: u64,
    bytes: u64,
}

fn find_directory(source: &dyn ReadAt) -> Result<Directory, String> {
    let (end, end_at) = find_end(source)?;
    let directory = match find_end_64(source, end_at)? {
        Some(found) => found,
        None => {
            Directory { start: u32_at(&end, 16).into(), bytes: u32_at(&end, 12).into(), count: u16_at(&end, 10).into() }
        }
    };
    let inside = directory.start.checked_add(directory.bytes).is_some_and(|after| after <= end_at);
    if !inside || directory.bytes > limits::ZIP_DIRECTORY_BYTES_MAX {
        return Err(format!("has a zip directory of {} bytes that does not fit", directory.bytes));
    }
    Ok(directory)
}

/// The end record, which may be followed by a comment only.
fn find_end(source: &dyn ReadAt) -> Result<(Vec<u8>, u64), String> {
    let window = source.len().min(END_BYTES + COMMENT_MAX);
    let from = source.len() - window;
    let tail = read(source, from, window)?;
    let is_end = |at: &usize| {
        tail[*at..].starts_with(END) && usize::from(u16_at(&tail, at + 20)) == tail.len() - at - END_BYTES as usize
    };
    let at = tail.len().checked_sub(END_BYTES as usize).and_then(|last| (0..=last).rev().find(is_end));
    let at = at.ok_or("is a zip without end; it is cut off")?;
    Ok((tail[at..].to_vec(), from + at as u64))
}

fn find_end_64(source: &dyn ReadAt, end_at: u64) -> Result<Option<Directory>, String> {
    let Some(locator_at) = end_at.checked_sub(LOCATOR_64_BYTES) else { return Ok(None) };
    let locator = read(source, locator_at, LOCATOR_64_BYTES)?;
    if !locator.starts_with(LOCATOR_64) {
        return Ok(None);
    }
    let at = u64_at(&locator, 8);
    let fits = at.checked_add(END_64_BYTES).is_some_and(|after| after <= locator_at);
    let record = if fits { read(source, at, END_64_BYTES)? } else { Vec::new() };
    if !record.starts_with(END_64) {
        return Err("has a zip64 locator that leads nowhere".to_owned());
    }
    Ok(Some(Directory { start: u64_at(&record, 48), bytes: u64_at(&record, 40), count: u64_at(&record, 32) }))
}

fn list(source: &dyn ReadAt, directory: &Directory) -> Result<Vec<Listed>, String> {
    let bytes = read(source, directory.start, directory.bytes)?;
    if directory.count > bytes.len() as u64 / ENTRY_BYTES as u64 {
        return Err(format!("says it has {} entries, for which its directory is too short", directory.count));
    }
    let mut listed = Vec::with_capacity(directory.count as usize);
    let mut rest = bytes.as_slice();
    for _ in 0..directory.count {
        let (entry, after) = list_one(rest)?;
        listed.push(entry);
        rest = after;
    }
    if rest.is_empty() { Ok(listed) } else { Err("has a zip directory longer than its entries".to_owned()) }
}

fn list_one(bytes: &[u8]) -> Result<(Listed, &[u8]), String> {
    let short = || "has a zip directory that is cut off".to_owned();
    if bytes.len() < ENTRY_BYTES || !bytes.starts_with(ENTRY) {
        return Err(short());
    }
    let (fixed, rest) = bytes.split_at(ENTRY_BYTES);
    let (name, rest) = rest.split_at_checked(u16_at(fixed, 28).into()).ok_or_else(short)?;
    let (extra, rest) = rest.split_at_checked(u16_at(fixed, 30).into()).ok_or_else(short)?;
    let (_, rest) = rest.split_at_checked(u16_at(fixed, 32).into()).ok_or_else(short)?;
    let name = std::str::from_utf8(name).map_err(|_| "has an entry whose name is no UTF-8".to_owned())?.to_owned();
    if u16_at(fixed, 10) != 0 || u16_at(fixed, 8) & ENCRYPTED != 0 {
        return Err(format!(
            "entry {name:?} is compressed or encrypted, which torch.save never does; unzip and zip it with storing only"
        ));
    }
    let mut wide = Wide::find(extra);
    let content = wide.or(u32_at(fixed, 24))?;
    let packed = wide.or(u32_at(fixed, 20))?;
    let header = wide.or(u32_at(fixed, 42))?;
    if content != packed {
        return Err(format!("entry {name:?} has {packed} bytes of which {content} are content"));
    }
    Ok((Listed { name, header, bytes: content }, rest))
}

/// The zip64 field of an entry: 8 bytes for each number that did not fit its place, in the order of the places.
struct Wide<'a>(&'a [u8]);

impl<'a> Wide<'a> {
    fn find(mut extra: &'a [u8]) -> Wide<'a> {
        while let Some((head, rest)) = extra.split_at_checked(4) {
            let length = usize::from(u16_at(head, 2)).min(rest.len());
            if u16_at(head, 0) == 1 {
                return Wide(&rest[..length]);
            }
            extra = &rest[length..];
        }
        Wide(&[])
    }

    fn or(&mut self, narrow: u32) -> Result<u64, String> {
        if narrow != u32::MAX {
            return Ok(narrow.into());
        }
        let (number, rest) = self.0.split_at_checked(8).ok_or("has an entry whose zip64 numbers are missing")?;
        self.0 = rest;
        Ok(u64_at(number, 0))
    }
}

/// Goes by the local header to the content.
fn locate(source: &dyn ReadAt, entry: &Listed) -> Result<Place, String> {
    let header = read(source, entry.header, LOCAL_BYTES + entry.name.len() as u64)?;
    if !header.starts_with(LOCAL)
        || u16_at(&header, 26) as usize != entry.name.len()
        || !header.ends_with(entry.name.as_bytes())
    {
        return Err(format!("entry {:?} has another name where it is stored", entry.name));
    }
    let start = entry.header + header.len() as u64 + u64::from(u16_at(&header, 28));
    match start.checked_add(entry.bytes) {
        Some(end) if end <= source.len() => Ok(Place { start, bytes: entry.bytes }),
        _ => Err(format!("entry {:?} is longer than the file", entry.name)),
    }
}

fn read(source: &dyn ReadAt, start: u64, bytes: u64) -> Result<Vec<u8>, String> {
    if start.checked_add(bytes).is_none_or(|end| end > source.len()) {
        return Err("is a zip that leads out of its file; it is cut off or damaged".to_owned());
    }
    let mut buffer = vec![0; bytes as usize];
    source.read_exact_at(&mut buffer, start).map_err(|e| format!("cannot be read: {e}"))?;
    Ok(buffer)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
