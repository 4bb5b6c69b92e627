//! The pickle inside a `.pth`, read into a tree of plain values. Nothing is called: a function's name and its
//! arguments are kept side by side, and a name that weights and the records beside them do not need ends
//! the reading, for such a file would run code in PyTorch.
//!
//! Values lie in one list and refer to each other by place, so that a pickle that repeats or contains
//! itself costs no more than its bytes.

use std::collections::HashMap;

/// More than a checkpoint with a long history of losses has.
const VALUES_MAX: usize = 10_000_000;

/// Place of a value in its [`Values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place(u32);

#[derive(Debug)]
pub(super) enum Value {
    /// What says nothing about tensors: `None`, fractions, bytes, sets.
    Other,
    Bool(bool),
    Int(i64),
    Text(String),
    Tuple(Vec<Place>),
    List(Vec<Place>),
    Dict(Vec<(Place, Place)>),
    /// A class or function by its full name.
    Global(String),
    Call {
        callable: Place,
        arguments: Place,
        /// What `__setstate__` would get.
        state: Option<Place>,
    },
    /// What lies outside of the pickle, by its description.
    Persistent(Place),
}

#[derive(Debug)]
pub(super) struct Values {
    values: Vec<Value>,
    pub(super) root: Place,
}

impl Values {
    pub(super) fn at(&self, place: Place) -> &Value {
        &self.values[place.0 as usize]
    }

    pub(super) fn text(&self, place: Place) -> Option<&str> {
        match self.at(place) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn global(&self, place: Place) -> Option<&str> {
        match self.at(place) {
            Value::Global(name) => Some(name),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, place: Place) -> Option<&[Place]> {
        match self.at(place) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A count or an offset.
    pub(super) fn index(&self, place: Place) -> Option<usize> {
        match self.at(place) {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    pub(super) fn indices(&self, place: Place) -> Option<Vec<usize>> {
        let items = self.tuple(place)?.iter();
        items.map(|&item| self.index(item)).collect()
    }
}

/// Why a pickle is not read.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It asks for more than tensors; a clause about the file.
    Foreign(String),
    /// No pickler wrote this.
    Damaged,
}

pub(super) fn read(pickle: &[u8]) -> Result<Values, Refusal> {
    let mut machine = Machine {
        rest: pickle,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    while machine.step()? {}
    let root = machine.pop()?;
    Ok(Values {
        values: machine.values,
        root,
    })
}

struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Place>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Place>,
}

impl<'a> Machine<'a> {
    /// Carries out one operation, named as in Python's `pickletools`; false at the end.
    fn step(&mut self) -> Result<bool, Refusal> {
        let [operation] = self.array()?;
        match operation {
            // PROTO, FRAME
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return Ok(false),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            // POP_MARK, and ADDITEMS of a set, which holds no tensor.
            b'1' | 0x90 => drop(self.pop_to_mark()?),
            b'N' | 0x88 | 0x89 | b'J' | b'K' | b'M' | b'G' | 0x8a | 0x8b | b'X' | b'T' | b'U'
            | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => self.scalar(operation)?,
            b')' => self.push(Value::Tuple(Vec::new()))?,
            0x85..=0x87 => self.tuple_of(usize::from(operation - 0x84))?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))?;
            }
            b']' => self.push(Value::List(Vec::new()))?,
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend(items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set_items(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            // EMPTY_SET, FROZENSET
            0x8f => self.push(Value::Other)?,
            0x91 => {
                self.pop_to_mark()?;
                self.push(Value::Other)?;
            }
            b'c' | 0x93 => self.name(operation)?,
            b'R' | 0x81 | 0x92 => self.call(operation)?,
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))?;
            }
            b'q' | b'r' | b'h' | b'j' | 0x94 => self.memorize_or_recall(operation)?,
            _ => {
                return Err(Refusal::Foreign(format!(
                    "its pickle has the operation {operation:#04x}, which PyTorch does not write for weights"
                )));
            }
        }
        Ok(true)
    }

