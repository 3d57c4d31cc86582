//! `check -r` against `qemu-img check -r`: the same lines, numbers and statuses, and an image at
//! least as good afterwards, as `qemu-img` judges it. Both programs must be installed.

#[path = "../check/bench.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod bench;
mod crash;
#[path = "../check/damages.rs"]
mod damages;
mod faults;
mod hidden;
mod one;
mod outcome;
mod random;
#[path = "../support/mod.rs"]
mod support;
#[path = "../check/verdict.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod verdict;
