//! Fields that lie: one to four of them get a value that is odd in itself or odd in this file.

use arbitrary::{Result, Unstructured};

use super::{Field, Generated, put};

/// Values that are interesting whatever the file.
const ODD: [u64; 22] = [
    0,
    1,
    2,
    7,
    8,
    16,
    63,
    64,
    255,
    1023,
    1024,
    1025,
    65_535,
    65_536,
    65_537,
    i32::MAX as u64,
    u32::MAX as u64,
    1 << 22,
    (1 << 56) - 512,
    1 << 56,
    i64::MAX as u64 - 511,
    u64::MAX,
];

/// Bits with a meaning of their own in some entry.
const FLAGS: [u32; 8] = [0, 1, 8, 9, 55, 56, 62, 63];

/// Changes fields of an image, and now and then its length.
pub fn damage(image: Generated, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let Generated { mut bytes, fields, cluster_bits } = image;
    for _ in 0..input.int_in_range(1..=4)? {
        if input.ratio(1, 16)? {
            resize(&mut bytes, cluster_bits, input)?;
            continue;
        }
        let field = input.choose(&fields)?;
        let (at, old) = pick(&bytes, field, input)?;
        let value = match input.int_in_range(0..=9)? {
            0 | 1 => *input.choose(&ODD)?,
            2 => old ^ (1 << input.choose(&FLAGS)?),
            3 => old ^ (1 << input.int_in_range(0..=63)?),
            4 => old.wrapping_add_signed(input.int_in_range(-2..=2)?),
            // What stands in another place: two names for one thing.
            5 | 6 => {
                let other = input.choose(&fields)?;
                pick(&bytes, other, input)?.1
            }
            7 | 8 => {
                let clusters = (bytes.len() as u64 >> cluster_bits) + 2;
                let flags = old & (1 << 63);
                input.int_in_range(0..=clusters)? << cluster_bits | flags
            }
            _ => {
                let end = bytes.len() as u64;
                end.wrapping_add_signed(*input.choose(&[-8, -1, 0, 1, 8, 512])?)
            }
        };
        put_inside(&mut bytes, at, value, field.bytes);
    }
    Ok(bytes)
}

/// One number of a field: where it is, and what it says now.
fn pick(bytes: &[u8], field: &Field, input: &mut Unstructured<'_>) -> Result<(u64, u64)> {
    let index = input.int_in_range(0..=field.count.max(1) - 1)?;
    let at = field.at + index * field.bytes as u64;
    let start = usize::try_from(at).expect("small");
    let number = bytes.get(start..start + field.bytes).unwrap_or_default();
    Ok((at, number.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))))
}

/// Changes what is there; an earlier damage may have cut it off.
fn put_inside(bytes: &mut Vec<u8>, at: u64, value: u64, count: usize) {
    if at + count as u64 <= bytes.len() as u64 {
        put(bytes, at, value, count);
    }
}

fn resize(bytes: &mut Vec<u8>, cluster_bits: u32, input: &mut Unstructured<'_>) -> Result<()> {
    let length = bytes.len();
    let cluster = 1 << cluster_bits;
    let end = match input.int_in_range(0..=3)? {
        0 => length.saturating_sub(input.int_in_range(1..=cluster)?),
        1 => input.int_in_range(0..=length)?,
        2 => length + input.int_in_range(1..=cluster)?,
        _ => length + 40 * cluster,
    };
    bytes.resize(end, 0);
    Ok(())
}
