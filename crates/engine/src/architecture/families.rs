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
    /// Beginnings of names that classes have changed and files have kept.
    renamed: Vec<Renamed>,
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renamed {
    in_class: String,
    on_disk: String,
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
        self.renamed
            .iter()
            .filter_map(move |r| Some(format!("{}{}", r.on_disk, name.strip_prefix(r.in_class.as_str())?)))
    }

    /// The output head that models of a family tie to this embedding.
    pub fn head_of(&self, embedding: &str) -> Option<&str> {
        let ties = self.tied.iter().filter(|tie| tie.embeddings.iter().any(|e| e == embedding));
        ties.map(|tie| tie.head.as_str()).find(|head| crate::layers::is_head(head))
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
