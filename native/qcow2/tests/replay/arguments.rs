//! What was asked for on the command line.

use std::ops::Range;

use crate::NAME;

pub const USAGE: &str = "\
cargo test --release -p qcow2 --test replay -- [OPTION]...
  --seeds A..B        images from these seeds, in this order [0..100000000]
  --states N          ends with the seed that brings the Nth state [250000]
  --seconds N         ends with the seeds that N seconds have begun [none]
  --samples N         random states of each flush epoch [24]
  --enumerate N       epochs of at most N pieces are enumerated instead [7]
  --threads N         [one for each processor]
  --qemu-every N      shows one state in N to `qemu-img check`; 0: none [500]
  --content-every N   has qemu-img read one state in N whole; 0: none [5000]";

/// States of a run of `cargo test`: a minute or two.
const DEFAULT_STATES: u64 = 250_000;

#[derive(Clone, Debug)]
pub struct Arguments {
    pub seeds: Range<u64>,
    pub states: u64,
    pub seconds: u64,
    pub samples: u64,
    pub enumerate: usize,
    pub threads: usize,
    pub qemu_every: u64,
    pub content_every: u64,
    /// As it was typed.
    pub text: String,
}

pub enum Asked {
    Replay(Arguments),
    /// Tests of another name.
    Nothing,
    List,
}

/// Reads the arguments, and those that every test program has to bear.
pub fn parse(words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let words: Vec<_> = words.collect();
    let mut asked = Arguments {
        seeds: 0..100_000_000,
        states: DEFAULT_STATES,
        seconds: u64::MAX,
        samples: 24,
        enumerate: 7,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        qemu_every: 500,
        content_every: 5000,
        text: words.join(" "),
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--seeds" => {
                asked.seeds = range(&value()?)?;
                if !asked.text.contains("--states") {
                    asked.states = u64::MAX;
                }
            }
            "--seconds" => asked.seconds = number(&value()?)?,
            "--states" => asked.states = number(&value()?)?,
            "--samples" => asked.samples = number(&value()?)?,
            "--enumerate" => asked.enumerate = size(&value()?)?.min(16),
            "--threads" => asked.threads = size(&value()?)?.max(1),
            "--qemu-every" => asked.qemu_every = number(&value()?)?,
            "--content-every" => asked.content_every = number(&value()?)?,
            "--list" => return Ok(Asked::List),
            "--ignored" => return Ok(Asked::Nothing),
            "--nocapture" | "--include-ignored" | "--exact" | "--quiet" | "-q" => {}
            "--test-threads" | "--format" | "--color" => drop(value()?),
            "--skip" => {
                if NAME.contains(&value()?) {
                    return Ok(Asked::Nothing);
                }
            }
            filter if !filter.starts_with('-') => {
                if !NAME.contains(filter) {
                    return Ok(Asked::Nothing);
                }
            }
            _ if word.contains('=') => {}
            _ => return Err(format!("unknown option {word}")),
        }
    }
    Ok(Asked::Replay(asked))
}

fn number(text: &str) -> Result<u64, String> {
    text.replace('_', "").parse().map_err(|_| format!("{text:?} is not a number"))
}

fn size(text: &str) -> Result<usize, String> {
    number(text).map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) =
        text.split_once("..").ok_or(format!("{text:?} is not a range, as 0..100 is"))?;
    Ok(number(from)?..number(to)?)
}
