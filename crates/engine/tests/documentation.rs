//! `docs/methods.md` and `docs/adapters.md` are made from the registry, so that they cannot tell another story.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use engine::methods::{About, Base, Default, Kind, METHODS, Parameter, Scope};

const BEGIN: &str = "<!-- made from the registry: begin -->\n";
const END: &str = "<!-- made from the registry: end -->\n";

#[test]
fn the_methods_page_is_current() {
    assert_current("docs/methods.md", METHODS.iter().map(|m| m.about()).collect());
}

#[test]
fn the_page_of_adapters_is_current() {
    assert_current("docs/adapters.md", engine::adapter_methods());
}

fn assert_current(path: &str, abouts: Vec<About>) {
    let path = testkit::workspace().join(path);
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let current = format!("{before}{BEGIN}{}{END}{after}", made(&abouts));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    assert!(
        page == current || std::env::var_os("UPDATE_DOCS").is_some(),
        "run UPDATE_DOCS=1 cargo test -p engine --test documentation"
    );
}

fn made(abouts: &[About]) -> String {
    let mut text = String::from("\n");
    for about in abouts {
        text += &format!("- [`{}`](#{}): {}\n", about.name, about.name, about.title);
    }
    text.extend(abouts.iter().map(section));
    text
}

fn section(about: &About) -> String {
    let source = if about.source.starts_with("http") { format!("<{}>", about.source) } else { about.source.to_owned() };
    let mut text = format!(
        "\n### {}\n\n{}.\n\n```\n{}\n```\n\nSource: {source}. Inputs: {}. Cost: {}.\n\nWhen: {}.\n",
        about.name,
        about.title,
        about.formula,
        inputs(about),
        serde_json::to_value(about.cost).unwrap().as_str().unwrap().replace('_', " "),
        about.advice,
    );
    if !about.parameters.is_empty() {
        text += "\n| parameter | of | type | default | meaning |\n|---|---|---|---|---|\n";
        text.extend(about.parameters.iter().map(row));
    }
    text
}

fn inputs(about: &About) -> String {
    let count = match (about.inputs.min, about.inputs.max) {
        (min, Some(max)) if min == max => format!("exactly {min}"),
        (min, Some(max)) => format!("{min} to {max}"),
        (min, None) => format!("{min} or more"),
    };
    let base = match about.inputs.base {
        Base::Required => "the base counted, which is required",
        Base::FirstByDefault => "the base counted, by default the first",
        Base::Optional => "a base beside them if wanted",
        Base::Ordinary => "a base is one like the others",
    };
    format!("{count}, {base}")
}

fn row(parameter: &Parameter) -> String {
    let kind = match parameter.kind {
        Kind::Number => "number".to_owned(),
        Kind::Count => "whole number".to_owned(),
        Kind::Boolean => "boolean".to_owned(),
        Kind::Word(words) => words.join(" \\| "),
    };
    let range = parameter.range.map_or(String::new(), |(low, high)| format!(" {low} to {high}"));
    let default = match parameter.default {
        Default::Required => "required".to_owned(),
        Default::WhenSetNowhere(n) => format!("{n} if no model has one, else required"),
        Default::Number(n) => n.to_string(),
        Default::Boolean(b) => b.to_string(),
        Default::Word(word) => word.to_owned(),
        Default::Absent => "not set".to_owned(),
    };
    let scope = match parameter.scope {
        Scope::Shared => "the merge",
        Scope::EachInput => "each model",
        Scope::EachInputButBase => "each model but the base",
    };
    format!("| `{}` | {scope} | {kind}{range} | {default} | {} |\n", parameter.name, parameter.about)
}
