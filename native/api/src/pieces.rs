//! Long lists on their way to the program, piece by piece: all of one may take more memory than a
//! command may, here, in JavaScript and as text.
//!
//! The program hears each piece but the last, which is in the report. So a list that is no longer
//! than a piece is in the report, and nothing is heard.

use std::mem;

use qcow2::Result;

use crate::session::Reading;

/// Rows of a piece at most.
pub(crate) const PIECE_ROWS: usize = 1024;
/// And bytes of text in them, but for a row that alone has more.
const PIECE_BYTES: usize = 1 << 20;

/// A list that is being read.
pub(crate) struct Pieces<'a, T> {
    reading: &'a Reading<'a>,
    tell: &'a mut dyn FnMut(Vec<T>) -> Result<()>,
    rows: Vec<T>,
    text_bytes: usize,
}

impl<'a, T> Pieces<'a, T> {
    pub fn new(reading: &'a Reading<'a>, tell: &'a mut dyn FnMut(Vec<T>) -> Result<()>) -> Self {
        Self { reading, tell, rows: Vec::new(), text_bytes: 0 }
    }

    /// The next row, which has so many bytes of text. Fails where the program does, and where the
    /// image did not stand still.
    pub fn push(&mut self, row: T, text_bytes: usize) -> Result<()> {
        let is_full = self.rows.len() == PIECE_ROWS
            || self.text_bytes.saturating_add(text_bytes) > PIECE_BYTES;
        if is_full && !self.rows.is_empty() {
            self.reading.ensure_still()?;
            (self.tell)(mem::take(&mut self.rows))?;
            self.text_bytes = 0;
        }
        self.rows.push(row);
        self.text_bytes += text_bytes;
        Ok(())
    }

    /// The last piece.
    pub fn finish(self) -> Vec<T> {
        self.rows
    }
}
