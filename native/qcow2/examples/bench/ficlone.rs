//! A bare FICLONE: what the kernel alone takes for a clone.

use std::fs::File;
use std::time::Instant;

use crate::Result;

/// Clones `source` to the new file `target`.
pub fn run(source: &str, target: &str) -> Result<String> {
    let source = File::open(source)?;
    let target = File::create_new(target)?;
    let start = Instant::now();
    rustix::fs::ioctl_ficlone(&target, &source)?;
    Ok(format!(r#"{{"ficloneNs":{}}}"#, start.elapsed().as_nanos()))
}
