//! From a line to its items: `name`, `name=value`, `name:value` and `name(arguments)`, between commas or spaces.
//!
//! Everything handed out is a `Piece` of the line, which knows where it stands, so that whoever finds fault with one
//! can say in which column.

use super::error::TextError;

/// A part of a line.
///
/// # Invariants
/// 1. `start <= end <= line.len()`, both at the borders of characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    line: &'a str,
    start: usize,
    end: usize,
}

impl<'a> Piece<'a> {
    /// All of a line.
    pub(super) fn whole(line: &'a str) -> Self {
        Self { line, start: 0, end: line.len() }
    }

    /// Its text.
    pub(super) fn text(self) -> &'a str {
        &self.line[self.start..self.end]
    }

    /// From here to the end of the line.
    pub(super) fn to_end(self) -> Self {
        Self { end: self.line.len(), ..self }
    }

    /// The empty piece behind it.
    pub(super) fn behind(self) -> Self {
        Self { start: self.end, ..self }
    }

    /// From its start to the end of `last`.
    fn through(self, last: Piece<'a>) -> Self {
        Self { end: last.end, ..self }
    }

    /// Cut in two at `at` bytes.
    fn split_at(self, at: usize) -> (Self, Self) {
        let middle = self.start + at;
        (Self { end: middle, ..self }, Self { start: middle, ..self })
    }

    /// Cut in two around the first `separator`.
    pub(super) fn split_once(self, separator: &str) -> Option<(Self, Self)> {
        let (before, behind) = self.split_at(self.text().find(separator)?);
        Some((before, behind.split_at(separator.len()).1))
    }

    /// Without `suffix`, if it ends so.
    pub(super) fn strip_suffix(self, suffix: &str) -> Option<Self> {
        let rest = self.text().strip_suffix(suffix)?;
        Some(self.split_at(rest.len()).0)
    }

    /// Cut at every comma, spaces around the parts removed.
    pub(super) fn arguments(self) -> impl Iterator<Item = Piece<'a>> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let here = rest?;
            let (first, behind) = match here.split_once(",") {
                Some((first, behind)) => (first, Some(behind)),
                None => (here, None),
            };
            rest = behind;
            Some(first.trim())
        })
    }

    /// Without spaces around it.
    pub(super) fn trim(self) -> Self {
        let (_, trimmed) = self.split_at(self.text().len() - self.text().trim_start().len());
        trimmed.split_at(trimmed.text().trim_end().len()).0
    }

    /// The error that this piece stands where `expected` should.
    pub(super) fn error(self, expected: impl Into<String>) -> TextError {
        TextError {
            line: 1,
            column: self.line[..self.start].chars().count() + 1,
            found: self.text().to_owned(),
            expected: expected.into(),
        }
    }
}

/// How an item carries its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `name`.
    Bare,
    /// `name=value` or `name:value`.
    Assigned,
    /// `name(arguments)`.
    Called,
}

/// One item of a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    /// All of it.
    pub(super) whole: Piece<'a>,
    /// Its name.
    pub(super) name: Piece<'a>,
    /// How the value follows.
    pub(super) form: Form,
    /// The value or the arguments; empty in a bare item.
    pub(super) value: Piece<'a>,
}

impl<'a> Item<'a> {
    /// The value of an item that must have one, however it is written.
    ///
    /// # Errors
    /// It has none; `example` is what one looks like.
    pub(super) fn value(&self, example: &str) -> Result<Piece<'a>, TextError> {
        match self.form {
            Form::Assigned | Form::Called if !self.value.text().trim().is_empty() => Ok(self.value.trim()),
            Form::Assigned | Form::Called => Err(self.value.error(format!("a value, as in {example}"))),
            Form::Bare => Err(self.whole.error(format!("a value, as in {example}"))),
        }
    }

    /// The arguments of an item that must have some, even if none stands in the parentheses.
    ///
    /// # Errors
    /// It has none; `example` is what they look like.
    pub(super) fn argument(&self, example: &str) -> Result<Piece<'a>, TextError> {
        match self.form {
            Form::Called => Ok(self.value),
            Form::Bare | Form::Assigned => {
                Err(self.whole.error(format!("arguments in parentheses, as in {example}")))
            }
        }
    }

    /// Makes sure that nothing follows the name.
    ///
    /// # Errors
    /// Something does.
    pub(super) fn bare(&self) -> Result<(), TextError> {
        match self.form {
            Form::Bare => Ok(()),
            Form::Assigned | Form::Called => {
                Err(self.whole.error(format!("{} without a value", self.name.text())))
            }
        }
    }
}

