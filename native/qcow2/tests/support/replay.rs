//! Every state in which a power cut can leave an image, made from the log of what was written.
//!
//! Between two flushes the medium may hold any subset of the writes, in any order, each torn at 512
//! bytes; whether the length changed and which punches happened is independent of that. A flush
//! that failed leaves some pages behind for good (see `storage/record.rs`).

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use qcow2::storage::{Operation, SparseImage};

use super::Random;

const SECTOR: u64 = 512;

/// What happened to an image, from a settled start.
#[derive(Clone, Debug)]
pub struct Recording {
    pub base: SparseImage,
    pub operations: Vec<Operation>,
}

/// A state after a power cut.
#[derive(Clone, Debug)]
pub struct State {
    pub image: SparseImage,
    /// Number of the epoch that the power cut fell into.
    pub epoch: usize,
    /// How it was made, for messages.
    pub how: String,
}

/// How many states to make.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Random states per epoch.
    pub samples: u64,
    /// Epochs of at most this many independent pieces are enumerated.
    pub enumerate: usize,
}

/// The smallest thing that reaches the medium whole or not at all.
#[derive(Clone, Debug)]
enum Piece {
    Sectors { offset: u64, data: Vec<u8> },
    Punch(Range<u64>),
}

struct Epoch {
    /// What the medium holds when it begins.
    medium: SparseImage,
    operations: Vec<Operation>,
    /// One list for each write or punch.
    pieces: Vec<Vec<Piece>>,
    /// Lengths that the file may have.
    lengths: Vec<u64>,
    /// Pages in which its states can differ.
    touched: BTreeSet<u64>,
}

impl Recording {
    /// Number of epochs; the last one is what follows the last flush.
    pub fn epochs(&self) -> usize {
        1 + self
            .operations
            .iter()
            .filter(|op| matches!(op, Operation::Flush | Operation::LostFlush { .. }))
            .count()
    }

    /// The number of the epoch after the last flush that worked: what was reported done before it
    /// must be there in all its states.
    pub fn settled_epoch(&self) -> usize {
        let flushes = self
            .operations
            .iter()
            .filter(|op| matches!(op, Operation::Flush | Operation::LostFlush { .. }));
        flushes
            .enumerate()
            .filter(|(_, op)| **op == Operation::Flush)
            .last()
            .map_or(0, |(index, _)| index + 1)
    }

    /// Shows every prefix of the log, and `effort` random states of each epoch, to `visit`.
    pub fn states(&self, effort: Effort, random: &mut Random, mut visit: impl FnMut(State)) {
        for (number, epoch) in self.split().iter().enumerate() {
            epoch.states(number, effort, random, &mut visit);
        }
    }

    /// The same, where a state that is another of its epoch byte for byte is not shown again.
    /// Returns how many were not.
    pub fn distinct_states(
        &self,
        effort: Effort,
        random: &mut Random,
        mut visit: impl FnMut(State),
    ) -> u64 {
        let mut repeated = 0;
        for (number, epoch) in self.split().iter().enumerate() {
            let mut seen = HashSet::new();
            epoch.states(number, effort, random, &mut |state| {
                if seen.insert(fingerprint(&state.image, &epoch.touched)) {
                    visit(state);
                } else {
                    repeated += 1;
                }
            });
        }
        repeated
    }

    fn split(&self) -> Vec<Epoch> {
        let mut cache = self.base.clone();
        let mut medium = self.base.clone();
        let mut was_lost = false;
        let mut epochs = Vec::new();
        let mut rest = &self.operations[..];
        loop {
            let end = rest
                .iter()
                .position(|op| matches!(op, Operation::Flush | Operation::LostFlush { .. }))
                .unwrap_or(rest.len());
            let operations = rest[..end].to_vec();
            let mut epoch = Epoch {
                medium: medium.clone(),
                lengths: vec![medium.len()],
                pieces: Vec::new(),
                touched: BTreeSet::new(),
                operations,
            };
            let mut dirty = BTreeSet::new();
            for operation in &epoch.operations {
                let touched = perform(&mut cache, operation);
                dirty.extend(touched);
                epoch.pieces.extend(pieces(operation));
                if cache.len() != *epoch.lengths.last().unwrap() {
                    epoch.lengths.push(cache.len());
                }
            }
            if was_lost {
                // Pages are written back whole: what an earlier flush lost may come along.
                epoch.pieces.extend(dirty.iter().map(|&page| whole_page(&cache, page)));
            }
            epoch.touched.clone_from(&dirty);
            epochs.push(epoch);
            let Some(ending) = rest.get(end) else { return epochs };
            if let Operation::LostFlush { reached } = ending {
                was_lost = true;
                for &page in reached {
                    medium.copy_page(&cache, page);
                }
            } else {
                for &page in &dirty {
                    medium.copy_page(&cache, page);
                }
                medium.set_len(cache.len());
            }
            rest = &rest[end + 1..];
        }
    }
}

impl Epoch {
    fn states(
        &self,
        number: usize,
        effort: Effort,
        random: &mut Random,
        visit: &mut impl FnMut(State),
    ) {
        self.prefixes(number, visit);
        let pieces: usize = self.pieces.iter().map(Vec::len).sum();
        let choices = pieces + usize::from(self.lengths.len() > 1);
        if choices <= effort.enumerate {
            self.all_subsets(number, random, visit);
        } else {
            for sample in 0..effort.samples {
                self.sample(number, sample, random, visit);
            }
        }
    }

