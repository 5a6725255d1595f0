//! The contract as a page of HTML: every operation by its tag, then every schema.
//!
//! Invariant: what comes from the contract goes through [`escape`]; the page has no script and loads nothing.

use std::fmt::Write;

use axum::http::Method;
use serde_json::{Map, Value, json};

use crate::caller::{Needed, needed};

const STYLE: &str = "\
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:#1c1c1c;background:#fff}\
header,main,nav{max-width:64rem;margin:0 auto;padding:0 1rem}\
nav ul{columns:20rem;padding:0;list-style:none}nav a{text-decoration:none}\
article{border-top:1px solid #ccc;padding:1rem 0}h1{margin-bottom:0}h3{margin:0}\
code,pre{font:14px/1.4 ui-monospace,monospace}code{background:#f2f2f2;padding:0 .2em}\
pre{background:#f2f2f2;padding:.7rem;overflow-x:auto;max-height:30rem}pre code{padding:0}\
table{border-collapse:collapse;width:100%}th,td{border:1px solid #ddd;padding:.3rem .5rem;text-align:left;vertical-align:top}\
th{font-weight:600;background:#f7f7f7}td p{margin:0}a{color:#0b57a4}.method{font-weight:700}.about{color:#555}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}code,pre,th{background:#262626}\
th,td{border-color:#444}article{border-color:#444}a{color:#8ab8ee}.about{color:#aaa}}";

/// Schemas may name each other; an example need not follow for ever.
const SAMPLE_DEPTH_MAX: usize = 6;

pub(crate) fn contract_page(contract: &Value) -> String {
    let (title, version) = (text(&contract["info"]["title"]), text(&contract["info"]["version"]));
    let mut page = String::new();
    page.push_str("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width\">");
    put(
        &mut page,
        format_args!("<title>{} {}</title><style>{STYLE}</style></head><body>\n", escape(title), escape(version)),
    );
    put(&mut page, format_args!("<header><h1>{} {}</h1>\n", escape(title), escape(version)));
    prose(&mut page, &contract["info"]["description"]);
    page.push_str("<p>For programs: <a href=\"/openapi.yaml\">openapi.yaml</a>.</p></header>\n");
    let tags: Vec<&Value> = list(&contract["tags"]).collect();
    contents(&mut page, contract, &tags);
    page.push_str("<main>\n");
    for tag in tags {
        let name = text(&tag["name"]);
        put(&mut page, format_args!("<section id=\"tag-{0}\"><h2>{0}</h2>\n", escape(name)));
        prose(&mut page, &tag["description"]);
        for operation in operations(contract).filter(|operation| operation.tag() == name) {
            operation.show(&mut page, contract);
        }
        page.push_str("</section>\n");
    }
    page.push_str("<section id=\"schemas\"><h2>Schemas</h2>\n");
    for (name, schema) in entries(&contract["components"]["schemas"]) {
        put(&mut page, format_args!("<article id=\"schema-{0}\"><h3>{0}</h3>\n", escape(name)));
        prose(&mut page, &schema["description"]);
        show_schema(&mut page, schema);
        page.push_str("</article>\n");
    }
    page.push_str("</section></main></body></html>\n");
    page
}

fn contents(page: &mut String, contract: &Value, tags: &[&Value]) {
    page.push_str("<nav>\n");
    for tag in tags {
        let name = text(&tag["name"]);
        put(page, format_args!("<h2><a href=\"#tag-{0}\">{0}</a></h2><ul>\n", escape(name)));
        for operation in operations(contract).filter(|operation| operation.tag() == name) {
            let (id, summary) = (escape(operation.id()), escape(text(&operation.value["summary"])));
            put(page, format_args!("<li><a href=\"#op-{id}\">{summary}</a></li>\n"));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("<h2><a href=\"#schemas\">Schemas</a></h2><ul>\n");
    for (name, _) in entries(&contract["components"]["schemas"]) {
        put(page, format_args!("<li><a href=\"#schema-{0}\">{0}</a></li>\n", escape(name)));
    }
    page.push_str("</ul></nav>\n");
}

/// A method of a path.
struct Operation<'a> {
    path: &'a str,
    method: Method,
    value: &'a Value,
}

fn operations(contract: &Value) -> impl Iterator<Item = Operation<'_>> {
    entries(&contract["paths"]).flat_map(|(path, methods)| {
        entries(methods).filter_map(move |(method, value)| {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).ok()?;
            Some(Operation { path, method, value })
        })
    })
}

