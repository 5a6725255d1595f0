//! JSON values written as block YAML: a writer is less than a second YAML library would be.
//!
//! Invariant: what is not plain beyond doubt is written as a JSON string, which is YAML too.

use serde_json::Value;

/// Words that YAML 1.1 or 1.2 takes for something else than text.
const RESERVED: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// The value as a YAML document, which reads back as it was.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

/// Writes whole lines, indented.
fn block(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                entry(&format!("{}:", scalar(key)), value, indent, text);
            }
        }
        Value::Array(list) if !list.is_empty() => list.iter().for_each(|value| entry("-", value, indent, text)),
        _ => line(&inline(value), indent, text),
    }
}

fn entry(start: &str, value: &Value, indent: usize, text: &mut String) {
    let is_nested =
        value.as_object().is_some_and(|map| !map.is_empty()) || value.as_array().is_some_and(|l| !l.is_empty());
    if is_nested {
        line(start, indent, text);
        block(value, indent + 2, text);
    } else {
        line(&format!("{start} {}", inline(value)), indent, text);
    }
}

fn line(content: &str, indent: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', indent));
    text.push_str(content);
    text.push('\n');
}

fn inline(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), scalar)
}

fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " _-./,;()`'".contains(c))
        && !text.ends_with(' ')
        && !RESERVED.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let value = json!({
            "": {}, "a: b": [], "#": [[1, [2]], {"x": {"y": null}}], "no": "on", "200": "200", "$ref": "#/a",
            "texts": ["", " ", "a ", "- a", "a: b", "a #b", "true", "1e3", "~", "line\nline\t\"\\", "\u{e9}\u{1f600}", "/a/{b}"],
            "numbers": [0, -1, 1.5, true],
        });
        let read: Value = serde_yaml::from_str(&to_yaml(&value)).unwrap();
        assert_eq!(read, value);
    }
}
