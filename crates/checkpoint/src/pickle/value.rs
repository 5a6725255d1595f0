//! What a pickle builds.

use safetensors::Dtype;

use super::global::Global;

/// A value by itself, or the place of a larger one in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 8 bytes, as they stand in the file, the lowest first.
    Wide(&'a [u8]),
    /// No tensor is made of one, so its value is not kept.
    Float,
    /// Nor of bytes.
    Bytes,
    Text(&'a str),
    Global(Global),
    /// Index into the arena.
    Object(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    /// In the order of the file.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(TensorView<'a>),
}

/// A run of elements that lies elsewhere in the file, under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Storage<'a> {
    pub key: &'a str,
    /// `None` where only the tensor knows it; then the elements are bytes.
    pub dtype: Option<Dtype>,
    pub elements: u64,
}

/// A tensor as a view of a storage; offset and strides are in elements, and the view is inside the storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorView<'a> {
    pub storage: Storage<'a>,
    pub dtype: Dtype,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

impl Value<'_> {
    /// What to call it in a message.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) | Value::Wide(_) => "an integer",
            Value::Float => "a float",
            Value::Bytes => "bytes",
            Value::Text(_) => "text",
            Value::Global(_) => "a global",
            Value::Object(_) => "an object",
        }
    }
}

impl Object<'_> {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Object::Tuple(_) => "a tuple",
            Object::List(_) => "a list",
            Object::Dict(_) => "a dictionary",
            Object::Storage(_) => "a storage",
            Object::Tensor(_) => "a tensor",
        }
    }
}
