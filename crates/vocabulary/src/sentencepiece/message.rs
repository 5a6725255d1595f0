//! The wire format of protobuf, as far as it is needed.

use crate::VocabularyError;

/// The value of one field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Float(f32),
}

impl<'a> Field<'a> {
    pub fn bytes(self) -> Result<&'a [u8], VocabularyError> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            Field::Number(_) | Field::Float(_) => Err(malformed("a field that should hold bytes does not")),
        }
    }

    pub fn text(self) -> Result<&'a str, VocabularyError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| malformed("a piece is no UTF-8"))
    }

    pub fn number(self) -> Result<u64, VocabularyError> {
        match self {
            Field::Number(number) => Ok(number),
            Field::Bytes(_) | Field::Float(_) => Err(malformed("a field that should hold a whole number does not")),
        }
    }

    pub fn float(self) -> Result<f32, VocabularyError> {
        match self {
            Field::Float(float) if float.is_finite() => Ok(float),
            _ => Err(malformed("a score is no finite number")),
        }
    }
}

/// The fields of a message in their order, each with its number.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), VocabularyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Field<'a>), VocabularyError> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?.try_into().expect("4 bytes were taken");
                Field::Float(f32::from_le_bytes(bytes))
            }
            other => return Err(malformed(format!("wire type {other} is not known"))),
        };
        Ok((key >> 3, value))
    }

    fn varint(&mut self) -> Result<u64, VocabularyError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed("a number does not end"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], VocabularyError> {
        let taken = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
        let (taken, rest) = taken.ok_or_else(|| malformed("it ends in the middle of a field"))?;
        self.0 = rest;
        Ok(taken)
    }
}

pub(super) fn malformed(what: impl Into<String>) -> VocabularyError {
    VocabularyError::MalformedModel { what: what.into() }
}
