//! `options`: what mergekit takes on its command line, in either spelling (`allow-crimes`, `allow_crimes`).

use super::Decoder;
use crate::limits;
use crate::node::{Kind, Node};
use crate::problem::{escape, nearest};
use crate::types::{Options, UnknownTensors};

/// Options that change the output.
pub(super) const ACTING: &[&str] = &[
    "advice",
    "allow_crimes",
    "allow_missing_tensors",
    "allow_non_finite",
    "copy_tokenizer",
    "out_shard_size",
    "random_seed",
    "safe_serialization",
    "trust_remote_code",
    "unknown_tensors",
    "unsafe_truncate_embeddings",
    "write_model_card",
];

/// Options of mergekit about how it works, not what it makes, and what happens here instead.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("async_write", "every thread writes what it has merged, straight to its place"),
    ("clone_tensors", "every output tensor is written on its own, shared or not"),
    ("cuda", DEVICE),
    ("device", DEVICE),
    ("gpu_rich", DEVICE),
    ("lazy_unpickle", "tensors are always read bit by bit, and pickles are not read at all"),
    ("lora_merge_cache", "no merged copy of a model and its adapter is kept"),
    ("lora_merge_dtype", "arithmetic is always float32, rounded once at the end"),
    ("low_cpu_memory", MEMORY),
    ("multi_gpu", DEVICE),
    ("num_threads", THREADS),
    ("quiet", LOG),
    ("read_to_gpu", DEVICE),
    ("transformers_cache", "where models are kept is set where Amalgam runs"),
    ("verbose", LOG),
    ("write_threads", THREADS),
];
const DEVICE: &str = "which device merges is set where Amalgam runs";
const MEMORY: &str = "memory does not grow with the model; its bound is set where Amalgam runs (`--memory`)";
const THREADS: &str = "how many threads merge is set where Amalgam runs (`--threads`)";
const LOG: &str = "what is logged is set where Amalgam runs (`--log`)";

/// What a number of bytes may end in: powers of 1000, where `B` is mergekit's billion, or of 1024.
const UNITS: &[(&str, f64)] = &[
    ("k", 1e3),
    ("kb", 1e3),
    ("m", 1e6),
    ("mb", 1e6),
    ("b", 1e9),
    ("g", 1e9),
    ("gb", 1e9),
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
];
/// So large that every model is one shard.
const ONE_SHARD: u64 = i64::MAX as u64;

impl Decoder {
    pub(super) fn options(&mut self, node: &Node, pointer: &str) -> Option<Options> {
        let Kind::Map(entries) = &node.kind else {
            self.wrong_type(pointer, node, "a map of options");
            return None;
        };
        if entries.len() > limits::OPTIONS_MAX {
            let detail = format!("has {} options; at most {} are accepted", entries.len(), limits::OPTIONS_MAX);
            self.error(pointer, "too_many", detail);
            return None;
        }
        let mut options = Options::default();
        let mut seen = Vec::new();
        for (key, value) in entries.iter().filter(|(_, value)| value.kind != Kind::Null) {
            let at = format!("{pointer}/{}", escape(&key.name));
            let name = key.name.replace('-', "_");
            if seen.contains(&name) {
                self.error(&at, "conflict", format!("option `{name}` is given twice; keep one spelling"));
                continue;
            }
            // what is found later speaks of the underscored name, and has the place of either
            self.positions.insert(format!("{pointer}/{name}"), value.at);
            match WITHOUT_EFFECT.iter().find(|(known, _)| *known == name) {
                Some((_, instead)) => {
                    self.warn(&at, "no_effect", format!("option `{name}` has no effect: {instead}"));
                }
                None if ACTING.contains(&name.as_str()) => self.option(&mut options, &name, value, &at),
                None => self.unknown_option(&key.name, &at),
            }
            seen.push(name);
        }
        Some(options)
    }

