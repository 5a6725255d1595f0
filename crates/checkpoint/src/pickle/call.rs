//! What the allowed functions make of their arguments: built here, nothing is called.

use safetensors::Dtype;

use super::global::Global;
use super::machine::Machine;
use super::value::{Object, Storage, TensorView, Value};
use crate::{bytes_of, limits};

pub(super) fn call<'a>(
    machine: &mut Machine<'a>,
    function: Global,
    arguments: &[Value<'a>],
) -> Result<Value<'a>, String> {
    let tensor = match (function, arguments) {
        (Global::OrderedDict, []) => return machine.add(Object::Dict(Vec::new())),
        (Global::RebuildTensor, [storage, place @ ..]) if place.len() == 3 => tensor(machine, *storage, place, None),
        (Global::RebuildTensorV2, [storage, offset, shape, strides, _, _, rest @ ..]) => {
            plain(machine, rest)?;
            tensor(machine, *storage, &[*offset, *shape, *strides], None)
        }
        (
            Global::RebuildTensorV3,
            [storage, offset, shape, strides, _, _, Value::Global(Global::Dtype(dtype)), rest @ ..],
        ) => {
            plain(machine, rest)?;
            tensor(machine, *storage, &[*offset, *shape, *strides], Some(*dtype))
        }
        (Global::RebuildParameter, [data, _, _]) | (Global::RebuildParameterWithState, [data, _, _, _]) => {
            return match machine.object(*data) {
                Some(Object::Tensor(_)) => Ok(*data),
                _ => Err("makes a parameter of what is no tensor".to_owned()),
            };
        }
        _ => return Err(format!("calls {function:?} with {} arguments that do not fit it", arguments.len())),
    };
    machine.add(Object::Tensor(tensor?))
}

/// Torch marks views that are negated or conjugated when read in one more argument; such a view is refused.
fn plain(machine: &Machine<'_>, rest: &[Value<'_>]) -> Result<(), String> {
    match rest {
        [] | [Value::None] => Ok(()),
        [Value::Object(at)] if matches!(&machine.objects[*at], Object::Dict(dict) if dict.is_empty()) => Ok(()),
        _ => Err("has a tensor whose values are computed when it is read (negated or conjugated)".to_owned()),
    }
}

/// `("storage", type, key, location, elements)`, in the older format with a view of a part after it, which is None.
pub(super) fn storage<'a>(machine: &Machine<'a>, id: Value<'a>) -> Result<Storage<'a>, String> {
    let wrong = || "refers to what is no storage".to_owned();
    let Some(Object::Tuple(parts)) = machine.object(id) else { return Err(wrong()) };
    let (Value::Text("storage"), [kind, Value::Text(key), _, Value::Int(elements), rest @ ..]) =
        (parts.first().copied().unwrap_or(Value::None), parts.get(1..).unwrap_or_default())
    else {
        return Err(wrong());
    };
    if !matches!(rest, [] | [Value::None]) {
        return Err("refers to a part of a storage, as very old files do; save it again with a newer torch. It stands"
            .to_owned());
    }
    let dtype = match kind {
        Value::Global(Global::Storage(dtype)) => Some(*dtype),
        Value::Global(Global::UntypedStorage) => None,
        _ => return Err(wrong()),
    };
    let elements = u64::try_from(*elements).map_err(|_| wrong())?;
    Ok(Storage { key, dtype, elements })
}

fn tensor<'a>(
    machine: &Machine<'a>,
    storage: Value<'a>,
    place: &[Value<'a>],
    dtype: Option<Dtype>,
) -> Result<TensorView<'a>, String> {
    let Some(Object::Storage(storage)) = machine.object(storage) else {
        return Err("makes a tensor of what is no storage".to_owned());
    };
    let Some(dtype) = dtype.or(storage.dtype) else {
        return Err("makes a tensor of a storage without a type".to_owned());
    };
    let whole = |value: &Value<'_>| match value {
        Value::Int(int) => u64::try_from(*int).ok(),
        _ => None,
    };
    let list = |value: Value<'a>| match machine.object(value) {
        Some(Object::Tuple(items)) => items.iter().map(whole).collect::<Option<Vec<u64>>>(),
        _ => None,
    };
    let (Some(offset), Some(shape), Some(strides)) = (whole(&place[0]), list(place[1]), list(place[2])) else {
        return Err("makes a tensor whose offset, shape or strides are no whole numbers".to_owned());
    };
    let view = TensorView { storage: *storage, dtype, offset, shape, strides };
    check_inside(&view)?;
    Ok(view)
}

fn check_inside(view: &TensorView<'_>) -> Result<(), String> {
    let dimensions = view.shape.len();
    if dimensions != view.strides.len() || dimensions > limits::PICKLE_DIMENSIONS_MAX {
        return Err(format!("makes a tensor of {dimensions} dimensions with {} strides", view.strides.len()));
    }
    match (storage_bytes(view), last_byte(view)) {
        (Some(has), Some(needs)) if needs <= has => Ok(()),
        _ => Err(format!("makes a tensor of shape {:?} that reaches out of its storage", view.shape)),
    }
}

fn storage_bytes(view: &TensorView<'_>) -> Option<u64> {
    bytes_of(view.storage.dtype.unwrap_or(Dtype::U8), view.storage.elements)
}

/// Where the view's last element ends, counted from the start of its storage; `None` when that overflows.
fn last_byte(view: &TensorView<'_>) -> Option<u64> {
    let elements = view.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
    bytes_of(view.dtype, elements)?;
    if elements == 0 {
        return Some(0);
    }
    let last = view
        .shape
        .iter()
        .zip(&view.strides)
        .try_fold(view.offset, |at, (d, s)| at.checked_add((d - 1).checked_mul(*s)?))?;
    bytes_of(view.dtype, last.checked_add(1)?)
}
