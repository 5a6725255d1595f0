//! Parameters of one tensor: the levels of a recipe searched in order, gradients and conditions evaluated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use recipe::{Parameters, Problem, Recipe, Scalar};

use crate::methods::{About, Default, DrawSource, Kind, Parameter, Resolved, Scope, TaskParameters};
use crate::slices::{Slice, SliceSource};

/// Where in the output a tensor is, as far as parameters may depend on it.
pub(crate) struct Place<'a> {
    /// Output name: what filters of shared parameters are matched with.
    pub name: &'a str,
    /// Name in each input: what filters of its own parameters are matched with.
    pub input_names: &'a [&'a str],
    /// 0 at the first layer of the slice, 1 at the last.
    pub t: f64,
    /// The same over the layers of the whole output; `None` outside the layers.
    pub depth: Option<f64>,
    pub shape: &'a [u64],
    pub seed: u64,
}

/// Levels that can set a parameter, nearest first, each with the pointer of what it belongs to.
pub(crate) fn levels<'a>(
    recipe: &'a Recipe,
    slice: &'a Slice<'_>,
    source: Option<&'a SliceSource<'_>>,
) -> impl Iterator<Item = (&'a str, &'a Parameters)> {
    let of_source = source.map(|source| (source.pointer.as_str(), source.parameters));
    let of_slice = slice.levels.iter().map(|(pointer, parameters)| (pointer.as_str(), *parameters));
    of_source.into_iter().chain(of_slice).chain([("", &recipe.parameters)])
}

/// Whether any level that counts for this source sets the parameter.
pub(crate) fn is_set(recipe: &Recipe, slice: &Slice<'_>, source: Option<&SliceSource<'_>>, name: &str) -> bool {
    levels(recipe, slice, source).any(|(_, parameters)| parameters.contains_key(name))
}

