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
        Value::Array(list) if !list.is_empty() => list.iter().for_each(|value| item(value, indent, text)),
        _ => line(&inline(value), indent, text),
    }
}

/// `- ` and what follows on its line: of a map the first entry.
fn item(value: &Value, indent: usize, text: &mut String) {
    if !is_nested(value) {
        return line(&format!("- {}", inline(value)), indent, text);
    }
    let mut nested = String::new();
    block(value, indent + 2, &mut nested);
    line(&format!("- {}", nested.trim_start().trim_end_matches('\n')), indent, text);
}

fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        // numbers as those of a layer range are read at a glance
        Value::Array(list) => list.iter().any(|value| !value.is_number()),
        _ => false,
    }
}

fn entry(start: &str, value: &Value, indent: usize, text: &mut String) {
    if is_nested(value) {
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
    match value {
        Value::String(text) => scalar(text),
        Value::Array(list) => format!("[{}]", list.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
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
    fn a_recipe_is_written_as_people_write_it() {
        let value = json!({"slices": [{"sources": [{"model": "org/a", "layer_range": [0, 8]}]}], "parameters": {"t": [0, 0.5]}});
        let expected = "\
slices:
  - sources:
      - model: org/a
        layer_range: [0, 8]
parameters:
  t: [0, 0.5]
";
        assert_eq!(to_yaml(&value), expected);
    }

    #[test]
    fn what_is_written_reads_back() {
        let value = json!({
            "": {}, "a: b": [], "#": [[1, [2]], {"x": {"y": null}}], "no": "on", "200": "200", "$ref": "#/a",
            "texts": ["", " ", "a ", "- a", "a: b", "a #b", "true", "1e3", "~", "line\nline\t\"\\", "\u{e9}\u{1f600}", "/a/{b}"],
            "numbers": [0, -1, 1.5, true], "range": [0, 8], "lists": [[1, 2], [[], [{"a": [1], "b": [[{}]]}]]],
        });
        let read: Value = serde_yaml::from_str(&to_yaml(&value)).unwrap();
        assert_eq!(read, value);
    }
}
