//! Python's pickle format, as far as weight files need it, read as data: nothing is imported and nothing is called.
//!
//! The opcodes are those of Python's `pickletools` (protocols 0 to 5). What would be an imported name, a call or an object's state
//! in Python becomes a node that says so ([`Node::Global`], [`Node::Call`]); what it may mean is the reader's to decide.
//!
//! Nodes lie in an arena and refer to each other by number, as the pickle's memo does: a value that is used twice is stored once. An
//! opcode makes one node at most, so that memory is bounded by the pickle's length. A graph may be deep, may hold a node in very many
//! places and may go in circles: whoever walks it must bound that.

use std::collections::HashMap;

/// A training state of 5000 tensors has some 200,000. A value takes some 40 bytes.
const MOST_VALUES: usize = 1_000_000;

/// A node's number in [`Pickle::nodes`].
pub type Id = usize;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// A longer integer, little-endian two's complement.
    Long(Vec<u8>),
    /// A float.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list; sets are lists here.
    List(Vec<Id>),
    /// A dictionary in the order of its making; a key may stand twice, then the later one counts.
    Dict(Vec<(Id, Id)>),
    /// A name to import, `module.name`.
    Global(String),
    /// A call that is not made.
    Call(Box<Call>),
    /// What lies outside of the pickle, by its name.
    Persistent(Id),
}

/// A call, and what was done with its result.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The callee, a global in honest files.
    pub of: Id,
    /// The arguments, a tuple in honest files.
    pub with: Id,
    /// `__setstate__`'s argument.
    pub state: Option<Id>,
    /// What was appended to the result.
    pub items: Vec<Id>,
    /// What was set in the result.
    pub entries: Vec<(Id, Id)>,
}

/// What a pickle holds.
#[derive(Debug)]
pub struct Pickle {
    /// Every value.
    pub nodes: Vec<Node>,
    /// The one that the pickle stands for.
    pub root: Id,
    /// How many bytes it took; others may follow.
    pub length: usize,
}

/// What is wrong with a pickle, in words.
pub type Problem = String;

/// Reads the pickle at the beginning of some bytes.
pub fn read(bytes: &[u8]) -> Result<Pickle, Problem> {
    let mut machine = Machine { bytes, at: 0, nodes: Vec::new(), stack: Vec::new(), memo: HashMap::new() };
    loop {
        let at = machine.at;
        match machine.step() {
            Ok(None) if machine.nodes.len().max(machine.stack.len()) > MOST_VALUES => {
                return Err(format!("the pickle has more than {MOST_VALUES} values"));
            }
            Ok(None) => {}
            Ok(Some(root)) => return Ok(Pickle { nodes: machine.nodes, root, length: machine.at }),
            Err(why) => return Err(format!("pickle, byte {at}: {why}")),
        }
    }
}