impl Operation<'_> {
    fn id(&self) -> &str {
        text(&self.value["operationId"])
    }

    fn tag(&self) -> &str {
        text(&self.value["tags"][0])
    }

    fn show(&self, page: &mut String, contract: &Value) {
        let (method, path) = (escape(self.method.as_str()), escape(self.path));
        put(page, format_args!("<article id=\"op-{}\">", escape(self.id())));
        put(page, format_args!("<h3><span class=\"method\">{method}</span> <code>{path}</code></h3>\n"));
        prose(page, &self.value["summary"]);
        prose(page, &self.value["description"]);
        put(
            page,
            format_args!("<p class=\"about\">{}; operation <code>{}</code>.</p>\n", self.key(), escape(self.id())),
        );
        self.show_parameters(page);
        self.show_body(page, contract);
        self.show_responses(page, contract);
        page.push_str("</article>\n");
    }

    /// What it asks of a key.
    fn key(&self) -> String {
        let scope = |scope: jobs::Scope| format!("<code>{}</code>", escape(scope.as_str()));
        match needed(&self.method, self.path) {
            None | Some(Needed::Key) => "Any key".to_owned(),
            Some(Needed::Nothing) => "Asks for no key".to_owned(),
            Some(Needed::Scope(one)) => format!("A key with the scope {}", scope(one)),
            Some(Needed::Either(one, other)) => format!("A key with the scope {} or {}", scope(one), scope(other)),
        }
    }

    fn show_parameters(&self, page: &mut String) {
        if list(&self.value["parameters"]).next().is_none() {
            return;
        }
        page.push_str("<h4>Parameters</h4><table><tr><th>Name</th><th>In</th><th>Type</th><th>What it is</th></tr>\n");
        for parameter in list(&self.value["parameters"]) {
            let name = escape(text(&parameter["name"]));
            let place = escape(text(&parameter["in"]));
            let must = if parameter["required"] == true { ", required" } else { "" };
            put(page, format_args!("<tr><td><code>{name}</code></td><td>{place}{must}</td><td>"));
            page.push_str(&type_of(&parameter["schema"]));
            page.push_str("</td><td>");
            prose(page, &parameter["description"]);
            bounds(page, &parameter["schema"]);
            page.push_str("</td></tr>\n");
        }
        page.push_str("</table>\n");
    }

    fn show_body(&self, page: &mut String, contract: &Value) {
        let body = &self.value["requestBody"];
        if body.is_null() {
            return;
        }
        page.push_str("<h4>Body</h4>\n");
        prose(page, &body["description"]);
        show_content(page, contract, &body["content"]);
    }

    fn show_responses(&self, page: &mut String, contract: &Value) {
        page.push_str("<h4>Responses</h4><table><tr><th>Status</th><th>When</th><th>Body</th></tr>\n");
        let mut responses: Vec<_> = entries(&self.value["responses"]).collect();
        responses.sort_by_key(|(status, _)| *status);
        for (status, response) in &responses {
            put(page, format_args!("<tr><td><code>{}</code></td><td>", escape(status)));
            prose(page, &response["description"]);
            let codes: Vec<String> = list(&response["x-codes"]).map(|code| code_span(text(code))).collect();
            if !codes.is_empty() {
                put(page, format_args!("<p class=\"about\">Codes: {}</p>", codes.join(", ")));
            }
            for (name, header) in entries(&response["headers"]) {
                put(page, format_args!("<p class=\"about\">Header {}: ", code_span(name)));
                page.push_str(&spans(text(&header["description"])));
                page.push_str("</p>");
            }
            page.push_str("</td><td>");
            let bodies: Vec<String> = entries(&response["content"])
                .map(|(kind, media)| format!("{} as {}", type_of(&media["schema"]), code_span(kind)))
                .collect();
            put(page, format_args!("{}</td></tr>\n", bodies.join("; ")));
        }
        page.push_str("</table>\n");
        for (status, response) in responses.iter().filter(|(status, _)| status.starts_with('2')) {
            for (kind, media) in entries(&response["content"]) {
                show_example(page, contract, &format!("{status} as {kind}"), media);
            }
        }
    }
}

fn show_content(page: &mut String, contract: &Value, content: &Value) {
    for (kind, media) in entries(content) {
        put(page, format_args!("<p>{} as {}</p>\n", type_of(&media["schema"]), code_span(kind)));
        show_example(page, contract, kind, media);
    }
}

/// The one that is written down, else one that is made of the schema. A text is shown as it is sent.
fn show_example(page: &mut String, contract: &Value, of: &str, media: &Value) {
    let made;
    let example = match &media["example"] {
        Value::Null => {
            made = sample(contract, &media["schema"], SAMPLE_DEPTH_MAX);
            &made
        }
        written => written,
    };
    let shown = match example {
        Value::Null => return,
        Value::String(text) => text.clone(),
        value if of.ends_with("yaml") => recipe::to_yaml(value),
        value => serde_json::to_string_pretty(value).unwrap_or_default(),
    };
    put(page, format_args!("<details><summary>Example: {}</summary><pre><code>", escape(of)));
    put(page, format_args!("{}</code></pre></details>\n", escape(&shown)));
}

