//! Images nobody thought of: a small sound one is built from the choices that the input makes, then
//! fields of it get values that a careless reader would trust.
//!
//! Nothing here uses the library: the format is written down a second time, as plainly as possible,
//! so that a mistake in the library's reading is not made again in the writing.

mod build;
mod damage;
mod disk;
mod shape;

use arbitrary::{Result, Unstructured};

pub use build::build;
pub use damage::damage;

use crate::random::Random;

/// Bytes of choices, which no image uses up.
const CHOICES: usize = 2000;

/// Numbers of one width that stand next to each other in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Host offset of the first.
    pub at: u64,
    /// Bytes of one: 1, 2, 4 or 8, big endian.
    pub bytes: usize,
    /// How many there are.
    pub count: u64,
}

/// A sound image, and where in it numbers stand that somebody reads.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The file.
    pub bytes: Vec<u8>,
    /// Every kind of field about as often as every other, however many of a kind there are.
    pub fields: Vec<Field>,
    /// log2 of the cluster size.
    pub cluster_bits: u32,
}

/// Whether an image was left as it was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It keeps all rules.
    Sound,
    /// Some fields were changed.
    Damaged,
}

/// The image that a number stands for: always the same, for those who compare it with QEMU's view.
pub fn numbered(number: u64) -> (Vec<u8>, Condition) {
    let choices = Random::new(number).bytes(CHOICES);
    image(&mut Unstructured::new(&choices)).expect("choices enough")
}

/// Builds an image and, in two cases of three, damages it.
pub fn image(input: &mut Unstructured<'_>) -> Result<(Vec<u8>, Condition)> {
    let generated = build(input)?;
    if input.ratio(1, 3)? {
        return Ok((generated.bytes, Condition::Sound));
    }
    Ok((damage(generated, input)?, Condition::Damaged))
}

/// Writes the low `count` bytes of `value` at `at`, making the file longer if need be.
fn put(file: &mut Vec<u8>, at: u64, value: u64, count: usize) {
    write(file, at, &value.to_be_bytes()[8 - count..]);
}

fn write(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).expect("a small file");
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}
