//! The text of a chat template: parsed, and looked through for special tokens.

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // refused or not, nothing breaks
    let _ = vocabulary::ChatTemplate::parse(text);
    for marker in vocabulary::markers(text) {
        assert!(text.contains(marker) && marker.len() > 4, "{marker:?}");
    }
}
