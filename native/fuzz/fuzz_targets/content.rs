#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qcow2_fuzz::target("content").expect("a target")(bytes));
