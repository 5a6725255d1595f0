//! Why a pickle is refused, in words.

use crate::limits;

pub(super) fn empty_stack() -> String {
    "takes a value that is not there".to_owned()
}

pub(super) fn refused_global(module: &str, name: &str) -> String {
    let name = shorten(&format!("{module}.{name}"));
    format!("names {name:?}, which tensors do not need; nothing of it was run. It stands")
}

/// A name of a stranger's choice, as far as a message shows it.
pub(crate) fn shorten(name: &str) -> String {
    match name.char_indices().nth(limits::NAME_SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

pub(super) fn refused_opcode(opcode: u8) -> String {
    let name = match opcode {
        b'i' => "INST, which makes objects",
        b'o' => "OBJ, which makes objects",
        0x81 | 0x92 => "NEWOBJ, which makes objects",
        0x82..=0x84 => "EXT, which names globals by number",
        b'P' => "PERSID of protocol 0",
        _ => return format!("has opcode {opcode:#04x}, which tensors do not need,"),
    };
    format!("has opcode {name},")
}
