//! The header of one safetensors file.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use crate::{CheckpointError, bytes_of, limits};

/// What a header says of one tensor, with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    /// Offset of the first byte from the start of the file.
    pub start: u64,
    pub bytes: u64,
}

impl TensorInfo {
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    pub tensors: Vec<(String, TensorInfo)>,
    /// SHA-256 of the header's bytes: part of a source's identity.
    pub digest: String,
    pub file_bytes: u64,
}

impl Header {
    /// Reads and checks the header of `file`; `name` is for messages.
    pub fn read(file: &File, name: &str) -> Result<Header, CheckpointError> {
        let file_bytes = file.metadata().map_err(CheckpointError::io(name))?.len();
        let mut prefix = [0; 8];
        if file_bytes < 8 {
            return Err(CheckpointError::malformed(
                name,
                format!("{file_bytes} bytes are too few for a safetensors file"),
            ));
        }
        file.read_exact_at(&mut prefix, 0).map_err(CheckpointError::io(name))?;
        let length = u64::from_le_bytes(prefix);
        if length > limits::HEADER_BYTES_MAX || length > file_bytes - 8 {
            let reason = format!(
                "says its header has {length} bytes, in a file of {file_bytes}; it is cut off or no safetensors file"
            );
            return Err(CheckpointError::malformed(name, reason));
        }
        let mut json = vec![0; length as usize];
        file.read_exact_at(&mut json, 8).map_err(CheckpointError::io(name))?;
        Header::parse(&json, file_bytes, name)
    }

    /// Checks header text against the length of its file: names once, known dtypes, no hole, no overlap, nothing over.
    pub fn parse(json: &[u8], file_bytes: u64, name: &str) -> Result<Header, CheckpointError> {
        let malformed = |reason: String| CheckpointError::malformed(name, reason);
        let entries: Entries = serde_json::from_slice(json).map_err(|e| malformed(format!("malformed header: {e}")))?;
        let data_start = 8 + json.len() as u64;
        let mut tensors = Vec::with_capacity(entries.0.len());
        for (tensor, entry) in entries.0 {
            let info = entry
                .place(data_start)
                .ok_or_else(|| malformed(format!("tensor {tensor:?}: shape and data_offsets disagree")))?;
            tensors.push((tensor, info));
        }
        check_contiguous(&mut tensors, data_start, file_bytes).map_err(malformed)?;
        Ok(Header { tensors, digest: crate::digest_bytes(json), file_bytes })
    }
}

fn check_contiguous(tensors: &mut [(String, TensorInfo)], data_start: u64, file_bytes: u64) -> Result<(), String> {
    tensors.sort_by_key(|(_, info)| (info.start, info.bytes));
    let mut expected = data_start;
    for (tensor, info) in tensors.iter() {
        if info.start != expected {
            let what = if info.start < expected { "overlaps the tensor before it" } else { "leaves a hole before it" };
            return Err(format!("tensor {tensor:?} {what}"));
        }
        expected += info.bytes;
    }
    if expected != file_bytes {
        return Err(format!(
            "tensors end at byte {expected} of {file_bytes}; the file is cut off or has bytes that no tensor owns"
        ));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Entry {
    fn place(self, data_start: u64) -> Option<TensorInfo> {
        let elements = self.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
        let (start, end) = self.data_offsets;
        let bytes = end.checked_sub(start)?;
        data_start.checked_add(end)?;
        (bytes_of(self.dtype, elements)? == bytes).then_some(())?;
        Some(TensorInfo { dtype: self.dtype, shape: self.shape, start: data_start.checked_add(start)?, bytes })
    }
}

/// The header's map, read by hand because serde_json would keep the last of two equal names.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        use serde::de::Error;
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("the name {name:?} occurs twice")));
            }
            if name == "__metadata__" {
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            }
            if entries.len() == limits::TENSORS_MAX {
                return Err(A::Error::custom(format!("more than {} tensors", limits::TENSORS_MAX)));
            }
            entries.push((name, map.next_value()?));
        }
        Ok(Entries(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, data_bytes: u64) -> Result<Header, String> {
        Header::parse(json.as_bytes(), 8 + json.len() as u64 + data_bytes, "f").map_err(|e| e.to_string())
    }

    #[test]
    fn a_sound_header_gives_places_in_the_file() {
        let json = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}"#;
        let header = parse(json, 12).unwrap();
        let starts: Vec<_> =
            header.tensors.iter().map(|(n, i)| (n.as_str(), i.start - 8 - json.len() as u64)).collect();
        assert_eq!(starts, [("a", 0), ("b", 4)]);
    }

    #[test]
    fn every_lie_in_a_header_is_refused() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let two = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
            )
        };
        let duplicate = r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
        let cases = [
            (one("F32", "[2]", "[0,4]"), 4, "disagree"),
            (one("F32", "[18446744073709551615,18446744073709551615]", "[0,4]"), 4, "disagree"),
            (one("F32", "[1]", "[4,0]"), 4, "disagree"),
            (one("F33", "[1]", "[0,4]"), 4, "malformed header"),
            (one("F32", "[-1]", "[0,4]"), 4, "malformed header"),
            (one("F32", "[1]", "[4,8]"), 8, "hole"),
            (one("F32", "[1]", "[0,4]"), 9, "cut off"),
            (two("[0,4]", "[2,6]"), 8, "overlaps"),
            (two("[0,4]", "[5,9]"), 9, "hole"),
            (duplicate.to_owned(), 0, "occurs twice"),
            ("[]".to_owned(), 0, "malformed header"),
            ("{".to_owned(), 0, "malformed header"),
        ];
        for (json, data, expected) in cases {
            let error = parse(&json, data).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn a_header_longer_than_its_file_is_refused_before_allocation() {
        let dir = tempfile::tempdir().unwrap();
        for content in [&u64::MAX.to_le_bytes()[..], &[200, 0, 0, 0, 0, 0, 0, 0, b'{'], b"abc", b""] {
            let path = dir.path().join("x.safetensors");
            std::fs::write(&path, content).unwrap();
            let error = Header::read(&File::open(&path).unwrap(), "x.safetensors").unwrap_err();
            assert!(matches!(error, CheckpointError::Malformed { .. }), "{error}");
        }
    }
}
