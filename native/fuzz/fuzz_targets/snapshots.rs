//! The target `snapshots` under libFuzzer. What it does is in the library.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| qcow2_fuzz::target("snapshots").expect("a target")(bytes));
