//! A shorter way from bytes to an event, for topics of which much is read at once: see [`crate::event::Event::read`].
//! What is at all unusual is left to apache-avro, which says what is wrong with it.

/// A datum, from where it is yet to be read. Each method gives nothing where it is not certain.
#[derive(Debug, Clone, Copy)]
pub struct Datum<'a>(&'a [u8]);

/// Of an `int` or `long`: 64 bits, seven a byte.
const VARINT_BYTES_MAX: usize = 10;

impl<'a> Datum<'a> {
    /// These bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// A `long`, or what is written like one.
    pub fn long(&mut self) -> Option<i64> {
        let mut bits = 0;
        for index in 0..VARINT_BYTES_MAX {
            let byte = *self.0.get(index)?;
            bits |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.0 = &self.0[index + 1..];
                // Zigzag: the sign is the last bit.
                return Some((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        None
    }

    /// An `int`.
    pub fn int(&mut self) -> Option<i32> {
        self.long()?.try_into().ok()
    }

    /// A `string`.
    pub fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.long()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    /// A `string` or `null`, which is the first branch.
    pub fn text_or_null(&mut self) -> Option<Option<&'a str>> {
        match self.long()? {
            0 => Some(None),
            1 => self.text().map(Some),
            _ => None,
        }
    }

    /// `value`, if this was all.
    pub fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}