/// A value that fits; null where nothing can be said.
fn sample(contract: &Value, schema: &Value, depth: usize) -> Value {
    if !schema["example"].is_null() || depth == 0 {
        return schema["example"].clone();
    }
    if let Some(named) = resolve(contract, schema) {
        return sample(contract, named, depth - 1);
    }
    if let Some(first) = list(&schema["enum"]).next() {
        return first.clone();
    }
    let parts: Vec<Value> = list(&schema["allOf"]).map(|part| sample(contract, part, depth)).collect();
    if !parts.is_empty() {
        let all = parts.into_iter().filter_map(|part| part.as_object().cloned()).flatten();
        return Value::Object(all.collect::<Map<_, _>>());
    }
    if let Some(one) = list(&schema["oneOf"]).find(|one| one["type"] != "null") {
        return sample(contract, one, depth);
    }
    match types(schema).first().copied() {
        Some("object") => {
            let properties = entries(&schema["properties"]);
            Value::Object(properties.map(|(name, of)| (name.clone(), sample(contract, of, depth - 1))).collect())
        }
        Some("array") => match sample(contract, &schema["items"], depth - 1) {
            Value::Null => json!([]),
            item => json!([item]),
        },
        Some("string") if schema["format"] == "date-time" => json!("2026-01-31T08:00:00.000Z"),
        Some("string") if schema["format"].is_null() => json!("text"),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(false),
        _ => Value::Null,
    }
}

fn resolve<'a>(contract: &'a Value, schema: &Value) -> Option<&'a Value> {
    contract["components"]["schemas"].get(name_of(schema)?)
}

