//! Files of `torch.save` made byte by byte, so that any byte can be wrong.

#![allow(dead_code, reason = "each test file uses its part")]

/// An entry of a zip; what is `None` is as it should be.
#[derive(Clone)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub content: &'a [u8],
    pub local_name: &'a str,
    pub method: u16,
    pub flags: u16,
    /// What the directory says of the content's bytes.
    pub size: Option<u32>,
    /// Where the directory says the local header is.
    pub header: Option<u32>,
}

impl<'a> Entry<'a> {
    pub fn new(name: &'a str, content: &'a [u8]) -> Entry<'a> {
        Entry { name, content, local_name: name, method: 0, flags: 0, size: None, header: None }
    }
}

pub fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut bytes, places) = contents(entries);
    let mut directory = Vec::new();
    for (entry, place) in entries.iter().zip(places) {
        let size = entry.size.unwrap_or(entry.content.len() as u32);
        directory.extend(b"PK\x01\x02\0\0");
        directory.extend(fields(entry, entry.name, size, 0));
        directory.extend([0; 10]);
        directory.extend(entry.header.unwrap_or(place).to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    end(&mut bytes, entries.len() as u16, directory.len() as u32, start);
    bytes
}

/// The same with every number that may be in 64 bits there.
pub fn archive_64(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut bytes, places) = contents(entries);
    let mut directory = Vec::new();
    for (entry, place) in entries.iter().zip(places) {
        directory.extend(b"PK\x01\x02\0\0");
        directory.extend(fields(entry, entry.name, u32::MAX, 28));
        directory.extend([0; 10]);
        directory.extend(u32::MAX.to_le_bytes());
        directory.extend(entry.name.as_bytes());
        directory.extend([1, 0, 24, 0]);
        let size = entry.content.len() as u64;
        directory.extend([size, size, place.into()].iter().flat_map(|number| number.to_le_bytes()));
    }
    let start = bytes.len() as u64;
    bytes.extend(&directory);
    let record = bytes.len() as u64;
    bytes.extend(b"PK\x06\x06");
    bytes.extend([0; 20]);
    let count = entries.len() as u64;
    bytes.extend([count, count, directory.len() as u64, start].iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend(b"PK\x06\x07\0\0\0\0");
    bytes.extend(record.to_le_bytes());
    bytes.extend([1, 0, 0, 0]);
    end(&mut bytes, u16::MAX, u32::MAX, u32::MAX);
    bytes
}

/// Local headers with content, and where each header is.
fn contents(entries: &[Entry<'_>]) -> (Vec<u8>, Vec<u32>) {
    let mut bytes = Vec::new();
    let mut places = Vec::new();
    for entry in entries {
        places.push(bytes.len() as u32);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(fields(entry, entry.local_name, entry.content.len() as u32, 0));
        bytes.extend(entry.local_name.as_bytes());
        bytes.extend(entry.content);
    }
    (bytes, places)
}

fn end(bytes: &mut Vec<u8>, count: u16, directory_bytes: u32, start: u32) {
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([count.to_le_bytes(); 2].concat());
    bytes.extend(directory_bytes.to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
}

/// What both headers of an entry have: version, flags, method, time, checksum, sizes, lengths.
fn fields(entry: &Entry<'_>, name: &str, size: u32, extra: u16) -> Vec<u8> {
    let mut bytes = vec![0; 2];
    bytes.extend(entry.flags.to_le_bytes());
    bytes.extend(entry.method.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(size.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend((name.len() as u16).to_le_bytes());
    bytes.extend(extra.to_le_bytes());
    bytes
}

/// A file of this pickle with one storage, "0", of 96 bytes.
pub fn torch(pickle: &[u8]) -> Vec<u8> {
    archive(&[Entry::new("a/data.pkl", pickle), Entry::new("a/data/0", &[7; 96])])
}

/// A file of the older format: this pickle, then for each storage its key, and how many floats it is said to have.
pub fn legacy(pickle: &[u8], little_endian: bool, storages: &[(&str, u64)]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    bytes.extend(b"\x80\x02}X\x0d\0\0\0little_endian");
    bytes.extend([if little_endian { 0x88 } else { 0x89 }, b's', b'.']);
    bytes.extend(pickle);
    bytes.extend(b"\x80\x02](");
    for (key, _) in storages {
        bytes.extend([b'X', key.len() as u8, 0, 0, 0]);
        bytes.extend(key.as_bytes());
    }
    bytes.extend(b"e.");
    for (_, count) in storages {
        bytes.extend(count.to_le_bytes());
        bytes.extend([7; 96]);
    }
    bytes
}

/// The pickle of a dictionary with one tensor of this name, in a storage of 24 elements.
pub fn named(name: &str, storage: &str) -> Vec<u8> {
    view(name, storage, 0, &[2], &[1])
}

/// The pickle of a dictionary with one tensor, "w", that views a storage of 24 floats.
pub fn tensor(offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    view("w", "FloatStorage", offset, shape, strides)
}

fn view(name: &str, storage: &str, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let mut pickle = vec![0x80, 2, b'}', b'X', name.len() as u8, 0, 0, 0];
    pickle.extend(name.as_bytes());
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage");
    pickle.extend(format!("ctorch\n{storage}\n").into_bytes());
    pickle.extend(b"X\x01\0\0\x000X\x03\0\0\0cpuK\x18tQ");
    pickle.extend(integer(offset));
    for list in [shape, strides] {
        pickle.push(b'(');
        pickle.extend(list.iter().flat_map(|number| integer(*number)));
        pickle.push(b't');
    }
    pickle.extend(b"\x89}tRs.");
    pickle
}

fn integer(number: i32) -> Vec<u8> {
    [b"J", &number.to_le_bytes()[..]].concat()
}
