//! The opcodes that make a value, or fill a list or a dictionary.

use super::machine::Machine;
use super::refusal::{empty_stack, refused_opcode};
use super::value::{Object, Value};

impl<'a> Machine<'a> {
    /// Opcodes that make or fill a value.
    pub(super) fn value(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' | b'K' | b'M' | 0x8a => self.integer(opcode),
            b'G' => self.input.take(8).and_then(|_| self.push(Value::Float)),
            b'X' | 0x8c | 0x8d | b'T' | b'U' => self.text(opcode),
            b'B' | b'C' | 0x8e => self.binary(opcode),
            b'h' | b'j' => self.get(opcode),
            b')' | b't' | 0x85..=0x87 => self.tuple(opcode),
            b']' => self.push_object(Object::List(Vec::new())),
            b'}' => self.push_object(Object::Dict(Vec::new())),
            b'a' | b'e' => self.append(opcode),
            b's' | b'u' => self.set_items(opcode),
            _ => Err(refused_opcode(opcode)),
        }
    }

    fn integer(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b'J' => Value::Int(i64::from(self.input.u32()? as i32)),
            b'K' => Value::Int(i64::from(self.input.byte()?)),
            b'M' => Value::Int(i64::from(self.input.u16()?)),
            _ => {
                let length = self.input.byte()?;
                long(self.input.take(length.into())?)
            }
        };
        self.push(value)
    }

    fn text(&mut self, opcode: u8) -> Result<(), String> {
        let bytes = self.counted(opcode, b"U\x8c", 0x8d)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "has text that is no UTF-8".to_owned())?;
        self.push(Value::Text(text))
    }

    fn binary(&mut self, opcode: u8) -> Result<(), String> {
        self.counted(opcode, b"C", 0x8e)?;
        self.push(Value::Bytes)
    }

    /// Bytes after a length of 1 byte for the `short` opcodes, of 8 for the `long` one, of 4 else.
    fn counted(&mut self, opcode: u8, short: &[u8], long: u8) -> Result<&'a [u8], String> {
        let length = if short.contains(&opcode) {
            u64::from(self.input.byte()?)
        } else if opcode == long {
            self.input.u64()?
        } else {
            u64::from(self.input.u32()?)
        };
        self.input.take(length)
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), String> {
        let items = match opcode {
            b')' => Vec::new(),
            b't' => self.pop_to_mark()?,
            _ => {
                let count = usize::from(opcode - 0x84);
                let from = self.stack.len().checked_sub(count).filter(|from| *from >= self.floor());
                self.stack.split_off(from.ok_or_else(empty_stack)?)
            }
        };
        self.push_object(Object::Tuple(items))
    }

    fn append(&mut self, opcode: u8) -> Result<(), String> {
        let items = if opcode == b'e' { self.pop_to_mark()? } else { vec![self.pop()?] };
        match self.top_object()? {
            Object::List(list) => list.extend(items),
            _ => return Err("appends to what is no list".to_owned()),
        }
        Ok(())
    }

    fn set_items(&mut self, opcode: u8) -> Result<(), String> {
        let items = if opcode == b'u' {
            self.pop_to_mark()?
        } else {
            let value = self.pop()?;
            vec![self.pop()?, value]
        };
        let pairs = items.chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err("sets a key without a value".to_owned());
        }
        match self.top_object()? {
            Object::Dict(dict) => dict.extend(pairs.map(|pair| (pair[0], pair[1]))),
            _ => return Err("sets a key of what is no dictionary".to_owned()),
        }
        Ok(())
    }
}

/// Two's complement, the lowest byte first.
fn long(bytes: &[u8]) -> Value<'_> {
    let Some(last) = bytes.last() else { return Value::Int(0) };
    if bytes.len() > 8 {
        return Value::Wide(bytes);
    }
    let fill = if last & 0x80 == 0 { 0 } else { 0xff };
    let mut wide = [fill; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}
