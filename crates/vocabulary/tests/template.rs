//! Chat templates: what is known, what parses, and what the well-known ones write.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value as Message, context};
use serde_json::json;
use vocabulary::{ChatTemplate, VocabularyError, check_template, markers, most_frequent, template_in};

fn text(name: &str) -> String {
    match ChatTemplate::parse(name).unwrap() {
        ChatTemplate::Text(text) => text.into_owned(),
        ChatTemplate::Auto => panic!("{name} is no text"),
    }
}

fn render(name: &str, messages: &[(&str, &str)], add_generation_prompt: bool) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap());
    environment.add_function("raise_exception", |what: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, what))
    });
    let message = |(role, content): &(&str, &str)| Message::from_pairs([("role", *role), ("content", *content)]);
    let messages: Vec<Message> = messages.iter().map(message).collect();
    environment
        .render_str(&text(name), context! { messages, add_generation_prompt, bos_token => "<s>", eos_token => "</s>" })
}

const TALK: &[(&str, &str)] = &[("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye")];

#[test]
fn well_known_templates_write_the_formats_of_their_models() {
    for (name, expected) in [
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "<s>[INST] Be brief.\n\nHi [/INST] Hello!</s>[INST] Bye [/INST]"),
        (
            "alpaca",
            "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello!</s>\n\n### Instruction:\nBye\n\n### Response:\n",
        ),
        (
            "exaone",
            "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello![|endofturn|]\n[|user|]Bye\n[|assistant|]",
        ),
    ] {
        assert_eq!(render(name, TALK, true).unwrap(), expected, "{name}");
    }
}

#[test]
fn without_a_prompt_for_the_answer_the_talk_ends_where_it_ends() {
    for (name, expected) in [
        ("chatml", "<|im_start|>user\nHi<|im_end|>\n"),
        ("llama3", "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"),
        ("mistral", "<s>[INST] Hi [/INST]"),
        (
            "alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nHi\n\n",
        ),
        ("exaone", "[|system|][|endofturn|]\n[|user|]Hi\n"),
    ] {
        assert_eq!(render(name, &[("user", "Hi")], false).unwrap(), expected, "{name}");
    }
}

#[test]
fn roles_that_a_format_lacks_are_refused_when_rendered() {
    for name in ["mistral", "alpaca"] {
        assert!(render(name, &[("tool", "42")], false).unwrap_err().to_string().contains("not tool"), "{name}");
    }
}

#[test]
fn a_template_that_does_not_parse_says_where() {
    let error = ChatTemplate::parse("{{ bos_token }}\n{% for m in messages %}\n{{ m.content }").unwrap_err();
    assert!(matches!(error, VocabularyError::Template { line: 3, .. }), "{error:?}");
    for broken in ["{% if %}", "{% endfor %}", "{{ 'a }}", "{% block %}", "{{ messages[ }}"] {
        assert!(ChatTemplate::parse(broken).is_err(), "{broken}");
    }
}

#[test]
fn a_word_that_is_no_template_is_refused_with_those_there_are() {
    let error = ChatTemplate::parse("chatlm").unwrap_err().to_string();
    let expected = "chat template \"chatlm\" is not known; write one of `auto`, `alpaca`, `chatml`, `exaone`, `llama3`, `mistral`, or the text of a Jinja template";
    assert_eq!(error, expected);
    assert_eq!(ChatTemplate::parse(" auto\n").unwrap(), ChatTemplate::Auto);
}

#[test]
fn what_transformers_renders_parses() {
    for template in [
        "{% for m in messages %}{% generation %}{{ m.content }}{%- endgeneration -%}{% endfor %}",
        "{%- set ns = namespace(found=false) %}{% for m in messages[::-1] %}{% if not ns.found and m.role == 'user' %}{% set ns.found = true %}{% continue %}{% endif %}{% break %}{% endfor %}",
        "{% macro tool(t) %}{{ t.function | tojson(indent=4) }}{% endmacro %}{{ tool(tools[0]) if tools is defined and tools is not none }}",
        "{{ raise_exception('no') if messages|length == 0 else strftime_now('%d %b %Y') }}",
        "{{ 'a' ~ message.content.split('</think>')[-1].lstrip('\\n') }}",
        "{% for k, v in tools.items() %}{{ k + v }}{% endfor %}{% call tool() %}x{% endcall %}{% filter trim %} y {% endfilter %}",
    ] {
        check_template(template).unwrap_or_else(|error| panic!("{template}: {error}"));
    }
}

#[test]
fn templates_without_end_or_bottom_are_refused_not_followed() {
    assert!(check_template(&"{{ ".repeat(100_000)).is_err());
    assert!(check_template(&format!("{{{{ {} }}}}", "(".repeat(100_000))).is_err());
    assert!(check_template(&"{% if a %}".repeat(20_000)).is_err());
    assert!(check_template(&"{% generation ".repeat(50_000)).is_err());
    let long = "x".repeat(vocabulary::limits::TEMPLATE_BYTES_MAX + 1);
    assert!(matches!(check_template(&long), Err(VocabularyError::TemplateTooLong { .. })));
    assert!(markers(&"<|".repeat(400_000)).is_empty());
    assert!(markers("{{ '<|>' }} [|] <||> [||]").is_empty());
}

#[test]
fn the_most_frequent_template_counts_without_its_blanks() {
    assert_eq!(most_frequent(&["a", " b\n", "b", "c"]), Some("b"));
    assert_eq!(most_frequent(&["a", "b"]), Some("a"));
    assert_eq!(most_frequent(&["{% broken", "{% broken", "b"]), Some("b"));
    assert_eq!(most_frequent(&["", " "]), None);
}

#[test]
fn of_several_named_templates_the_default_counts() {
    let named = json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
    assert_eq!(template_in(&named), Some("d"));
    assert_eq!(template_in(&json!({"chat_template": "x"})), Some("x"));
    for none in [json!({}), json!([]), json!({"chat_template": 3}), json!({"chat_template": [{"name": "rag"}]})] {
        assert_eq!(template_in(&none), None);
    }
}

#[test]
fn markers_are_what_looks_like_a_special_token() {
    let found = markers("<|im_start|>{{ a }}<|im_end|>[|user|] <| |> [|a b|] <|im_end|> {{ '<|' + role + '|>' }}");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["<|im_end|>", "<|im_start|>", "[|user|]"]);
}
