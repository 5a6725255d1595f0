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
    let is_in_query = query.iter().any(|(key, value)| is_hidden_in(key) || is_hidden_in(value));
    if is_in_query { Err(refused()) } else { refuse_body(body) }
}

/// Refuses a body that holds a key.
pub(crate) fn refuse_body(body: &[u8]) -> Result<()> {
    if is_hidden_in(&String::from_utf8_lossy(body)) { Err(refused()) } else { Ok(()) }
}

fn refused() -> Problem {
    let detail = "the request holds what looks like an API key or token; it would be kept and shown with the job. Take it out, \
                  and revoke it if others may have seen it";
    Problem::new(Code::InvalidRequest, detail)
}

/// As it stands, or as JSON, YAML or a URL would read it.
fn is_hidden_in(text: &str) -> bool {
    is_in(text) || (text.contains(['\\', '%']) && is_in(&unescaped(text)))
}

/// The text with its escapes read: `\u0061`, `\x61`, `\U00000061`, `%61`, and a line that a backslash joins to the next.
fn unescaped(text: &str) -> String {
    let mut read = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '%']) {
        read.push_str(&rest[..at]);
        rest = &rest[at..];
        let (prefix, digits) = match rest.as_bytes() {
            [b'%', ..] => (1, 2),
            [b'\\', b'x', ..] => (2, 2),
            [b'\\', b'u', ..] => (2, 4),
            [b'\\', b'U', ..] => (2, 8),
            [b'\\', b'\n', ..] => {
                rest = rest[2..].trim_start_matches([' ', '\t']);
                continue;
            }
            _ => (1, 0),
        };
        let number = rest.get(prefix..prefix + digits).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match number.and_then(char::from_u32) {
            Some(character) => {
                read.push(character);
                rest = &rest[prefix + digits..];
            }
            None => {
                read.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
    }
    read.push_str(rest);
    read
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
    fn keys_are_found_however_they_are_written() {
        let key = format!("amk_0123456789ab_{}", "0f".repeat(32));
        for hidden in [
            key.replacen('a', "\\u0061", 1),
            key.replacen('a', "\\x61", 1),
            key.replacen('a', "\\U00000061", 1),
            key.replace('_', "%5F"),
            key.replacen("_0", "_\\\n   0", 1),
        ] {
            for text in [hidden.clone(), format!("a: \"{hidden}\""), format!("https://example.org/?k={hidden}&x=%zz\\")]
            {
                assert!(!is_in(&text) && is_hidden_in(&text), "{text}");
            }
        }
        for plain in ["a\\nb", "100 %", "%6", "\\u12", "\\", "ü\\ü%ü", "\\ud800"] {
            assert!(!is_hidden_in(plain));
            assert_eq!(unescaped(plain), plain);
        }
    }

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