/// The items of a piece of a line, in order.
#[derive(Debug, Clone)]
pub(super) struct Items<'a> {
    rest: Piece<'a>,
}

impl<'a> Items<'a> {
    pub(super) fn of(piece: Piece<'a>) -> Self {
        Self { rest: piece }
    }

    /// Takes everything before the first byte outside of quotes and brackets that `ends` accepts.
    fn take_until(&mut self, ends: impl Fn(u8) -> bool) -> Result<Piece<'a>, TextError> {
        let mut open = Vec::new();
        let mut quoted = false;
        let mut len = self.rest.text().len();
        for (at, byte) in self.rest.text().bytes().enumerate() {
            if byte == b'"' {
                quoted = !quoted;
            } else if quoted {
            } else if open.is_empty() && ends(byte) {
                len = at;
                break;
            } else if let b'(' | b'[' = byte {
                open.push(if byte == b'(' { b')' } else { b']' });
            } else if let b')' | b']' = byte
                && open.pop() != Some(byte)
            {
                let stray = self.rest.split_at(at).1.split_at(1).0;
                return Err(stray.error("no closing bracket without an opening one"));
            }
        }
        let (taken, rest) = self.rest.split_at(len);
        if quoted {
            return Err(rest.error("a closing \""));
        }
        if let Some(closing) = open.pop() {
            return Err(rest.error(format!("a closing \"{}\"", char::from(closing))));
        }
        self.rest = rest;
        Ok(taken)
    }

    fn item(&mut self) -> Result<Item<'a>, TextError> {
        let name = self.take_until(|byte| matches!(byte, b'=' | b':' | b'(') || separates(byte))?;
        let form = match self.rest.text().bytes().next() {
            Some(b'=' | b':') => Form::Assigned,
            Some(b'(') => Form::Called,
            _ => return Ok(Item { whole: name, name, form: Form::Bare, value: name.behind() }),
        };
        if name.text().is_empty() {
            return Err(self.rest.split_at(1).0.error("a name before it"));
        }
        if form == Form::Assigned {
            self.rest = self.rest.split_at(1).1;
            let value = self.take_until(separates)?;
            return Ok(Item { whole: name.through(value), name, form, value });
        }
        let group = self.take_until(separates)?;
        let inner = group.split_at(1).1;
        match inner.strip_suffix(")") {
            Some(value) if closes_only_at_its_end(inner.text()) => {
                Ok(Item { whole: name.through(group), name, form, value })
            }
            _ => Err(group.error("arguments in one pair of parentheses")),
        }
    }
}

/// Whether the bracket that was open before `text` stays open up to its last byte.
fn closes_only_at_its_end(text: &str) -> bool {
    let (mut depth, mut quoted) = (1_usize, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'(' | b'[' if !quoted => depth += 1,
            b')' | b']' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1 == text.len();
        }
    }
    false
}

fn separates(byte: u8) -> bool {
    byte == b',' || byte.is_ascii_whitespace()
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        let skipped = self.rest.text().bytes().take_while(|&byte| separates(byte)).count();
        self.rest = self.rest.split_at(skipped).1;
        if self.rest.text().is_empty() {
            return None;
        }
        let item = self.item();
        if item.is_err() {
            self.rest = self.rest.behind();
        }
        Some(item)
    }
}
