//! How fast a file system can be: sequential reads and writes past the cache, and one flush. These
//! three make the physical minimum that an operation is compared with.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use rustix::fs::OFlags;

use crate::Result;

const FILE_BYTES: u64 = 256 << 20;
const BLOCK_BYTES: usize = 4 << 20;
const ALIGN_BYTES: usize = 4096;
const FLUSHES: usize = 101;

/// Measures in a file of its own in `directory`, which is removed.
pub fn run(directory: &str) -> Result<String> {
    let path = Path::new(directory).join(".bench-device");
    let result = measure(&path);
    std::fs::remove_file(&path)?;
    result
}

fn measure(path: &Path) -> Result<String> {
    File::create(path)?;
    let (file, direct) = open(path)?;
    let mut memory = vec![0; BLOCK_BYTES + ALIGN_BYTES];
    let skip = memory.as_ptr().align_offset(ALIGN_BYTES);
    let block = &mut memory[skip..skip + BLOCK_BYTES];
    // Nothing on the way may save itself work because of zeros.
    let mut state = 1_u64;
    for byte in block.iter_mut() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = state.to_be_bytes()[0];
    }
    let blocks = || (0..FILE_BYTES).step_by(BLOCK_BYTES);
    // The first pass allocates; the second is the device.
    let mut write_ns = 0;
    for _ in 0..2 {
        let start = Instant::now();
        for offset in blocks() {
            file.write_all_at(block, offset)?;
        }
        file.sync_data()?;
        write_ns = start.elapsed().as_nanos();
    }
    let start = Instant::now();
    for offset in blocks() {
        file.read_exact_at(block, offset)?;
    }
    let read_ns = start.elapsed().as_nanos();

    let cached = OpenOptions::new().write(true).open(path)?;
    let mut flushes = Vec::new();
    for nth in 0..FLUSHES {
        cached.write_all_at(&[u8::try_from(nth)?; 512], 0)?;
        let start = Instant::now();
        cached.sync_data()?;
        flushes.push(start.elapsed().as_nanos());
    }
    flushes.sort_unstable();
    let per_second = |ns: u128| u128::from(FILE_BYTES) * 1_000_000_000 / ns;
    Ok(format!(
        r#"{{"readBytesPerSecond":{},"writeBytesPerSecond":{},"flushNs":{},"direct":{direct}}}"#,
        per_second(read_ns),
        per_second(write_ns),
        flushes[FLUSHES / 2],
    ))
}

/// Past the cache where the file system can do that.
fn open(path: &Path) -> Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let flags = i32::try_from(OFlags::DIRECT.bits())?;
    match options.clone().custom_flags(flags).open(path) {
        Ok(file) => Ok((file, true)),
        Err(_) => Ok((options.open(path)?, false)),
    }
}
