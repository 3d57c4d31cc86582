#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qcow2_fuzz::target("header").expect("a target")(bytes));
