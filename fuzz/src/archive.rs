//! A zip as torch writes it, of entries that are stored as they are.

/// The bytes of a zip with these entries.
pub fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for (name, content) in entries {
        let header = bytes.len() as u32;
        bytes.extend(b"PK\x03\x04");
        bytes.extend(fields(name, content));
        bytes.extend(name.as_bytes());
        bytes.extend(*content);
        directory.extend(b"PK\x01\x02\0\0");
        directory.extend(fields(name, content));
        directory.extend([0; 10]);
        directory.extend(header.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([(entries.len() as u16).to_le_bytes(); 2].concat());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// What both headers of an entry say: version, flags, method, time, checksum, sizes, lengths.
fn fields(name: &str, content: &[u8]) -> Vec<u8> {
    let size = (content.len() as u32).to_le_bytes();
    [&[0; 14], &size[..], &size, &(name.len() as u16).to_le_bytes(), &[0, 0]].concat()
}
