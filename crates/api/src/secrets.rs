//! Keys where none belongs. What a recipe or a label holds is kept, listed and logged, so a key in it would be told to all who
//! may look. One that is recognised is not taken in, and never shown.

use std::borrow::Cow;

use crate::problem::{Code, Problem, Result};
use crate::query::Pairs;

/// How a key begins, and how many characters of it follow at least: those of this server, and tokens of Hugging Face.
const SHAPES: [(&str, usize); 2] = [("amk_", 24), ("hf_", 30)];

const SHOWN: &str = "[secret]";

/// Refuses what holds a key in its query or its body.
pub(crate) fn refuse(query: &Pairs, body: &[u8]) -> Result<()> {
    let is_in_query = query.iter().any(|(key, value)| is_in(key) || is_in(value));
    if !is_in_query && !is_in(&String::from_utf8_lossy(body)) {
        return Ok(());
    }
    let detail = "the request holds what looks like an API key or token; it would be kept and shown with the job. Take it out, \
                  and revoke it if others may have seen it";
    Err(Problem::new(Code::InvalidRequest, detail))
}

pub(crate) fn is_in(text: &str) -> bool {
    find(text).is_some()
}

/// The text with nothing of its keys.
pub(crate) fn redacted(text: &str) -> Cow<'_, str> {
    let Some(mut found) = find(text) else { return Cow::Borrowed(text) };
    let (mut shown, mut rest) = (String::new(), text);
    loop {
        shown.push_str(&rest[..found.0]);
        shown.push_str(SHOWN);
        rest = &rest[found.1..];
        match find(rest) {
            Some(next) => found = next,
            None => break,
        }
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// Where the first key begins and ends.
fn find(text: &str) -> Option<(usize, usize)> {
    SHAPES.iter().filter_map(|(prefix, least)| find_shape(text, prefix, *least)).min()
}

fn find_shape(text: &str, prefix: &str, least: usize) -> Option<(usize, usize)> {
    let is_part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    text.match_indices(prefix).find_map(|(at, _)| {
        let from = at + prefix.len();
        let length = text.as_bytes()[from..].iter().take_while(|b| is_part(b)).count();
        // a longer word that happens to end like a prefix is none
        let is_begin = at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric();
        (is_begin && length >= least).then_some((at, from + length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_the_midst_of_a_text_and_words_are_none() {
        let own = format!("amk_0123456789ab_{}", "0f".repeat(32));
        let hub = format!("hf_{}", "aB3".repeat(12));
        for key in [&own, &hub] {
            for text in [key.clone(), format!("x: \"{key}\", y"), format!("/v1/jobs/{key}/events"), format!("ü{key}ü")]
            {
                assert!(is_in(&text));
                let shown = redacted(&text);
                assert!(shown.contains(SHOWN) && !shown.contains(&key[8..]), "{shown}");
            }
        }
        assert_eq!(redacted(&format!("{own} and {hub}.")), "[secret] and [secret].");
        for word in
            ["", "amk_", "hf_model", "team/hf_llama_7b", "stamk_0123456789ab_0123456789abcdef", "amk_<id>_<secret>"]
        {
            assert!(!is_in(word) && redacted(word) == word, "{word}");
        }
    }
}
