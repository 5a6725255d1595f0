//! Special tokens where the files of a model name them: by id in its configs, by text in those of its tokenizer.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use crate::{VocabularyError, token_ids};

/// Tokens that generation needs.
const ROLES: &[&str] = &["bos", "eos", "pad"];
/// Keys of a tokenizer's config that name one token, and those that name several.
const NAMES: &[&str] = &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const LISTS: &[&str] = &["additional_special_tokens", "extra_special_tokens"];
/// Where a model's config may have a config of its own for text.
const TEXT: &str = "text_config";

/// What the ids of one vocabulary are in another.
#[derive(Debug)]
pub struct Moved {
    ids: HashMap<u32, u32>,
    /// Ids below are the same in both, whether they have a token or not.
    same_below: u32,
}

impl Moved {
    /// Between two tokenizer.json, by token. Ids below `same_below` need no token to stay.
    pub fn between(from: &Value, to: &Value, same_below: u32) -> Result<Moved, VocabularyError> {
        let to = token_ids(to)?;
        let ids = token_ids(from)?.into_iter().filter_map(|(token, id)| Some((id, *to.get(&token)?))).collect();
        Ok(Moved { ids, same_below })
    }

    fn id(&self, id: u64) -> Option<u64> {
        let id = u32::try_from(id).ok()?;
        self.ids.get(&id).copied().or((id < self.same_below).then_some(id)).map(u64::from)
    }
}

/// Makes the token ids of a config those of the merged vocabulary; returns the keys whose token is not in it, which are
/// taken out.
pub fn move_ids(config: &mut Value, moved: &Moved) -> Vec<String> {
    let Some(object) = config.as_object_mut() else { return Vec::new() };
    let mut gone: Vec<String> = object.get_mut(TEXT).map(|text| move_ids(text, moved)).unwrap_or_default();
    let keys: Vec<String> = object.keys().filter(|key| is_id(key)).cloned().collect();
    for key in keys {
        match &mut object[&key] {
            Value::Number(id) if id.is_u64() => match id.as_u64().and_then(|id| moved.id(id)) {
                Some(id) => object[&key] = id.into(),
                None => drop((object.remove(&key), gone.push(key))),
            },
            Value::Array(ids) => {
                let (before, kept) = (ids.len(), ids.iter().filter_map(Value::as_u64).filter_map(|id| moved.id(id)));
                let kept: Vec<Value> = kept.map(Value::from).collect();
                if kept.len() < before {
                    gone.push(key.clone());
                }
                object[&key] = kept.into();
            }
            _ => {}
        }
    }
    gone
}

fn is_id(key: &str) -> bool {
    ["_token_id", "_token_ids", "_token_index"].iter().any(|end| key.ends_with(end))
}

/// Takes the ids of the roles from the configs of the model whose vocabulary it is, the first that has one.
pub fn take_roles(config: &mut Value, of: &[&Value]) {
    for role in ROLES {
        let key = format!("{role}_token_id");
        let found = of.iter().find_map(|from| from.get(&key).filter(|id| !id.is_null()));
        if let (Some(id), Some(object)) = (found, config.as_object_mut()) {
            object.insert(key.clone(), id.clone());
        }
        let inside = of.iter().find_map(|from| from.get(TEXT)?.get(&key)).filter(|id| !id.is_null());
        if let (Some(id), Some(text)) = (inside, config.get_mut(TEXT).and_then(Value::as_object_mut)) {
            text.insert(key, id.clone());
        }
    }
}

/// Where a config with token ids says otherwise than the tokenizer's config, which names tokens.
pub fn disagreements(config: &Value, tokenizer_config: &Value, ids: &BTreeMap<String, u32>) -> Vec<String> {
    let one = |role: &&str| {
        let name = name(tokenizer_config.get(format!("{role}_token"))?)?;
        let (own, key) = (ids.get(name)?, format!("{role}_token_id"));
        let said = config.get(&key).or_else(|| config.get(TEXT)?.get(&key)).filter(|said| !said.is_null())?;
        let is_said = |id: &Value| id.as_u64() == Some(u64::from(*own));
        let agrees = is_said(said) || said.as_array().is_some_and(|list| list.iter().any(is_said));
        (!agrees).then(|| {
            let told: String = said.to_string().chars().take(60).collect();
            format!("{key} is {told}, but tokenizer_config.json says {name:?}, which has id {own}")
        })
    };
    ROLES.iter().filter_map(one).collect()
}

/// A token is named by its text, or by its settings with its text among them.
fn name(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Takes names of tokens that are not in the vocabulary out of a tokenizer's config: a library would add them past the last
/// row. Returns them.
pub fn retain_names(config: &mut Value, ids: &BTreeMap<String, u32>) -> Vec<String> {
    let Some(object) = config.as_object_mut() else { return Vec::new() };
    let mut gone = Vec::new();
    let mut is_known = |token: &Value| {
        let unknown = name(token).filter(|name| !ids.contains_key(*name));
        gone.extend(unknown.map(str::to_owned));
        unknown.is_none()
    };
    for key in NAMES {
        if object.get(*key).is_some_and(|token| !is_known(token)) {
            object.remove(*key);
        }
    }
    for key in LISTS {
        match object.get_mut(*key) {
            Some(Value::Array(list)) => list.retain(&mut is_known),
            Some(Value::Object(named)) => named.retain(|_, token| is_known(token)),
            _ => {}
        }
    }
    gone
}

/// Where the tokenizer's config lists the added tokens, it lists those of the merged tokenizer.json.
pub fn list_added(config: &mut Value, tokenizer_json: &Value) {
    let Some(Value::Object(listed)) = config.get_mut("added_tokens_decoder") else { return };
    let added = tokenizer_json["added_tokens"].as_array().into_iter().flatten();
    let by_id: BTreeMap<u64, &Map<String, Value>> =
        added.filter_map(|token| Some((token["id"].as_u64()?, token.as_object()?))).collect();
    let is_kept = |id: &str, token: &Value| {
        id.parse().ok().and_then(|id: u64| by_id.get(&id)).is_some_and(|own| own.get("content") == token.get("content"))
    };
    listed.retain(|id, token| is_kept(id, token));
    for (id, token) in by_id {
        listed.entry(id.to_string()).or_insert_with(|| {
            let mut settings = token.clone();
            settings.shift_remove("id");
            Value::Object(settings)
        });
    }
}
