//! Conversions, judged by qemu-img: raw disks to images, images to raw disks, chains to one image,
//! and clones of a newer version. Sources are of QEMU's making; damage is poked in with plain
//! writes.

mod chains;
mod export;
mod hostile;
mod import;
mod scene;
#[path = "../support/mod.rs"]
mod support;
#[path = "../regressions/tools.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod tools;
mod upgrade;