    fn option(&mut self, options: &mut Options, name: &str, node: &Node, at: &str) {
        match name {
            "advice" => self.set(&mut options.advice, node, at),
            "allow_crimes" => self.set(&mut options.allow_crimes, node, at),
            "allow_missing_tensors" => self.set(&mut options.allow_missing_tensors, node, at),
            "allow_non_finite" => self.set(&mut options.allow_non_finite, node, at),
            "copy_tokenizer" => self.set(&mut options.copy_tokenizer, node, at),
            "unsafe_truncate_embeddings" => self.set(&mut options.unsafe_truncate_embeddings, node, at),
            "write_model_card" => self.set(&mut options.write_model_card, node, at),
            "out_shard_size" => options.out_shard_size = self.shard_size(node, at),
            "random_seed" => options.random_seed = self.count(node, at),
            "unknown_tensors" => options.unknown_tensors = self.unknown_tensors(node, at).unwrap_or_default(),
            "safe_serialization" => self.safe_serialization(node, at),
            "trust_remote_code" => self.trust_remote_code(node, at),
            _ => unreachable!("every acting option has its arm"),
        }
    }

    fn set(&mut self, option: &mut bool, node: &Node, at: &str) {
        *option = self.boolean(node, at).unwrap_or(*option);
    }

    fn unknown_option(&mut self, name: &str, at: &str) {
        let known = || ACTING.iter().copied().chain(WITHOUT_EFFECT.iter().map(|(name, _)| *name));
        let advice = match nearest(&name.replace('-', "_"), known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", ACTING.join(", ")),
        };
        let detail = format!("unknown option `{name}`; {advice}");
        if self.lenient { self.warn(at, "unknown_key", detail) } else { self.error(at, "unknown_key", detail) }
    }

    fn safe_serialization(&mut self, node: &Node, at: &str) {
        match self.boolean(node, at) {
            Some(true) => self.warn(at, "no_effect", "the output is always safetensors"),
            Some(false) => self.error(
                at,
                "invalid_value",
                "the output is always safetensors: a pickle runs code when it is loaded; leave `safe_serialization` out",
            ),
            None => {}
        }
    }

    fn trust_remote_code(&mut self, node: &Node, at: &str) {
        if self.boolean(node, at) == Some(true) {
            self.warn(
                at,
                "no_effect",
                "code that comes with a model is never run: tensors are merged by their names and shapes",
            );
        }
    }

    fn unknown_tensors(&mut self, node: &Node, at: &str) -> Option<UnknownTensors> {
        match self.text(node, at)?.as_str() {
            "error" => Some(UnknownTensors::Error),
            "copy" => Some(UnknownTensors::Copy),
            other => {
                let detail = format!("unknown_tensors {other:?} is not known; write `error` or `copy`");
                self.error(at, "invalid_value", detail);
                None
            }
        }
    }

    /// Bytes: a number, or one with a unit. 0 is one shard, as it is for mergekit.
    fn shard_size(&mut self, node: &Node, at: &str) -> Option<u64> {
        let bytes = match &node.kind {
            Kind::Text(text) => bytes_of(text),
            Kind::Number(n) if n.fract() == 0.0 => Some(*n),
            _ => None,
        };
        match bytes {
            Some(bytes) if bytes <= 0.0 => Some(ONE_SHARD),
            Some(bytes) if bytes <= limits::SHARD_BYTES_MAX => Some(bytes as u64),
            _ => {
                self.wrong_type(
                    at,
                    node,
                    "a number of bytes such as 5000000000, 5GB, or 5B for 5 billion; 0 for one shard",
                );
                None
            }
        }
    }
}

fn bytes_of(text: &str) -> Option<f64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = text[unit_at..].trim().to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" => 1.0,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    let number: f64 = text[..unit_at].parse().ok()?;
    Some((number * factor).trunc())
}

#[cfg(test)]
mod tests {
    use crate::types::{Options, UnknownTensors};
    use crate::{Problem, Recipe, Refusal};

    fn parsed(options: &str) -> Result<Recipe, Refusal> {
        Recipe::parse(&format!("merge_method: passthrough\nmodels: [{{model: a}}]\noptions:\n{options}\n"), false)
    }