    fn prefixes(&self, epoch: usize, visit: &mut impl FnMut(State)) {
        let mut medium = self.medium.clone();
        let count = self.operations.len();
        let mut show = |medium: &SparseImage, done| {
            let mut image = medium.clone();
            image.cut_at_end();
            visit(State { image, epoch, how: format!("epoch {epoch}, {done} of {count}") });
        };
        show(&medium, 0);
        for (done, operation) in (1..).zip(&self.operations) {
            perform(&mut medium, operation);
            show(&medium, done);
        }
    }

    fn all_subsets(&self, epoch: usize, random: &mut Random, visit: &mut impl FnMut(State)) {
        let pieces: Vec<&Piece> = self.pieces.iter().flatten().collect();
        for mask in 0..1_u64 << pieces.len() {
            let mut chosen: Vec<&Piece> = Vec::new();
            chosen.extend((0..pieces.len()).filter(|i| mask >> i & 1 != 0).map(|i| pieces[i]));
            random.shuffle(&mut chosen);
            for &length in &self.lengths {
                let image = self.apply(&chosen, length);
                let how = format!("epoch {epoch}, subset {mask:#b}, length {length}");
                visit(State { image, epoch, how });
            }
        }
    }

    fn sample(
        &self,
        epoch: usize,
        number: u64,
        random: &mut Random,
        visit: &mut impl FnMut(State),
    ) {
        let seed = random.next();
        let random = &mut Random::new(seed);
        // Few, half, most: each shows other mistakes. Whole writes lost, and writes torn.
        let percent = *random.pick(&[3, 20, 50, 80, 97]);
        let torn = *random.pick(&[0, 30, 100]);
        let mut chosen: Vec<&Piece> = Vec::new();
        for write in &self.pieces {
            if random.chance(torn) {
                chosen.extend(write.iter().filter(|_| random.chance(percent)));
            } else if random.chance(percent) {
                chosen.extend(write);
            }
        }
        random.shuffle(&mut chosen);
        let length = *random.pick(&self.lengths);
        let image = self.apply(&chosen, length);
        let how = format!(
            "epoch {epoch}, sample {number} ({} pieces, length {length}, seed {seed:#x})",
            chosen.len()
        );
        visit(State { image, epoch, how });
    }

    fn apply(&self, pieces: &[&Piece], length: u64) -> SparseImage {
        let mut image = self.medium.clone();
        for piece in pieces {
            match piece {
                Piece::Sectors { offset, data } => image.write(data, *offset),
                Piece::Punch(range) => image.punch(range.clone()),
            }
        }
        image.set_len(length);
        image.cut_at_end();
        image
    }
}

/// A number that two images share only if they are alike in these pages, or by a chance that is not
/// worth a thought.
fn fingerprint(image: &SparseImage, pages: &BTreeSet<u64>) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let bytes = SparseImage::page_bytes();
    let mut buffer = vec![0; usize::try_from(bytes).unwrap()];
    let start = mix(mix(1, image.len()), image.data_bytes());
    pages.iter().fold(start, |hash, &page| {
        image.read(&mut buffer, page * bytes);
        buffer
            .as_chunks::<8>()
            .0
            .iter()
            .fold(mix(hash, page), |hash, &word| mix(hash, u64::from_le_bytes(word)))
    })
}

/// Does it, and returns the pages that it touched.
fn perform(image: &mut SparseImage, operation: &Operation) -> Range<u64> {
    let page = SparseImage::page_bytes();
    match operation {
        Operation::Write { offset, data } => {
            image.write(data, *offset);
            offset / page..(offset + data.len() as u64).div_ceil(page)
        }
        Operation::SetLen(len) => {
            let old = image.len();
            image.set_len(*len);
            if *len < old { len / page..old.div_ceil(page) } else { 0..0 }
        }
        Operation::Punch(range) => {
            image.punch(range.clone());
            range.start / page..range.end.div_ceil(page)
        }
        Operation::Flush | Operation::LostFlush { .. } => 0..0,
    }
}

fn pieces(operation: &Operation) -> Option<Vec<Piece>> {
    match operation {
        Operation::Write { offset, data } => Some(sectors(*offset, data)),
        Operation::Punch(range) => {
            // Extents go one by one; a large one in at most eight parts.
            let page = SparseImage::page_bytes();
            let step = (range.end - range.start).div_ceil(8).next_multiple_of(page);
            let starts = (range.start / step..range.end.div_ceil(step)).map(|i| i * step);
            Some(
                starts
                    .map(|at| Piece::Punch(at.max(range.start)..(at + step).min(range.end)))
                    .collect(),
            )
        }
        _ => None,
    }
}

fn sectors(offset: u64, data: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut at, mut rest) = (offset, data);
    while !rest.is_empty() {
        let count = usize::try_from(SECTOR - at % SECTOR).unwrap().min(rest.len());
        pieces.push(Piece::Sectors { offset: at, data: rest[..count].to_vec() });
        rest = &rest[count..];
        at += count as u64;
    }
    pieces
}

fn whole_page(cache: &SparseImage, page: u64) -> Vec<Piece> {
    let bytes = SparseImage::page_bytes();
    let mut data = vec![0; usize::try_from(bytes).unwrap()];
    cache.read(&mut data, page * bytes);
    sectors(page * bytes, &data)
}
