//! The pickle machine: a stack, marks, a memo.

use std::collections::HashMap;

use super::call;
use super::global;
use super::value::{Object, Value};
use crate::limits;

/// What one pickle built.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub value: Value<'a>,
    /// Where the bytes after it begin.
    pub end: usize,
    pub objects: Vec<Object<'a>>,
}

impl<'a> Pickle<'a> {
    pub(crate) fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(at) => self.objects.get(at),
            _ => None,
        }
    }
}

/// Reads the pickle that begins at `start`; a refusal says at which byte.
pub(crate) fn read(bytes: &[u8], start: usize) -> Result<Pickle<'_>, String> {
    let mut machine = Machine { bytes, at: start, ..Machine::default() };
    loop {
        let opcode_at = machine.at;
        let step = machine.step();
        match step.map_err(|reason| format!("its pickle {reason} at byte {opcode_at}"))? {
            None => {}
            Some(value) => return Ok(Pickle { value, end: machine.at, objects: machine.objects }),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    steps: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at which marks stand.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    pub(super) objects: Vec<Object<'a>>,
}

impl<'a> Machine<'a> {
    /// Does one opcode; gives the value that the pickle ends with.
    fn step(&mut self) -> Result<Option<Value<'a>>, String> {
        self.steps += 1;
        if self.steps > limits::PICKLE_STEPS_MAX {
            return Err(format!("has more than {} opcodes", limits::PICKLE_STEPS_MAX));
        }
        match self.byte()? {
            b'.' => return self.pop().map(Some),
            0x80 => self.protocol()?,
            // the length of a frame is advice to readers of streams
            0x95 => drop(self.take(8)?),
            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'q' | b'r' | 0x94 => self.put()?,
            b'c' | 0x93 => self.global()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            opcode => self.value(opcode)?,
        }
        Ok(None)
    }

    /// Opcodes that make or fill a value.
    fn value(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' | b'K' | b'M' | 0x8a => self.integer(opcode),
            b'G' => self.take(8).and_then(|_| self.push(Value::Float)),
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

    fn protocol(&mut self) -> Result<(), String> {
        match self.byte()? {
            2..=5 => Ok(()),
            other => Err(format!("has protocol {other}, of which 2 to 5 are read,")),
        }
    }

    fn mark(&mut self) -> Result<(), String> {
        if self.marks.len() == limits::PICKLE_DEPTH_MAX {
            return Err(format!("is nested deeper than {}", limits::PICKLE_DEPTH_MAX));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Remembers the top of the stack.
    fn put(&mut self) -> Result<(), String> {
        let index = match self.bytes[self.at - 1] {
            b'q' => u32::from(self.byte()?),
            b'r' => self.u32()?,
            _ => self.memo.len() as u32,
        };
        let top = *self.stack.last().ok_or_else(empty_stack)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn get(&mut self, opcode: u8) -> Result<(), String> {
        let index = if opcode == b'h' { u32::from(self.byte()?) } else { self.u32()? };
        let value = self.memo.get(&index).copied();
        self.push(value.ok_or_else(|| format!("recalls {index}, which was never remembered,"))?)
    }

    fn global(&mut self) -> Result<(), String> {
        let (module, name) = if self.bytes[self.at - 1] == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            let (Value::Text(module), Value::Text(name)) = (module, name) else {
                return Err("names a global by what is no text".to_owned());
            };
            (module, name)
        };
        let found = global::find(module, name).ok_or_else(|| refused_global(module, name))?;
        self.push(Value::Global(found))
    }

    fn reduce(&mut self) -> Result<(), String> {
        let arguments = self.pop()?;
        let Value::Global(function) = self.pop()? else {
            return Err("calls what is no function".to_owned());
        };
        let Some(Object::Tuple(arguments)) = self.object(arguments) else {
            return Err("calls a function without a tuple of arguments".to_owned());
        };
        let arguments = arguments.clone();
        let made = call::call(self, function, &arguments)?;
        self.push(made)
    }

    /// Attributes of a dictionary, such as a state dictionary's `_metadata`, are no tensors: they are left behind.
    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        let target = *self.stack.last().ok_or_else(empty_stack)?;
        match self.object(target) {
            Some(Object::Dict(_)) => Ok(()),
            _ => Err("sets the state of what is no dictionary".to_owned()),
        }
    }

    fn persistent(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = call::storage(self, id)?;
        self.push_object(Object::Storage(storage))
    }

    fn integer(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b'J' => Value::Int(i64::from(self.u32()? as i32)),
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes([self.byte()?, self.byte()?]))),
            _ => {
                let length = self.byte()?;
                long(self.take(length.into())?)
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
            u64::from(self.byte()?)
        } else if opcode == long {
            self.u64()?
        } else {
            u64::from(self.u32()?)
        };
        self.take(length)
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

    pub(super) fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(at) => self.objects.get(at),
            _ => None,
        }
    }

    pub(super) fn add(&mut self, object: Object<'a>) -> Result<Value<'a>, String> {
        if self.objects.len() == limits::PICKLE_OBJECTS_MAX {
            return Err(format!("makes more than {} objects", limits::PICKLE_OBJECTS_MAX));
        }
        self.objects.push(object);
        Ok(Value::Object(self.objects.len() - 1))
    }

    fn push_object(&mut self, object: Object<'a>) -> Result<(), String> {
        let value = self.add(object)?;
        self.push(value)
    }

    fn top_object(&mut self) -> Result<&mut Object<'a>, String> {
        match self.stack.last() {
            Some(Value::Object(at)) if self.stack.len() > self.floor() => Ok(&mut self.objects[*at]),
            _ => Err("fills what is no list or dictionary".to_owned()),
        }
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        if self.stack.len() == limits::PICKLE_STACK_MAX {
            return Err(format!("has more than {} values on its stack", limits::PICKLE_STACK_MAX));
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        if self.stack.len() <= self.floor() {
            return Err(empty_stack());
        }
        self.stack.pop().ok_or_else(empty_stack)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("has no mark where it needs one")?;
        Ok(self.stack.split_off(mark))
    }

    /// Nothing below the last mark is taken before the mark itself.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("4 bytes were taken")))
    }

    fn u64(&mut self) -> Result<u64, String> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes were taken")))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().take(limits::PICKLE_NAME_BYTES_MAX).position(|b| *b == b'\n');
        let line = self.take(length.ok_or("names a global without end")? as u64)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| "names a global in what is no UTF-8".to_owned())
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| format!("wants {count} bytes more than it has"))?;
        self.at += count;
        Ok(taken)
    }
}

fn empty_stack() -> String {
    "takes a value that is not there".to_owned()
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

fn refused_global(module: &str, name: &str) -> String {
    format!(
        "names {:?}, which tensors do not need; nothing of it was run. It stands",
        shorten(&format!("{module}.{name}"))
    )
}

fn shorten(name: &str) -> String {
    let mut short: String = name.chars().take(limits::PICKLE_NAME_SHOWN_MAX).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}

fn refused_opcode(opcode: u8) -> String {
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