    fn options(text: &str) -> Options {
        parsed(text).unwrap().options
    }

    fn codes(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|p| p.code.as_str()).collect()
    }

    #[test]
    fn both_spellings_of_mergekit_act() {
        for text in [
            "  {allow-crimes: true, random-seed: 7, copy-tokenizer: false, write-model-card: no}",
            "  {allow_crimes: true, random_seed: 7, copy_tokenizer: false, write_model_card: off}",
        ] {
            let expected = Options {
                allow_crimes: true,
                random_seed: Some(7),
                copy_tokenizer: false,
                write_model_card: false,
                ..Options::default()
            };
            assert_eq!(options(text), expected);
        }
        assert_eq!(options("  {unknown-tensors: copy}").unknown_tensors, UnknownTensors::Copy);
        let cut = "  unsafe_truncate_embeddings: true".replace('_', "-");
        assert!(options(&cut).unsafe_truncate_embeddings);
    }

    #[test]
    fn a_shard_size_is_bytes_in_powers_of_a_thousand() {
        for (text, bytes) in [
            ("5B", 5_000_000_000),
            ("500M", 500_000_000),
            ("1.5GB", 1_500_000_000),
            ("2GiB", 2 << 30),
            ("400", 400),
            ("\"400\"", 400),
            ("0", i64::MAX as u64),
        ] {
            assert_eq!(options(&format!("  out_shard_size: {text}")).out_shard_size, Some(bytes), "{text}");
        }
        for wrong in ["5 parsecs", "GB", "1.2.3GB", "0.5", "1e30", "[1]", "99999999999GB"] {
            let refusal = parsed(&format!("  out_shard_size: {wrong}")).unwrap_err();
            assert_eq!(codes(&refusal.problems), ["invalid_type"], "{wrong}");
        }
    }

    #[test]
    fn what_means_nothing_here_is_a_warning_that_says_what_happens_instead() {
        for (name, _) in super::WITHOUT_EFFECT {
            let recipe = parsed(&format!("  {}: true", name.replace('_', "-"))).unwrap();
            assert_eq!(codes(&recipe.warnings), ["no_effect"], "{name}");
            assert_eq!(recipe.warnings[0].line, Some(4));
            assert_eq!(recipe.options, Options::default());
        }
    }

    #[test]
    fn code_of_models_is_not_run_and_pickles_are_not_written() {
        assert_eq!(codes(&parsed("  safe_serialization: true").unwrap().warnings), ["no_effect"]);
        let refusal = parsed("  safe_serialization: false").unwrap_err();
        assert!(refusal.problems[0].detail.contains("pickle"), "{refusal}");
        assert_eq!(codes(&parsed("  trust_remote_code: true").unwrap().warnings), ["no_effect"]);
        assert!(parsed("  trust_remote_code: false").unwrap().warnings.is_empty());
    }

    #[test]
    fn a_typo_and_a_second_spelling_are_refused() {
        let refusal = parsed("  allow-crime: true\n  random_seed: 1\n  random-seed: 2").unwrap_err();
        assert_eq!(codes(&refusal.problems), ["unknown_key", "conflict"]);
        assert!(refusal.problems[0].detail.contains("did you mean `allow_crimes`?"), "{refusal}");
        assert_eq!(refusal.problems[1].line, Some(6));
    }

    #[test]
    fn a_later_finding_has_the_place_of_either_spelling() {
        let positions = parsed("  out-shard-size: 1").unwrap().positions;
        assert_eq!(positions.problem("/options/out_shard_size", "x", "").line, Some(4));
    }

    #[test]
    fn options_that_are_as_by_default_do_not_change_what_is_recorded() {
        let plain = serde_json::to_value(Options::default()).unwrap();
        let named = options("  {copy_tokenizer: true, write_model_card: true, unknown_tensors: error}");
        assert_eq!(serde_json::to_value(named).unwrap(), plain);
        assert_eq!(plain.as_object().unwrap().len(), 3);
    }
}
