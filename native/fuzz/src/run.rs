//! Runs a target for a while without libFuzzer: seeds, and what becomes of them when bytes change.
//!
//! Deterministic: input number N of a target is always the same, so that a finding is a number.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::allocation::peak_bytes;
use crate::random::Random;
use crate::seeds::seeds;
use crate::targets::Target;

/// Numbers that change what a field means.
const ODD: [u64; 12] =
    [0, 1, 8, 255, 512, 1024, 65_536, 1 << 31, u32::MAX as u64, 1 << 56, 1 << 62, u64::MAX];

/// What a run was like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Inputs that were tried.
    pub inputs: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// The most memory that one input took.
    pub peak_bytes: u64,
    /// The longest that one input took.
    pub slowest: Duration,
}

/// The inputs of one target, by number.
pub struct Inputs {
    seeds: Vec<Vec<u8>>,
    is_choices: bool,
}

impl Inputs {
    /// Those of the target of this name.
    pub fn new(target: &str) -> Self {
        Self { seeds: seeds(target), is_choices: matches!(target, "generated" | "files") }
    }

    /// Input `number`: first the seeds, then changed ones.
    pub fn get(&self, number: u64) -> Vec<u8> {
        if let Some(seed) = usize::try_from(number).ok().and_then(|n| self.seeds.get(n)) {
            return seed.clone();
        }
        let mut random = Random::new(number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        if self.is_choices {
            // Nothing in choices is worth keeping.
            let count = 100 + random.below(2400);
            return random.bytes(count);
        }
        let mut bytes = random.pick(&self.seeds).clone();
        for _ in 0..=random.below(4) {
            change(&mut bytes, &mut random);
        }
        bytes
    }
}

fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return bytes.extend(random.bytes(8));
    }
    // Half of the changes are near the beginning, where the header is.
    let near = bytes.len().min(160);
    let within = if random.below(2) == 0 { near } else { bytes.len() };
    let at = random.below(within);
    match random.below(6) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.bytes(1)[0],
        2 => {
            let count = *random.pick(&[1, 2, 4, 8]);
            let value = random.pick(&ODD).to_be_bytes();
            let at = at / count * count;
            let end = bytes.len().min(at + count);
            bytes[at..end].copy_from_slice(&value[8 - count..][..end - at]);
        }
        3 => {
            let from = random.below(bytes.len()) / 8 * 8;
            let at = at / 8 * 8;
            let count = (bytes.len() - from.max(at)).min(8);
            bytes.copy_within(from..from + count, at);
        }
        4 => bytes.truncate(at),
        _ => {
            let count = random.below(2048);
            bytes.resize(bytes.len() + count, 0);
        }
    }
}

/// Tries inputs from `first` on for as long as `time`. A panic comes back as the number of the
/// input that it is about.
pub fn run(target: &Target, first: u64, time: Duration) -> Result<Totals, u64> {
    let (name, work) = target;
    let inputs = Inputs::new(name);
    let started = Instant::now();
    let mut totals = Totals::default();
    for number in first.. {
        let bytes = inputs.get(number);
        let before = Instant::now();
        let mut result = Ok(());
        let peak = peak_bytes(|| result = catch_unwind(AssertUnwindSafe(|| work(&bytes))));
        result.map_err(|_| number)?;
        totals.inputs += 1;
        totals.peak_bytes = totals.peak_bytes.max(peak);
        totals.slowest = totals.slowest.max(before.elapsed());
        totals.elapsed = started.elapsed();
        if totals.elapsed >= time {
            break;
        }
    }
    Ok(totals)
}
