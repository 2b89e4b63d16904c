//! The lines of a file, counted, and given to whoever makes rows of them one at a time: so it is known on which line a row
//! begins, how it was written, and that it is not endless.

use std::io::{self, BufRead, Read};

use super::{BYTE_ORDER_MARK, ROW_BYTES_MAX, ReadError};

/// Counts lines, and remembers those of the last row.
pub(super) struct Lines<R> {
    file: R,
    /// How many were read.
    count: u64,
    /// The line on which the row begins.
    begins: u64,
    /// The row, as it came.
    row: Vec<u8>,
    /// How much of it was given.
    given: usize,
    is_too_long: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(file: R) -> Self {
        Self {
            file,
            count: 0,
            begins: 0,
            row: Vec::new(),
            given: 0,
            is_too_long: false,
        }
    }

    /// The line on which the last row begins, from 1.
    pub(super) fn line(&self) -> u64 {
        self.begins
    }

    /// The last row, as it came, without what it ends with.
    pub(super) fn row(&self) -> &[u8] {
        let row = self.row.strip_suffix(b"\n").unwrap_or(&self.row);
        row.strip_suffix(b"\r").unwrap_or(row)
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.is_too_long
    }

    /// What is given next belongs to another row.
    pub(super) fn begin(&mut self) {
        self.row.clear();
        self.given = 0;
    }

    /// A row that is one line; lines of white space are passed over.
    pub(super) fn next_row(&mut self) -> Result<Option<&[u8]>, ReadError> {
        loop {
            self.begin();
            if !self.more()? {
                return Ok(None);
            }
            if self.is_too_long {
                return Err(ReadError::TooLong(self.begins));
            }
            if !self.row.trim_ascii().is_empty() {
                return Ok(Some(self.row()));
            }
        }
    }

    /// Adds a line to the row; false at the end.
    fn more(&mut self) -> io::Result<bool> {
        let is_first = self.row.trim_ascii().is_empty();
        let left = (ROW_BYTES_MAX + 1 - self.row.len()) as u64;
        let before = self.row.len();
        let read = self
            .file
            .by_ref()
            .take(left)
            .read_until(b'\n', &mut self.row)?;
        if read == 0 {
            return Ok(false);
        }
        self.count += 1;
        if self.count == 1 && self.row.starts_with(BYTE_ORDER_MARK) {
            self.row.drain(..BYTE_ORDER_MARK.len());
        }
        if is_first {
            self.row.drain(..before);
            self.given = 0;
            self.begins = self.count;
        }
        self.is_too_long = self.row.len() > ROW_BYTES_MAX;
        Ok(true)
    }
}

/// Gives a line at a time, so that no line of the next row is given before it is begun.
impl<R: BufRead> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.row.len() {
            self.more()?;
            if self.is_too_long {
                return Err(io::Error::other("the row is too long"));
            }
        }
        let rest = &self.row[self.given..];
        let given = rest.len().min(buffer.len());
        buffer[..given].copy_from_slice(&rest[..given]);
        self.given += given;
        Ok(given)
    }
}
