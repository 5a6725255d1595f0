//! The header of a safetensors file. The first line of the input is how many bytes of data follow the header; the rest is
//! the header's JSON.

use checkpoint::Header;

pub fn run(data: &[u8]) {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(after) = String::from_utf8_lossy(&data[..end]).trim().parse::<u32>() else { return };
    let json = &data[end + 1..];
    let file_bytes = 8 + json.len() as u64 + u64::from(after);
    if let Ok(header) = Header::parse(json, file_bytes, "f") {
        assert_covers(&header, file_bytes - u64::from(after));
    }
}

/// The tensors of an accepted header fill the file after it: each byte is of one of them.
fn assert_covers(header: &Header, mut at: u64) {
    for (name, info) in &header.tensors {
        assert_eq!(info.start, at, "{name}");
        assert_eq!(checkpoint::bytes_of(info.dtype, info.elements()), Some(info.bytes), "{name}");
        at += info.bytes;
    }
    assert_eq!(at, header.file_bytes);
}
