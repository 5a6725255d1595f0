//! From the value of a pickle to named tensors.

use std::collections::HashSet;

use super::{Place, TorchFile, TorchTensor};
use crate::pickle::{Object, Pickle, Storage, TensorView, Value, shorten};
use crate::{bytes_of, limits};

/// Keys under which training scripts keep the state dictionary.
const WRAPPERS: &[&str] = &["state_dict", "model"];

/// What a safetensors header has besides tensors.
const METADATA: &str = "__metadata__";

type FindStorage<'a> = dyn Fn(&Storage<'_>) -> Result<Place, String> + 'a;
type Entries<'a> = [(Value<'a>, Value<'a>)];

/// The tensors of a state dictionary, or of the one that a training checkpoint holds.
pub(super) fn state_dict(pickle: &Pickle<'_>, find: &FindStorage<'_>) -> Result<TorchFile, String> {
    let Some(Object::Dict(top)) = pickle.object(pickle.value) else {
        return Err(format!("holds {}, not a dictionary of tensors", kind(pickle, pickle.value)));
    };
    let (entries, mut left_out) = unwrap(pickle, top);
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    for (key, value) in entries {
        let Value::Text(name) = key else {
            return Err(format!("has {} as the name of a tensor", kind(pickle, *key)));
        };
        if !seen.insert(*name) {
            return Err(format!("entry {:?} occurs twice", shorten(name)));
        }
        match pickle.object(*value) {
            Some(Object::Tensor(view)) => tensors.push(tensor(name, view, find)?),
            Some(Object::Dict(inner)) if !inner.is_empty() => return Err(nested(name)),
            _ => left_out.push(format!("entry {:?} is {}, not a tensor", shorten(name), kind(pickle, *value))),
        }
    }
    if tensors.is_empty() {
        return Err("holds no tensors".to_owned());
    }
    Ok(TorchFile { tensors, left_out: bounded(left_out) })
}

fn nested(name: &str) -> String {
    format!("entry {:?} is a dictionary; a flat state dictionary is needed, so save that", shorten(name))
}

fn bounded(mut notes: Vec<String>) -> Vec<String> {
    let more = notes.len().saturating_sub(limits::LEFT_OUT_MAX);
    if more > 0 {
        notes.truncate(limits::LEFT_OUT_MAX);
        notes.push(format!("{more} more entries are no tensors, or stand beside those taken"));
    }
    notes
}

fn unwrap<'p, 'a>(pickle: &'p Pickle<'a>, top: &'p Entries<'a>) -> (&'p Entries<'a>, Vec<String>) {
    let wrapped = WRAPPERS.iter().find_map(|wrapper| {
        let (_, value) = top.iter().find(|(key, _)| *key == Value::Text(wrapper))?;
        match pickle.object(*value)? {
            Object::Dict(inner) => Some((wrapper, inner)),
            _ => None,
        }
    });
    let Some((wrapper, inner)) = wrapped else { return (top, Vec::new()) };
    let beside = top.iter().filter_map(|(key, _)| match key {
        Value::Text(key) if key != wrapper => {
            Some(format!("entry {:?} stands beside {wrapper:?}, which was taken", shorten(key)))
        }
        _ => None,
    });
    (inner, beside.collect())
}

fn tensor(name: &str, view: &TensorView<'_>, find: &FindStorage<'_>) -> Result<TorchTensor, String> {
    if name.is_empty() || name.len() > limits::TENSOR_NAME_BYTES_MAX || name == METADATA {
        return Err(format!("has a tensor of the name {:?}, which safetensors does not allow", shorten(name)));
    }
    let place = find(&view.storage)?;
    let elements = view.shape.iter().product();
    let bytes = bytes_of(view.dtype, elements);
    let before = bytes_of(view.dtype, view.offset);
    let (Some(bytes), Some(before)) = (bytes, before) else {
        return Err(format!("tensor {name:?} does not fill whole bytes"));
    };
    Ok(TorchTensor {
        name: name.to_owned(),
        dtype: view.dtype,
        shape: view.shape.clone(),
        strides: view.strides.clone(),
        start: place.start.saturating_add(before),
        bytes,
    })
}

fn kind(pickle: &Pickle<'_>, value: Value<'_>) -> &'static str {
    match value {
        Value::Object(at) => pickle.objects[at].kind(),
        value => value.kind(),
    }
}
