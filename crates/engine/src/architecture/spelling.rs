//! One family's tensors under two spellings: with and without the prefix of the model under a head, or by older names.

use checkpoint::Checkpoint;
use serde_json::Value;

use super::FAMILIES;
use super::families::Spelling;

/// Renames the tensors of `checkpoint` as `like` spells them, where the family has two spellings. Places in files stay.
/// Whether any was renamed.
pub(crate) fn spell_alike(checkpoint: &mut Checkpoint, like: &Checkpoint) -> bool {
    let Some(model_type) = checkpoint.config.get("model_type").and_then(Value::as_str).map(str::to_owned) else {
        return false;
    };
    let mut renamed = false;
    for suffix in FAMILIES.old_suffixes.iter().filter(|s| s.types.contains(&model_type)) {
        let modern = like.tensors.keys().any(|name| name.ends_with(&suffix.new));
        let (from, to) = if modern { (&suffix.old, &suffix.new) } else { (&suffix.new, &suffix.old) };
        renamed |= rename(checkpoint, |name| Some(format!("{}{to}", name.strip_suffix(from.as_str())?)));
    }
    let Some(spelling) = FAMILIES.spellings.iter().find(|s| s.types.contains(&model_type)) else {
        return renamed;
    };
    renamed
        | match (is_bare(checkpoint, spelling), is_bare(like, spelling)) {
            (true, false) => {
                rename(checkpoint, |name| bare(name, spelling).then(|| format!("{}{name}", spelling.prefix)))
            }
            (false, true) => rename(checkpoint, |name| name.strip_prefix(spelling.prefix.as_str()).map(str::to_owned)),
            _ => false,
        }
}

fn is_bare(checkpoint: &Checkpoint, spelling: &Spelling) -> bool {
    checkpoint.tensors.keys().any(|name| bare(name, spelling))
}

fn bare(name: &str, spelling: &Spelling) -> bool {
    name.split('.').next().is_some_and(|first| spelling.bare.iter().any(|b| b == first))
}

/// A name that is taken already stays as it is. Whether any changed.
fn rename(checkpoint: &mut Checkpoint, to: impl Fn(&str) -> Option<String>) -> bool {
    let changed: Vec<(String, String)> = checkpoint
        .tensors
        .keys()
        .filter_map(|name| Some((name.clone(), to(name)?)))
        .filter(|(_, spelled)| !checkpoint.tensors.contains_key(spelled))
        .collect();
    for (name, spelled) in &changed {
        if let Some(place) = checkpoint.tensors.remove(name) {
            checkpoint.tensors.insert(spelled.clone(), place);
        }
    }
    !changed.is_empty()
}
