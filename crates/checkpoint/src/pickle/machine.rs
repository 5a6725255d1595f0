//! The pickle machine: a stack, marks, a memo.

use std::collections::HashMap;

use super::call;
use super::cursor::Cursor;
use super::global;
use super::refusal::{empty_stack, refused_global};
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
    let mut machine = Machine::new(Cursor::new(bytes, start));
    loop {
        let opcode_at = machine.input.at;
        let step = machine.step();
        match step.map_err(|reason| format!("its pickle {reason} at byte {opcode_at}"))? {
            None => {}
            Some(value) => return Ok(Pickle { value, end: machine.input.at, objects: machine.objects }),
        }
    }
}

#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) input: Cursor<'a>,
    steps: usize,
    pub(super) stack: Vec<Value<'a>>,
    /// Heights of the stack at which marks stand.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    pub(super) objects: Vec<Object<'a>>,
}

impl<'a> Machine<'a> {
    fn new(input: Cursor<'a>) -> Machine<'a> {
        Machine { input, steps: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), objects: Vec::new() }
    }

    /// Does one opcode; gives the value that the pickle ends with.
    fn step(&mut self) -> Result<Option<Value<'a>>, String> {
        self.steps += 1;
        if self.steps > limits::PICKLE_STEPS_MAX {
            return Err(format!("has more than {} opcodes", limits::PICKLE_STEPS_MAX));
        }
        match self.input.byte()? {
            b'.' => return self.pop().map(Some),
            0x80 => self.protocol()?,
            // the length of a frame is advice to readers of streams
            0x95 => drop(self.input.take(8)?),
            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            opcode @ (b'q' | b'r' | 0x94) => self.put(opcode)?,
            b'c' => self.global_of_lines()?,
            0x93 => self.global_of_stack()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            opcode => self.value(opcode)?,
        }
        Ok(None)
    }

    fn protocol(&mut self) -> Result<(), String> {
        match self.input.byte()? {
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
    fn put(&mut self, opcode: u8) -> Result<(), String> {
        let index = match opcode {
            b'q' => u32::from(self.input.byte()?),
            b'r' => self.input.u32()?,
            _ => self.memo.len() as u32,
        };
        let top = *self.stack.last().ok_or_else(empty_stack)?;
        self.memo.insert(index, top);
        Ok(())
    }

    pub(super) fn get(&mut self, opcode: u8) -> Result<(), String> {
        let index = if opcode == b'h' { u32::from(self.input.byte()?) } else { self.input.u32()? };
        let value = self.memo.get(&index).copied();
        self.push(value.ok_or_else(|| format!("recalls {index}, which was never remembered,"))?)
    }

    fn global_of_lines(&mut self) -> Result<(), String> {
        let (module, name) = (self.input.line()?, self.input.line()?);
        self.global(module, name)
    }

    fn global_of_stack(&mut self) -> Result<(), String> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (module, name) {
            (Value::Text(module), Value::Text(name)) => self.global(module, name),
            _ => Err("names a global by what is no text".to_owned()),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
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

    pub(super) fn push_object(&mut self, object: Object<'a>) -> Result<(), String> {
        let value = self.add(object)?;
        self.push(value)
    }

    pub(super) fn top_object(&mut self) -> Result<&mut Object<'a>, String> {
        match self.stack.last() {
            Some(Value::Object(at)) if self.stack.len() > self.floor() => Ok(&mut self.objects[*at]),
            _ => Err("fills what is no list or dictionary".to_owned()),
        }
    }

    pub(super) fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        if self.stack.len() == limits::PICKLE_STACK_MAX {
            return Err(format!("has more than {} values on its stack", limits::PICKLE_STACK_MAX));
        }
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Result<Value<'a>, String> {
        if self.stack.len() <= self.floor() {
            return Err(empty_stack());
        }
        self.stack.pop().ok_or_else(empty_stack)
    }

    pub(super) fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("has no mark where it needs one")?;
        Ok(self.stack.split_off(mark))
    }

    /// Nothing below the last mark is taken before the mark itself.
    pub(super) fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }
}