    /// What holds nothing else.
    fn scalar(&mut self, operation: u8) -> Result<(), Refusal> {
        let value = match operation {
            0x88 | 0x89 => Value::Bool(operation == 0x88),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Value::Int(u8::from_le_bytes(self.array()?).into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                Value::Other
            }
            b'X' | b'T' | b'U' | 0x8c | 0x8d => {
                let bytes = self.counted(operation)?;
                Value::Text(String::from_utf8_lossy(bytes).into_owned())
            }
            // Bytes, and integers of any length.
            b'B' | b'C' | 0x8b | 0x8e | 0x96 => {
                self.counted(operation)?;
                Value::Other
            }
            _ => Value::Other,
        };
        self.push(value)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Refusal::Damaged)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Refusal::Damaged)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Bytes behind their number, which has one, four or eight bytes.
    fn counted(&mut self, operation: u8) -> Result<&'a [u8], Refusal> {
        let n = match operation {
            b'U' | b'C' | 0x8c => u64::from(self.array::<1>()?[0]),
            b'X' | b'T' | b'B' | 0x8b => u32::from_le_bytes(self.array()?).into(),
            _ => u64::from_le_bytes(self.array()?),
        };
        self.take(usize::try_from(n).map_err(|_| Refusal::Damaged)?)
    }

    /// An integer of a given number of bytes.
    fn long(&mut self) -> Result<Value, Refusal> {
        let [n] = self.array()?;
        let bytes = self.take(n.into())?;
        if bytes.len() > 8 {
            return Ok(Value::Other);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut whole = if negative { [0xff; 8] } else { [0; 8] };
        whole[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(whole)))
    }

    fn push(&mut self, value: Value) -> Result<(), Refusal> {
        if self.values.len() == VALUES_MAX {
            return Err(Refusal::Foreign(format!(
                "its pickle has more than {VALUES_MAX} values"
            )));
        }
        self.stack.push(Place(self.values.len() as u32));
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Place, Refusal> {
        self.stack.pop().ok_or(Refusal::Damaged)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Place>, Refusal> {
        let height = self.marks.pop().ok_or(Refusal::Damaged)?;
        if height > self.stack.len() {
            return Err(Refusal::Damaged);
        }
        Ok(self.stack.split_off(height))
    }

    fn tuple_of(&mut self, n: usize) -> Result<(), Refusal> {
        let height = self.stack.len().checked_sub(n).ok_or(Refusal::Damaged)?;
        let items = self.stack.split_off(height);
        self.push(Value::Tuple(items))
    }

    fn top(&mut self) -> Result<&mut Value, Refusal> {
        let top = self.stack.last().ok_or(Refusal::Damaged)?;
        Ok(&mut self.values[top.0 as usize])
    }

    fn extend(&mut self, more: Vec<Place>) -> Result<(), Refusal> {
        match self.top()? {
            Value::List(items) => items.extend(more),
            _ => return Err(Refusal::Damaged),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Place]) -> Result<(), Refusal> {
        let (pairs, rest) = items.as_chunks::<2>();
        match self.top()? {
            Value::Dict(entries) if rest.is_empty() => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            _ => return Err(Refusal::Damaged),
        }
        Ok(())
    }

    /// GLOBAL with two lines, or STACK_GLOBAL with two texts.
    fn name(&mut self, operation: u8) -> Result<(), Refusal> {
        let (module, class) = if operation == b'c' {
            (self.line()?, self.line()?)
        } else {
            let [class, module] = [self.pop()?, self.pop()?];
            match (
                &self.values[module.0 as usize],
                &self.values[class.0 as usize],
            ) {
                (Value::Text(module), Value::Text(class)) => (module.clone(), class.clone()),
                _ => return Err(Refusal::Damaged),
            }
        };
        if !is_plain(&module, &class) {
            return Err(Refusal::Foreign(format!(
                "its pickle asks for the Python object {module}.{class}"
            )));
        }
        self.push(Value::Global(format!("{module}.{class}")))
    }

    fn line(&mut self) -> Result<String, Refusal> {
        let end = self.rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or(Refusal::Damaged)?)?;
        self.take(1)?;
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    /// REDUCE, NEWOBJ or NEWOBJ_EX. Python's own dictionaries become what they are.
    fn call(&mut self, operation: u8) -> Result<(), Refusal> {
        if operation == 0x92 {
            self.pop()?;
        }
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let is_dict = match &self.values[callable.0 as usize] {
            Value::Global(name) => matches!(
                name.as_str(),
                "collections.OrderedDict"
                    | "collections.defaultdict"
                    | "builtins.dict"
                    | "__builtin__.dict"
            ),
            _ => false,
        };
        if is_dict {
            let entries = self.pairs(arguments);
            return self.push(Value::Dict(entries));
        }
        self.push(Value::Call {
            callable,
            arguments,
            state: None,
        })
    }

    /// `([(key, value), ..],)`, as Python 2 pickled an ordered dictionary.
    fn pairs(&self, arguments: Place) -> Vec<(Place, Place)> {
        let value = |place: Place| &self.values[place.0 as usize];
        let Value::Tuple(arguments) = value(arguments) else {
            return Vec::new();
        };
        let Some(Value::List(pairs)) = arguments.first().map(|&it| value(it)) else {
            return Vec::new();
        };
        let pair = |&pair: &Place| match value(pair) {
            Value::Tuple(pair) | Value::List(pair) => match pair[..] {
                [key, value] => Some((key, value)),
                _ => None,
            },
            _ => None,
        };
        pairs.iter().filter_map(pair).collect()
    }

    fn build(&mut self) -> Result<(), Refusal> {
        let given = self.pop()?;
        // A dictionary's attributes, as `_metadata` of a state dict, are no entries of it.
        if let Value::Call { state, .. } = self.top()? {
            *state = Some(given);
        }
        Ok(())
    }

    fn memorize_or_recall(&mut self, operation: u8) -> Result<(), Refusal> {
        let id = match operation {
            0x94 => self.memo.len() as u32,
            b'q' | b'h' => self.array::<1>()?[0].into(),
            _ => u32::from_le_bytes(self.array()?),
        };
        if matches!(operation, b'h' | b'j') {
            let place = self.memo.get(&id).ok_or(Refusal::Damaged)?;
            self.stack.push(*place);
        } else {
            let top = self.stack.last().ok_or(Refusal::Damaged)?;
            self.memo.insert(id, *top);
        }
        Ok(())
    }
}

/// Tensors, and epochs, losses and arguments beside them.
fn is_plain(module: &str, class: &str) -> bool {
    match module {
        "torch" => {
            class.ends_with("Storage")
                || matches!(class, "Size" | "Tensor" | "device" | "bool")
                || is_numeric_type(class)
                || is_quantization_scheme(class)
        }
        "torch._utils" => class.starts_with("_rebuild_"),
        "torch._tensor" => class == "_rebuild_from_type_v2",
        "torch.serialization" => class == "_get_layout",
        "torch.storage" => matches!(class, "UntypedStorage" | "TypedStorage"),
        "torch.nn.parameter" => matches!(class, "Parameter" | "Buffer"),
        "collections" => matches!(class, "OrderedDict" | "defaultdict" | "Counter"),
        "numpy" => matches!(class, "dtype" | "ndarray"),
        "numpy.core.multiarray" | "numpy._core.multiarray" => {
            matches!(class, "scalar" | "_reconstruct")
        }
        "argparse" => class == "Namespace",
        "_codecs" => class == "encode",
        "builtins" | "__builtin__" => {
            matches!(
                class,
                "set" | "frozenset" | "dict" | "list" | "int" | "float"
            )
        }
        _ => false,
    }
}

/// `float32`, `bfloat16`, `float8_e4m3fn`, `uint16`, `complex64`, `quint8`.
fn is_numeric_type(name: &str) -> bool {
    let letters = name.trim_end_matches(|c: char| c != 't' && c != 'x');
    matches!(
        letters,
        "float" | "bfloat" | "int" | "uint" | "complex" | "qint" | "quint"
    )
}

fn is_quantization_scheme(name: &str) -> bool {
    name.starts_with("per_tensor_") || name.starts_with("per_channel_")
}