/// Every parameter that anything in the whole recipe sets.
pub(crate) fn names_set<'a>(recipe: &'a Recipe, slices: &[Slice<'a>]) -> BTreeSet<&'a str> {
    let of_slices = slices.iter().flat_map(|s| s.all_levels().map(|(_, parameters)| parameters));
    of_slices.chain([&recipe.parameters]).flat_map(Parameters::keys).map(String::as_str).collect()
}

/// Every parameter of the method, for one tensor.
pub(crate) fn resolve(
    recipe: &Recipe,
    about: &About,
    names_set: &BTreeSet<&str>,
    slice: &Slice<'_>,
    base: Option<usize>,
    place: &Place<'_>,
) -> Result<TaskParameters, Problem> {
    let mut shared = BTreeMap::new();
    let mut each = vec![BTreeMap::new(); slice.sources.len()];
    for parameter in &about.parameters {
        match parameter.scope {
            Scope::Shared => {
                let found = one(recipe, names_set, slice, None, parameter, place.name, place.t)?;
                shared.extend(found.map(|value| (parameter.name, value)));
            }
            Scope::EachInput | Scope::EachInputButBase => {
                for (i, source) in slice.sources.iter().enumerate() {
                    if parameter.scope == Scope::EachInputButBase && base == Some(i) {
                        continue;
                    }
                    let found = one(recipe, names_set, slice, Some(source), parameter, place.input_names[i], place.t)?;
                    each[i].extend(found.map(|value| (parameter.name, value)));
                }
            }
        }
    }
    Ok(TaskParameters {
        draws: DrawSource::Philox { seed: place.seed, tensor: place.name.to_owned() },
        shape: place.shape.to_vec(),
        depth: place.depth,
        inputs: slice.sources.len(),
        base,
        shared: shared.into(),
        each: each.into_iter().map(Arc::new).collect(),
    })
}

fn one(
    recipe: &Recipe,
    names_set: &BTreeSet<&str>,
    slice: &Slice<'_>,
    source: Option<&SliceSource<'_>>,
    parameter: &Parameter,
    tensor: &str,
    t: f64,
) -> Result<Option<Resolved>, Problem> {
    let name = parameter.name;
    for (pointer, parameters) in levels(recipe, slice, source) {
        let Some(scalar) = parameters.get(name).and_then(|setting| setting.at(tensor, t)) else { continue };
        return match value(parameter, &scalar) {
            Ok(value) => Ok(Some(value)),
            Err(detail) => {
                Err(recipe.positions.problem(&format!("{pointer}/parameters/{name}"), "invalid_value", detail))
            }
        };
    }
    match parameter.default {
        Default::Number(n) => Ok(Some(Resolved::Number(n))),
        Default::Boolean(b) => Ok(Some(Resolved::Boolean(b))),
        Default::Word(word) => Ok(Some(Resolved::Word(word))),
        Default::Absent => Ok(None),
        Default::WhenSetNowhere(n) if !names_set.contains(name) => Ok(Some(Resolved::Number(n))),
        Default::WhenSetNowhere(_) | Default::Required => {
            let (pointer, detail) = missing(slice, source, name, Some(tensor));
            Err(recipe.positions.problem(&pointer, "missing_parameter", detail))
        }
    }
}

/// What to say where a required parameter is not set.
pub(crate) fn missing(
    slice: &Slice<'_>,
    source: Option<&SliceSource<'_>>,
    name: &str,
    tensor: Option<&str>,
) -> (String, String) {
    let of_tensor = tensor.map_or(String::new(), |t| format!(" for tensor {t:?} (no condition matches it)"));
    let Some(source) = source else {
        return (
            slice.pointer.clone(),
            format!("parameter `{name}` is required{of_tensor}; set it under `parameters`"),
        );
    };
    if source.added {
        let detail = format!(
            "base_model {:?} is not among `models`, so it is merged as one more input, and it has no `{name}`; list it with a `{name}`, or remove `base_model`",
            source.model.to_string()
        );
        return (source.pointer.clone(), detail);
    }
    let detail = format!(
        "model {:?} has no `{name}`{of_tensor}; add `parameters: {{{name}: ...}}` to it, or set `{name}` for all under `parameters`",
        source.model.to_string()
    );
    (source.pointer.clone(), detail)
}

/// A scalar as the parameter's kind, within its range.
pub(crate) fn value(parameter: &Parameter, scalar: &Scalar) -> Result<Resolved, String> {
    let name = parameter.name;
    match parameter.kind {
        Kind::Boolean => {
            scalar.boolean().map(Resolved::Boolean).ok_or_else(|| format!("`{name}` is true or false, found {scalar}"))
        }
        Kind::Word(words) => {
            let word = word(words, scalar);
            word.map(Resolved::Word).ok_or_else(|| format!("`{name}` is one of {}, found {scalar}", words.join(", ")))
        }
        Kind::Number | Kind::Count => {
            let number = scalar.number().ok_or_else(|| format!("`{name}` is a number, found {scalar}"))?;
            if parameter.kind == Kind::Count && number.fract() != 0.0 {
                return Err(format!("`{name}` is a whole number, found {number}"));
            }
            match parameter.range {
                Some((low, high)) if !(low..=high).contains(&number) => {
                    Err(format!("`{name}` lies between {low} and {high}, found {number}"))
                }
                _ => Ok(Resolved::Number(number)),
            }
        }
    }
}

/// The word meant; where the words are ways of doing a thing, true and false mean the usual way and none, as mergekit's
/// `rescale` does.
fn word(words: &'static [&'static str], scalar: &Scalar) -> Option<&'static str> {
    let find = |wanted: &str| words.iter().copied().find(|w| w.eq_ignore_ascii_case(wanted));
    let as_switch = |on: bool| if on { find("l1") } else { find("none") };
    match scalar {
        Scalar::Text(text) => find(text.trim()).or_else(|| scalar.boolean().and_then(as_switch)),
        Scalar::Bool(on) => as_switch(*on),
        Scalar::Number(_) => scalar.boolean().and_then(as_switch),
    }
}
