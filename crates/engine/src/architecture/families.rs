//! The data file, read once.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

pub(crate) static FAMILIES: LazyLock<Families> =
    LazyLock::new(|| serde_json::from_str(include_str!("families.json")).expect("a test reads it"));

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Families {
    /// Keys under which configs say how many layers there are.
    pub layer_counts: Vec<String>,
    /// How models of several modules are divided.
    modules: Vec<Division>,
    /// Lists of layer indices in configs.
    pub index_lists: Vec<String>,
    /// How many layers at the start are of another kind.
    pub leading_counts: Vec<String>,
    /// Every how many layers one is of another kind.
    pub periods: Vec<String>,
    /// Lists with one entry a layer that loaders make where a config has none.
    implied_lists: Vec<ImpliedList>,
    /// Lists of layers' numbers that loaders make where a config has none.
    implied_index_lists: Vec<ImpliedIndexList>,
    /// Lists that repeat over the layers.
    pub repeating_lists: Vec<String>,
    /// Texts with one letter a layer.
    pub letter_lists: Vec<String>,
    /// Widths of tensors outside the layers that hold a part for each layer.
    pub per_layer_widths: Vec<String>,
    /// Keys for the first and the last layer of another kind.
    pub first_and_last: Vec<FirstAndLast>,
    /// Model types whose layers share their weights, so that they have fewer than they run.
    shares_layers: Vec<String>,
    tied: Vec<Tie>,
    vocabulary: Vocabulary,
    /// Ends of the names of buffers that loaders make anew.
    pub derived_buffers: Vec<String>,
    pub spellings: Vec<Spelling>,
    /// Names that classes in transformers have changed and files have kept.
    class_names: Vec<ClassNames>,
    /// Model types whose linear layers lie as [in, out].
    turned_layers: Vec<String>,
    /// Linear layers that PEFT puts no factors on.
    no_factors: Vec<Parts>,
    /// What files hold as modules of their own, and classes as parts of others.
    no_module: Vec<Parts>,
    pub old_suffixes: Vec<OldSuffix>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Division {
    /// Keys of the config, any of which says that a model is divided so.
    when: Vec<String>,
    modules: Vec<ModuleRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModuleRule {
    pub name: String,
    pub aliases: Vec<String>,
    /// Words in the names of its tensors; none means all the rest.
    pub parts: Vec<String>,
    /// Parts of the config that may speak of it; the first that is there does.
    pub configs: Vec<String>,
    pub layer_counts: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tie {
    /// The model types that have this one before others; none means any.
    #[serde(default)]
    types: Vec<String>,
    head: String,
    embeddings: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vocabulary {
    /// Segments of names.
    parts: Vec<String>,
    names: Vec<String>,
    except: Vec<String>,
}

/// Every few layers one is of another kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImpliedList {
    types: Vec<String>,
    /// The key under which newer configs list the kinds.
    pub list: String,
    /// Keys that may say how many layers that is.
    intervals: Vec<String>,
    default: u64,
    offset: u64,
    at: Value,
    #[serde(rename = "else")]
    otherwise: Value,
}

impl ImpliedList {
    /// The entry of layer `index`.
    pub fn entry(&self, config: &Value, index: u32) -> Value {
        let is_other = is_nth(config, &self.intervals, self.default, self.offset, index);
        if is_other { self.at.clone() } else { self.otherwise.clone() }
    }
}

/// Every few layers one is in a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImpliedIndexList {
    types: Vec<String>,
    list: String,
    intervals: Vec<String>,
    default: u64,
    offset: u64,
}

impl ImpliedIndexList {
    pub fn has(&self, config: &Value, index: u32) -> bool {
        is_nth(config, &self.intervals, self.default, self.offset, index)
    }
}

fn is_nth(config: &Value, intervals: &[String], default: u64, offset: u64, index: u32) -> bool {
    let said = intervals.iter().find_map(|key| config.get(key)?.as_u64());
    (u64::from(index) + offset).is_multiple_of(said.unwrap_or(default).max(1))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FirstAndLast {
    pub first: String,
    pub last: String,
}

/// How a family's files name what its class names otherwise, the longer names first: a beginning, or, where it begins with
/// a point, a part anywhere.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassNames {
    types: Vec<String>,
    /// In files, and in the class.
    names: Vec<(String, String)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    types: Vec<String>,
    /// Segments of names.
    parts: Vec<String>,
}

impl Parts {
    fn any(list: &[Parts], model_type: &str, name: &str) -> bool {
        let of_type = list.iter().filter(|parts| parts.types.iter().any(|t| t == model_type));
        of_type.flat_map(|parts| &parts.parts).any(|part| name.split('.').any(|segment| segment == part))
    }
}

/// Names of the bare model and of the model under a head differ in a prefix.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spelling {
    pub types: Vec<String>,
    pub prefix: String,
    /// First segments of names without the prefix.
    pub bare: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OldSuffix {
    pub types: Vec<String>,
    pub old: String,
    pub new: String,
}

impl Families {
    /// How a model with this config is divided; `None` for one of a single module.
    pub fn modules_of(&self, config: &Value) -> Option<&[ModuleRule]> {
        let says = |key: &String| config.get(key).is_some_and(|v| v.is_object() || *v == Value::Bool(true));
        self.modules.iter().find(|d| d.when.iter().any(says)).map(|d| d.modules.as_slice())
    }

    /// The list that loaders would make for this config, which has none.
    pub fn implied_list(&self, config: &Value) -> Option<&ImpliedList> {
        let model_type = config.get("model_type")?.as_str()?;
        let implied = self.implied_lists.iter().find(|p| p.types.iter().any(|t| t == model_type))?;
        config.get(&implied.list).is_none_or(Value::is_null).then_some(implied)
    }

    /// The rule of a list of layers' numbers, where this config has no such list.
    pub fn implied_index_list(&self, config: &Value, list: &str) -> Option<&ImpliedIndexList> {
        let model_type = config.get("model_type")?.as_str()?;
        let of_type = |l: &&ImpliedIndexList| l.list == list && l.types.iter().any(|t| t == model_type);
        let implied = self.implied_index_lists.iter().find(of_type)?;
        config.get(list).is_none_or(Value::is_null).then_some(implied)
    }

    pub fn shares_layers(&self, model_type: &str) -> bool {
        self.shares_layers.iter().any(|t| t == model_type)
    }

    /// Tensors that a tied one shares its values with; `None` for names that are never tied.
    pub fn tied_to(&self, name: &str) -> Option<&[String]> {
        self.tied.iter().find(|tie| tie.head == name).map(|tie| tie.embeddings.as_slice())
    }

    /// Names that files may have for what a class calls so now.
    pub fn on_disk(&self, name: &str) -> impl Iterator<Item = String> {
        self.class_names.iter().flat_map(|rule| &rule.names).filter_map(move |(on_disk, in_class)| {
            if in_class.starts_with('.') {
                return name.contains(in_class.as_str()).then(|| name.replacen(in_class.as_str(), on_disk, 1));
            }
            Some(format!("{on_disk}{}", name.strip_prefix(in_class.as_str())?))
        })
    }

    /// What the class of a model type calls a tensor or module of its files.
    pub fn in_class(&self, model_type: &str, name: &str) -> String {
        let mut name = format!("{name}.");
        for rule in self.class_names.iter().filter(|rule| rule.types.iter().any(|t| t == model_type)) {
            let (parts, beginnings): (Vec<_>, Vec<_>) = rule.names.iter().partition(|(old, _)| old.starts_with('.'));
            let is_new = beginnings.iter().any(|(_, new)| name.starts_with(new.as_str()));
            let old = beginnings.iter().find(|(old, _)| !is_new && name.starts_with(old.as_str()));
            if let Some((old, new)) = old {
                name = format!("{new}{}", &name[old.len()..]);
            }
            for (old, new) in parts {
                name = name.replacen(old.as_str(), new, 1);
            }
        }
        name.truncate(name.len() - 1);
        let old = self.old_suffixes.iter().find(|s| s.types.iter().any(|t| t == model_type) && name.ends_with(&s.old));
        match old {
            Some(suffix) => format!("{}{}", &name[..name.len() - suffix.old.len()], suffix.new),
            None => name,
        }
    }

    /// Whether a family's linear layers lie as [in, out].
    pub fn has_turned_layers(&self, model_type: &str) -> bool {
        self.turned_layers.iter().any(|t| t == model_type)
    }

    /// Whether PEFT refuses to put factors on a module.
    pub fn has_no_factors(&self, model_type: &str, module: &str) -> bool {
        Parts::any(&self.no_factors, model_type, module)
    }

    /// Whether a class has no module of this name.
    pub fn is_no_module(&self, model_type: &str, module: &str) -> bool {
        Parts::any(&self.no_module, model_type, module)
    }

    /// Names that models of a family have for a tensor beside its own, with one set of values.
    pub fn ties_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.ties(name).map(|tie| tie.head.as_str())
    }

    /// The output head that models of a type tie to this embedding.
    pub fn head_of<'a>(&'a self, model_type: &str, embedding: &'a str) -> Option<&'a str> {
        let is_head = |tie: &&Tie| crate::layers::is_head(&tie.head);
        let ties = || self.ties(embedding).filter(is_head);
        let own = ties().find(|tie| tie.types.iter().any(|t| t == model_type));
        own.or_else(|| ties().find(|tie| tie.types.is_empty())).map(|tie| tie.head.as_str())
    }

    fn ties<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Tie> {
        self.tied.iter().filter(move |tie| tie.embeddings.iter().any(|e| e == name))
    }

    /// Whether a tensor's rows belong to tokens, by its name outside the layers.
    pub fn is_vocabulary(&self, name: &str) -> bool {
        let listed = |list: &[String]| list.iter().any(|n| n == name);
        let by_part = || name.split('.').any(|part| self.vocabulary.parts.iter().any(|p| p == part));
        !listed(&self.vocabulary.except) && (listed(&self.vocabulary.names) || by_part())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_file_reads_and_every_division_ends_with_the_rest() {
        for division in &FAMILIES.modules {
            let rest: Vec<&str> =
                division.modules.iter().filter(|m| m.parts.is_empty()).map(|m| m.name.as_str()).collect();
            assert_eq!(rest, [division.modules.last().unwrap().name.as_str()]);
        }
        assert!(FAMILIES.tied_to("lm_head.weight").is_some());
    }

    #[test]
    fn names_on_disk_and_in_classes_lead_to_each_other() {
        for (model_type, on_disk, in_class) in [
            ("llava", "language_model.model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.up_proj"),
            ("llava", "vision_tower.vision_model.encoder.x", "model.vision_tower.encoder.x"),
            ("llava", "model.language_model.norm", "model.language_model.norm"),
            ("llama", "language_model.model.norm", "language_model.model.norm"),
            ("qwen2_vl", "model.norm", "model.language_model.norm"),
            ("qwen2_vl", "model.visual.merger", "model.visual.merger"),
            ("gpt_neox", "embed_out", "lm_head"),
            ("llava_next", "image_newline", "model.image_newline"),
            ("bert", "bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
            ("mixtral", "model.layers.3.block_sparse_moe.gate", "model.layers.3.mlp.gate"),
            ("vit", "vit.encoder.layer.3.attention.attention.query", "vit.layers.3.attention.q_proj"),
        ] {
            assert_eq!(FAMILIES.in_class(model_type, on_disk), in_class);
            if on_disk != in_class && !["vit", "bert", "llava_next"].contains(&model_type) {
                assert!(
                    FAMILIES.on_disk(&format!("{in_class}.weight")).any(|name| name == format!("{on_disk}.weight"))
                );
            }
        }
    }

    #[test]
    fn rows_of_tokens_are_known_by_name() {
        for (name, expected) in [
            ("model.embed_tokens.weight", true),
            ("lm_head.weight", true),
            ("lm_head.bias", true),
            ("cls.predictions.bias", true),
            ("lm_head.dense.weight", false),
            ("output.weight", true),
            ("shared.weight", true),
            ("model.norm.weight", false),
        ] {
            assert_eq!(FAMILIES.is_vocabulary(name), expected, "{name}");
        }
    }
}
