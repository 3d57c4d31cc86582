//! What became of calls that were made to fail, by operation.
//!
//! `npm run faults` has the rows appended to a file, and makes its tables of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

use super::operations::Operation;

/// How one run with a failing call ended.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// An error, and the image as it was.
    Refused,
    /// Done all the same.
    Done,
    /// "Unsettled": cache and disk may differ.
    Unsettled,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Endings {
    pub refused: u64,
    pub done: u64,
    pub unsettled: u64,
}

impl Endings {
    pub fn runs(self) -> u64 {
        self.refused + self.done + self.unsettled
    }

    fn add(&mut self, ending: Ending) {
        match ending {
            Ending::Refused => self.refused += 1,
            Ending::Done => self.done += 1,
            Ending::Unsettled => self.unsettled += 1,
        }
    }
}

/// Runs in which the same thing went wrong at one call after the other.
#[derive(Debug, Default)]
pub struct Sweep {
    by_verb: BTreeMap<&'static str, Endings>,
}

impl Sweep {
    pub fn count(&mut self, operation: &Operation, ending: Ending) {
        self.by_verb.entry(operation.verb()).or_default().add(ending);
    }

    /// Says what went wrong and how it ended, and returns all endings together.
    pub fn tell(&self, trouble: &str) -> Endings {
        let mut all = Endings::default();
        let mut rows = String::new();
        for (verb, endings) in &self.by_verb {
            let Endings { refused, done, unsettled } = *endings;
            writeln!(rows, "core\t{trouble}\t{verb}\t{refused}\t{done}\t{unsettled}").unwrap();
            all.refused += refused;
            all.done += done;
            all.unsettled += unsettled;
        }
        eprintln!("{trouble}: {} runs, {all:?}", all.runs());
        if let Some(path) = std::env::var_os("CALQUE_SWEEPS") {
            let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(rows.as_bytes()).unwrap();
        }
        all
    }
}
