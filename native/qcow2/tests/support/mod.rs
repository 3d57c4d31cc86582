//! What the crash, fault and calibration tests share. Nothing here uses the library's own knowledge
//! of qcow2: an oracle that shared code with what it judges would share its mistakes.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod damaged;
pub mod fixtures;
pub mod guest;
pub mod history;
pub mod judge;
pub mod layout;
pub mod operations;
pub mod oracle;
pub mod pack;
pub mod plant;
pub mod qemu;
pub mod replay;
pub mod sweep;
pub mod unproven;

/// A seeded generator (splitmix64). Every failure prints the seed that brings it back.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One that depends on this seed and on `name`, so that tests do not walk in step.
    pub fn named(seed: u64, name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self(seed ^ hash)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            let other = usize::try_from(self.below(index as u64 + 1)).unwrap();
            items.swap(index, other);
        }
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[usize::try_from(self.below(items.len() as u64)).unwrap()]
    }
}

/// A number from the environment, else `default`.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        Err(_) => default,
    }
}

/// The seed of this run.
pub fn seed() -> u64 {
    setting("CALQUE_SEED", 20_240)
}