enum Slot {
    Mark,
    Value(Id),
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Slot>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// One opcode; the result, at the last.
    fn step(&mut self) -> Result<Option<Id>, Problem> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => self.protocol()?,
            0x95 => drop(self.take(8)?), // a frame's length: opcodes go across
            b'(' => self.stack.push(Slot::Mark),
            b'0' => {
                self.stack.pop().ok_or("nothing to drop")?;
            }
            b'1' => drop(self.since_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(Slot::Value(top));
            }
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'I' | b'L' | b'F' | b'S' | b'V' => self.text(opcode)?,
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()));
            }
            b'K' => {
                let value = self.take(1)?[0];
                self.push(Node::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()));
            }
            0x8a => self.long::<1>()?,
            0x8b => self.long::<4>()?,
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Node::Float(value));
            }
            0x8c => self.string::<1>()?,
            b'X' => self.string::<4>()?,
            0x8d => self.string::<8>()?,
            b'U' | b'C' => self.binary::<1>()?,
            b'T' | b'B' => self.binary::<4>()?,
            0x8e | 0x96 => self.binary::<8>()?,
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items));
            }
            b']' | 0x8f => self.push(Node::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.since_mark()?;
                self.push(Node::List(items));
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let items = self.since_mark()?;
                let entries = pairs(&items)?;
                self.push(Node::Dict(entries));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![(key, value)])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(pairs(&items)?)?;
            }
            b'p' => {
                let key = self.line()?.parse().map_err(|_| "a memo's number is not readable")?;
                self.remember(key)?;
            }
            b'q' => {
                let key = self.take(1)?[0];
                self.remember(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key.into())?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'g' => {
                let key = self.line()?.parse().map_err(|_| "a memo's number is not readable")?;
                self.recall(key)?;
            }
            b'h' => {
                let key = self.take(1)?[0];
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key.into())?;
            }
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.push(Node::Global(name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let [Node::Str(module), Node::Str(name)] = [&self.nodes[module], &self.nodes[name]] else {
                    return Err("a name to import is no text".into());
                };
                let name = format!("{module}.{name}");
                self.push(Node::Global(name));
            }
            b'R' | 0x81 => {
                let (with, of) = (self.pop()?, self.pop()?);
                self.call(of, with);
            }
            0x92 => {
                let (_keywords, with, of) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(of, with);
            }
            b'i' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                let with = self.since_mark()?;
                let of = self.add(Node::Global(name));
                let with = self.add(Node::Tuple(with));
                self.call(of, with);
            }
            b'o' => {
                let mut items = self.since_mark()?;
                if items.is_empty() {
                    return Err("an object without a class".into());
                }
                let of = items.remove(0);
                let with = self.add(Node::Tuple(items));
                self.call(of, with);
            }
            b'b' => {
                let state = self.pop()?;
                let top = self.top()?;
                match &mut self.nodes[top] {
                    Node::Call(call) => call.state = Some(state),
                    _ => return Err("a state is set on what is no object".into()),
                }
            }
            b'P' => {
                let name = self.line()?.to_owned();
                let name = self.add(Node::Str(name));
                self.push(Node::Persistent(name));
            }
            b'Q' => {
                let name = self.pop()?;
                self.push(Node::Persistent(name));
            }
            other => return Err(format!("the opcode {other:#04x} is not known")),
        }
        Ok(None)
    }

    fn protocol(&mut self) -> Result<(), Problem> {
        match self.take(1)?[0] {
            0..=5 => Ok(()),
            other => Err(format!("protocol {other} is not known")),
        }
    }

    /// A number or text up to the line's end, of protocol 0.
    fn text(&mut self, opcode: u8) -> Result<(), Problem> {
        let line = self.line()?;
        let unreadable = || format!("`{}` is not readable", line.chars().take(40).collect::<String>());
        let node = match opcode {
            b'I' if line == "00" => Node::Bool(false),
            b'I' if line == "01" => Node::Bool(true),
            b'I' | b'L' => Node::Int(line.trim_end_matches('L').parse().map_err(|_| unreadable())?),
            b'F' => Node::Float(line.parse().map_err(|_| unreadable())?),
            b'S' => {
                let quote = line.chars().next().filter(|q| ['\'', '"'].contains(q)).ok_or_else(unreadable)?;
                let inner = line[1..].strip_suffix(quote).ok_or_else(unreadable)?;
                Node::Str(inner.to_owned())
            }
            _ => Node::Str(line.to_owned()),
        };
        self.push(node);
        Ok(())
    }

    fn long<const LENGTH: usize>(&mut self) -> Result<(), Problem> {
        let length = self.length::<LENGTH>()?;
        let bytes = self.take(length)?;
        let node = match bytes.len() {
            0 => Node::Int(0),
            1..=8 => {
                let sign = if bytes[bytes.len() - 1] & 0x80 == 0 { 0 } else { 0xff };
                let mut all = [sign; 8];
                all[..bytes.len()].copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(all))
            }
            _ => Node::Long(bytes.to_vec()),
        };
        self.push(node);
        Ok(())
    }

    fn string<const LENGTH: usize>(&mut self) -> Result<(), Problem> {
        let length = self.length::<LENGTH>()?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "text is not UTF-8")?.to_owned();
        self.push(Node::Str(text));
        Ok(())
    }

    fn binary<const LENGTH: usize>(&mut self) -> Result<(), Problem> {
        let length = self.length::<LENGTH>()?;
        let bytes = self.take(length)?.to_vec();
        // Python 2's text is bytes.
        self.push(String::from_utf8(bytes).map_or_else(|e| Node::Bytes(e.into_bytes()), Node::Str));
        Ok(())
    }

    fn length<const LENGTH: usize>(&mut self) -> Result<usize, Problem> {
        let mut all = [0; 8];
        all[..LENGTH].copy_from_slice(self.take(LENGTH)?);
        usize::try_from(u64::from_le_bytes(all)).map_err(|_| "a length is too large".into())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Problem> {
        let left = &self.bytes[self.at..];
        let taken = left.get(..count).ok_or_else(|| format!("it ends within {count} bytes that it wants"))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        Ok(self.take(N)?.try_into().expect("as many as were taken"))
    }

    /// Up to a line's end, which is taken too.
    fn line(&mut self) -> Result<&'a str, Problem> {
        let left = &self.bytes[self.at..];
        let end = left.iter().position(|&b| b == b'\n').ok_or("a line does not end")?;
        self.at += end + 1;
        let line = std::str::from_utf8(&left[..end]).map_err(|_| "a line is not UTF-8")?;
        Ok(line.trim_end_matches('\r'))
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn push(&mut self, node: Node) {
        let id = self.add(node);
        self.stack.push(Slot::Value(id));
    }

    fn call(&mut self, of: Id, with: Id) {
        let call = Call { of, with, state: None, items: Vec::new(), entries: Vec::new() };
        self.push(Node::Call(Box::new(call)));
    }

    fn pop(&mut self) -> Result<Id, Problem> {
        match self.stack.pop() {
            Some(Slot::Value(id)) => Ok(id),
            _ => Err("a value is wanted, and there is none".into()),
        }
    }

    fn top(&self) -> Result<Id, Problem> {
        match self.stack.last() {
            Some(Slot::Value(id)) => Ok(*id),
            _ => Err("a value is wanted, and there is none".into()),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, Problem> {
        let mark =
            self.stack.iter().rposition(|slot| matches!(slot, Slot::Mark)).ok_or("a mark is missing")?;
        let values = self.stack.drain(mark..).filter_map(|slot| match slot {
            Slot::Value(id) => Some(id),
            Slot::Mark => None,
        });
        Ok(values.collect())
    }

    fn tuple(&mut self, count: usize) -> Result<(), Problem> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Node::Tuple(items));
        Ok(())
    }

    fn append(&mut self, new: Vec<Id>) -> Result<(), Problem> {
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::List(items) => items.extend(new),
            Node::Call(call) => call.items.extend(new),
            _ => return Err("something is appended to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, new: Vec<(Id, Id)>) -> Result<(), Problem> {
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::Dict(entries) => entries.extend(new),
            Node::Call(call) => call.entries.extend(new),
            _ => return Err("something is set in what is no dictionary".into()),
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Result<(), Problem> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), Problem> {
        let id = *self.memo.get(&key).ok_or("it recalls what it has not memorised")?;
        self.stack.push(Slot::Value(id));
        Ok(())
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Problem> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("a key has no value".into());
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}