fn name_of(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

fn show_schema(page: &mut String, schema: &Value) {
    if list(&schema["allOf"]).next().is_some() {
        for part in list(&schema["allOf"]) {
            match name_of(part) {
                Some(_) => put(page, format_args!("<p>All of {}, and:</p>\n", type_of(part))),
                None => show_schema(page, part),
            }
        }
        return;
    }
    if schema["properties"].is_null() {
        put(page, format_args!("<p>{}</p>\n", type_of(schema)));
        return bounds(page, schema);
    }
    page.push_str("<table><tr><th>Name</th><th>Type</th><th>What it is</th></tr>\n");
    for (name, property) in entries(&schema["properties"]) {
        let must = list(&schema["required"]).any(|required| required == name.as_str());
        put(page, format_args!("<tr><td>{}{}</td><td>", code_span(name), if must { "" } else { ", may be absent" }));
        page.push_str(&type_of(property));
        page.push_str("</td><td>");
        // of what may be null it stands beside the name of the type
        let about = list(&property["oneOf"]).map(|one| &one["description"]).find(|about| about.is_string());
        prose(page, about.unwrap_or(&property["description"]));
        bounds(page, property);
        page.push_str("</td></tr>\n");
    }
    page.push_str("</table>\n");
}

/// In words, with links to what has a name.
fn type_of(schema: &Value) -> String {
    if let Some(name) = name_of(schema) {
        return format!("<a href=\"#schema-{0}\">{0}</a>", escape(name));
    }
    let several: Vec<String> = list(&schema["oneOf"]).chain(list(&schema["allOf"])).map(type_of).collect();
    if !several.is_empty() {
        return several.join(" or ");
    }
    if list(&schema["enum"]).next().is_some() {
        let values: Vec<String> = list(&schema["enum"]).map(|value| code_span(&shown(value))).collect();
        return values.join(", ");
    }
    let words: Vec<String> = types(schema).into_iter().map(|word| type_word(schema, word)).collect();
    if words.is_empty() { "anything".to_owned() } else { words.join(" or ") }
}

fn type_word(schema: &Value, word: &str) -> String {
    match word {
        "array" => format!("list of {}", type_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", type_of(&schema["additionalProperties"]))
        }
        "string" if !schema["format"].is_null() => format!("string ({})", escape(text(&schema["format"]))),
        other => escape(other),
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        several => list(several).filter_map(Value::as_str).collect(),
    }
}

/// What a type does not say.
fn bounds(page: &mut String, schema: &Value) {
    let mut told = Vec::new();
    for (of, whose) in [(schema, ""), (&schema["items"], "each "), (&schema["additionalProperties"], "each ")] {
        for key in [
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "maxProperties",
            "pattern",
            "default",
        ] {
            if let Some(value) = of.get(key) {
                told.push(format!("{whose}{key} {}", code_span(&shown(value))));
            }
        }
    }
    if let Some(example) = schema.get("example") {
        told.push(format!("as {}", code_span(&shown(example))));
    }
    if !told.is_empty() {
        put(page, format_args!("<p class=\"about\">{}</p>", told.join(", ")));
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Paragraphs, with words in backticks as code.
fn prose(page: &mut String, value: &Value) {
    for paragraph in text(value).split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        put(page, format_args!("<p>{}</p>\n", spans(paragraph)));
    }
}

fn spans(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    // a backtick without its second is a backtick
    let is_paired = parts.len() % 2 == 1;
    let spans = parts.iter().enumerate().map(|(at, part)| if at % 2 == 1 { code_span(part) } else { escape(part) });
    if is_paired { spans.collect() } else { escape(text) }
}

fn code_span(text: &str) -> String {
    format!("<code>{}</code>", escape(text))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn put(page: &mut String, arguments: std::fmt::Arguments<'_>) {
    page.write_fmt(arguments).expect("a string takes what is written to it");
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::contract::document;

    /// Names of tags as they open, checked to close in order.
    fn tags(page: &str) -> Vec<String> {
        let (mut open, mut seen): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        for tag in page.split('<').skip(1).map(|part| part.split_once('>').expect("a tag ends").0) {
            let name = tag.split(' ').next().unwrap();
            if let Some(closed) = name.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(closed));
            } else if !["!doctype", "meta"].contains(&name) {
                let is_block = ["p", "table", "tr", "td", "pre", "details", "section", "article", "ul", "li", "h3"]
                    .contains(&name);
                assert!(!(is_block && open.iter().any(|name| name == "p")), "{name} in a paragraph");
                open.push(name.to_owned());
                seen.push(name.to_owned());
            }
        }
        assert!(open.is_empty(), "{open:?}");
        seen
    }

    fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
        let begin = format!(" {name}=\"");
        page.split(begin.as_str()).skip(1).map(|rest| rest.split_once('"').unwrap().0).collect()
    }

    #[test]
    fn every_operation_and_every_schema_is_on_the_page() {
        let contract = document();
        let page = contract_page(&contract);
        let ids: BTreeSet<&str> = attributes(&page, "id").into_iter().collect();
        assert_eq!(ids.len(), attributes(&page, "id").len(), "an id is there once");
        let all: Vec<_> = operations(&contract).collect();
        assert!(all.len() > 30);
        for operation in all {
            assert!(ids.contains(format!("op-{}", operation.id()).as_str()), "{}", operation.id());
            for parameter in list(&operation.value["parameters"]) {
                assert!(page.contains(&code_span(text(&parameter["name"]))));
            }
        }
        for (name, _) in entries(&contract["components"]["schemas"]) {
            assert!(ids.contains(format!("schema-{name}").as_str()), "{name}");
        }
        for link in attributes(&page, "href") {
            assert!(link == "/openapi.yaml" || ids.contains(link.strip_prefix('#').unwrap_or_default()), "{link}");
        }
    }

    #[test]
    fn the_page_nests_and_takes_nothing_from_elsewhere() {
        let page = contract_page(&document());
        let seen: BTreeSet<String> = tags(&page).into_iter().collect();
        for foreign in ["script", "link", "img", "iframe", "form", "object", "embed", "base"] {
            assert!(!seen.contains(foreign), "{foreign}");
        }
        assert!(!page.contains("<script") && !page.contains("url(") && !page.contains("@import"));
        for name in ["src", "style", "onclick", "onload", "srcset", "action"] {
            assert!(attributes(&page, name).is_empty(), "{name}");
        }
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
    }

    /// The contract has no such texts; what is not escaped would show here all the same.
    #[test]
    fn whatever_the_contract_holds_is_text() {
        const HOSTILE: &str = "<b>\"'&`</b>";
        fn poison(value: &mut Value) {
            match value {
                Value::String(text) => text.push_str(HOSTILE),
                Value::Array(all) => all.iter_mut().for_each(poison),
                Value::Object(all) => {
                    let taken = std::mem::take(all);
                    all.extend(taken.into_iter().map(|(key, mut value)| {
                        poison(&mut value);
                        let is_of_names = key.starts_with(|c: char| c.is_uppercase() || c == '/');
                        (if is_of_names { format!("{key}{HOSTILE}") } else { key }, value)
                    }));
                }
                _ => {}
            }
        }
        let mut contract = document();
        poison(&mut contract);
        let page = contract_page(&contract);
        assert!(!tags(&page).iter().any(|name| name == "b"));
        assert!(page.contains("&lt;b&gt;&quot;&#39;&amp;"));
    }

    #[test]
    fn an_example_of_a_body_fits_its_schema() {
        let contract = document();
        let job = sample(&contract, &json!({"$ref": "#/components/schemas/CreatedJob"}), SAMPLE_DEPTH_MAX);
        assert_eq!((&job["status"], &job["attempt"]), (&json!("queued"), &json!(1)));
        assert!(job["warnings"][0]["pointer"].is_string(), "{job}");
    }
}
