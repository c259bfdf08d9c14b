//! The machine that a pickle is a program for: a stack, marks and a memo, and one method a group of operations.

use std::collections::HashMap;

use super::{Global, MAX_OPERATIONS, Object, PickleError, Span, Value, slice};

/// The pickle machine in the middle of its work.
#[derive(Debug, Default)]
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    /// Where the current operation stands.
    at: usize,
    /// Where the next byte is read.
    next: usize,
    objects: Vec<Object>,
    stack: Vec<Value>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Entries copied out of lists: the one thing that a single operation can do to many values.
    copied: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// The arena, and how many bytes were read.
    pub(super) fn finish(self) -> (Vec<Object>, usize) {
        (self.objects, self.next)
    }
}

impl Machine<'_> {
    /// Runs one operation; the root value when it was `STOP`. Codes are those of Python's `pickletools`.
    pub(super) fn step(&mut self) -> Result<Option<Value>, PickleError> {
        self.at = self.next;
        match self.byte()? {
            b'.' => return self.pop().map(Some),
            // PROTO, FRAME: nothing to do but to skip their operand.
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'2' => self.stack.push(self.top()?),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            code @ (b'J' | b'K' | b'M' | 0x8a | b'G') => self.number(code)?,
            code @ (b'X' | 0x8c | b'T' | b'U' | 0x8d) => self.string(code, Value::Text)?,
            code @ (b'B' | b'C' | 0x8e) => self.string(code, Value::Bytes)?,
            code @ (b')' | 0x85 | 0x86 | 0x87 | b't') => self.tuple(code)?,
            code @ (b']' | b'l' | b'a' | b'e') => self.list(code)?,
            code @ (b'}' | b'd' | b's' | b'u') => self.dict(code)?,
            0x8f => self.create(Object::Items(Vec::new()), Value::Set),
            0x90 => self.extend_set()?,
            code @ (b'q' | b'r' | b'h' | b'j' | 0x94) => self.memo(code)?,
            b'c' => self.global()?,
            0x93 => self.stack_global()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => {
                let reference = self.pop()?;
                self.create(Object::Persistent(reference), Value::Persistent);
            }
            // INST, OBJ, NEWOBJ, NEWOBJ_EX and the extension registry all make objects of classes.
            code @ (b'i' | b'o' | 0x81 | 0x92 | 0x82 | 0x83 | 0x84) => {
                return Err(PickleError::Code(format!("an object made by operation {code:#04x}")));
            }
            code => return Err(PickleError::Operation { code, at: self.at }),
        }
        Ok(None)
    }

    fn damaged(&self) -> PickleError {
        PickleError::Damaged { at: self.at }
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn take(&mut self, length: usize) -> Result<&[u8], PickleError> {
        let end = self.next.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(PickleError::Truncated)?;
        let bytes = &self.bytes[self.next..end];
        self.next = end;
        Ok(bytes)
    }

    fn skip(&mut self, length: usize) -> Result<(), PickleError> {
        self.take(length).map(|_| ())
    }

    /// An unsigned little-endian integer of up to eight bytes.
    fn unsigned(&mut self, width: usize) -> Result<u64, PickleError> {
        Ok(self.take(width)?.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }

    fn span(&mut self, length: u64) -> Result<Span, PickleError> {
        let start = self.next as u32;
        self.take(usize::try_from(length).map_err(|_| PickleError::Truncated)?)?;
        Ok(Span { start, length: length as u32 })
    }

    /// Bytes up to a newline, which is skipped.
    fn line(&mut self) -> Result<&str, PickleError> {
        let rest = &self.bytes[self.next..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or(PickleError::Truncated)?;
        let at = self.at;
        let line = self.take(length + 1)?;
        str::from_utf8(&line[..length]).map_err(|_| PickleError::Damaged { at })
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        // Nothing below a mark may be taken.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.damaged());
        }
        self.stack.pop().ok_or_else(|| self.damaged())
    }

    fn top(&self) -> Result<Value, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| self.damaged())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.damaged())?;
        Ok(self.stack.split_off(mark))
    }

    fn create(&mut self, object: Object, value: fn(usize) -> Value) {
        self.objects.push(object);
        self.stack.push(value(self.objects.len() - 1));
    }

    fn number(&mut self, code: u8) -> Result<(), PickleError> {
        let value = match code {
            b'J' => Value::Int(i64::from(self.unsigned(4)? as u32 as i32)),
            b'K' => Value::Int(self.unsigned(1)? as i64),
            b'M' => Value::Int(self.unsigned(2)? as i64),
            b'G' => {
                self.skip(8)?;
                Value::Float
            }
            _ => match self.unsigned(1)? {
                0 => Value::Int(0),
                width @ 1..=8 => {
                    let spare = 64 - 8 * width as u32;
                    Value::Int(((self.unsigned(width as usize)? << spare) as i64) >> spare)
                }
                width => Value::Long(self.span(width)?),
            },
        };
        self.stack.push(value);
        Ok(())
    }

    fn string(&mut self, code: u8, value: fn(Span) -> Value) -> Result<(), PickleError> {
        let length = match code {
            0x8c | b'U' | b'C' => self.unsigned(1)?,
            0x8d | 0x8e => self.unsigned(8)?,
            _ => self.unsigned(4)?,
        };
        let span = self.span(length)?;
        self.stack.push(value(span));
        Ok(())
    }

    fn tuple(&mut self, code: u8) -> Result<(), PickleError> {
        let items = match code {
            b't' => self.pop_to_mark()?,
            b')' => Vec::new(),
            _ => {
                let mut items = vec![Value::None; usize::from(code - 0x84)];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                items
            }
        };
        self.create(Object::Items(items), Value::Tuple);
        Ok(())
    }

    fn list(&mut self, code: u8) -> Result<(), PickleError> {
        let mut items = match code {
            b']' => Vec::new(),
            b'a' => vec![self.pop()?],
            _ => self.pop_to_mark()?,
        };
        if matches!(code, b']' | b'l') {
            self.create(Object::Items(items), Value::List);
            return Ok(());
        }
        match self.top()? {
            Value::List(id) => self.extend(id, &mut items),
            _ => Err(self.damaged()),
        }
    }

    fn extend_set(&mut self) -> Result<(), PickleError> {
        let mut items = self.pop_to_mark()?;
        match self.top()? {
            Value::Set(id) => self.extend(id, &mut items),
            _ => Err(self.damaged()),
        }
    }

    fn extend(&mut self, id: usize, more: &mut Vec<Value>) -> Result<(), PickleError> {
        let Object::Items(items) = &mut self.objects[id] else { return Err(self.damaged()) };
        items.append(more);
        Ok(())
    }

    fn dict(&mut self, code: u8) -> Result<(), PickleError> {
        let items = match code {
            b'}' => Vec::new(),
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.damaged());
        }
        let pairs = pairs.iter().map(|&[key, value]| (key, value));
        if matches!(code, b'}' | b'd') {
            self.create(Object::Dict(pairs.collect()), Value::Dict);
            return Ok(());
        }
        let Value::Dict(id) = self.top()? else { return Err(self.damaged()) };
        let Object::Dict(entries) = &mut self.objects[id] else { return Err(self.damaged()) };
        entries.extend(pairs);
        Ok(())
    }

    fn memo(&mut self, code: u8) -> Result<(), PickleError> {
        let key = match code {
            0x94 => self.memo.len() as u32,
            b'q' | b'h' => self.unsigned(1)? as u32,
            _ => self.unsigned(4)? as u32,
        };
        if matches!(code, b'h' | b'j') {
            let value = self.memo.get(&key).copied().ok_or_else(|| self.damaged())?;
            self.stack.push(value);
        } else {
            self.memo.insert(key, self.top()?);
        }
        Ok(())
    }

    fn global(&mut self) -> Result<(), PickleError> {
        let module = self.line()?.to_owned();
        let name = self.line()?.to_owned();
        self.push_global(&module, &name)
    }

    fn stack_global(&mut self) -> Result<(), PickleError> {
        let (name, module) = (self.pop()?, self.pop()?);
        let text = |value| match value {
            Value::Text(span) => str::from_utf8(slice(self.bytes, span)).map_err(|_| self.damaged()),
            _ => Err(self.damaged()),
        };
        let (module, name) = (text(module)?.to_owned(), text(name)?.to_owned());
        self.push_global(&module, &name)
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), PickleError> {
        let shown = || format!("{module}.{name}").chars().take(200).collect();
        let global = Global::find(module, name).ok_or_else(|| PickleError::Code(shown()))?;
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// Records a call. An `OrderedDict` becomes a dictionary at once, since items are set on it.
    fn reduce(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Global(function), Value::Tuple(id)) = (function, arguments) else {
            return Err(self.damaged());
        };
        match function {
            Global::OrderedDict => {
                let entries = self.pairs(id)?;
                self.copied += entries.len();
                if self.copied > MAX_OPERATIONS {
                    return Err(PickleError::TooLarge);
                }
                self.create(Object::Dict(entries), Value::Dict);
            }
            Global::Storage(_) => return Err(self.damaged()),
            _ => self.create(Object::Call(function, arguments), Value::Call),
        }
        Ok(())
    }

    /// The entries that `OrderedDict(*arguments)` starts with: none, or the pairs of a list (Python 2).
    fn pairs(&self, arguments: usize) -> Result<Vec<(Value, Value)>, PickleError> {
        let items = |id: usize| match &self.objects[id] {
            Object::Items(items) => Ok(items.as_slice()),
            _ => Err(self.damaged()),
        };
        let pair = |&value: &Value| match value {
            Value::Tuple(id) | Value::List(id) => match items(id)? {
                &[key, value] => Ok((key, value)),
                _ => Err(self.damaged()),
            },
            _ => Err(self.damaged()),
        };
        match items(arguments)? {
            [] => Ok(Vec::new()),
            &[Value::List(id)] => items(id)?.iter().map(pair).collect(),
            _ => Err(self.damaged()),
        }
    }

    /// Attributes of a dictionary, such as the `_metadata` of a `state_dict`, are of no use here and dropped.
    fn build(&mut self) -> Result<(), PickleError> {
        self.pop()?;
        match self.top()? {
            Value::Dict(_) => Ok(()),
            _ => Err(PickleError::Code("BUILD on something that is no dictionary".into())),
        }
    }
}
