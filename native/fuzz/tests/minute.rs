//! A minute of every target, on any toolchain: no panic, no memory and no reads that the input does
//! not account for, no loss.
//!
//! `CALQUE_FUZZ_SECONDS` makes the minute longer; `CALQUE_SEED` chooses other inputs.

use std::time::Duration;

use qcow2_fuzz::run::run;
use qcow2_fuzz::{TARGETS, target};

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        Err(_) => default,
    }
}

/// Runs one target for its part of the time.
fn hold(name: &'static str, share: u32) {
    let work = target(name).expect("a target");
    // Far apart, so that runs of different seeds try different inputs; the first one has the seeds.
    let first = setting("CALQUE_SEED", 0) << 32;
    let time = Duration::from_secs(setting("CALQUE_FUZZ_SECONDS", 60)) * share / 20;
    let result = run(&(name, work), first, time);
    let totals = result.unwrap_or_else(|number| {
        panic!("input {number}: `cargo run -p qcow2-fuzz --example run -- 0 {name} {number}`")
    });
    println!("{name}: {totals:?}");
}

macro_rules! held {
    ($($test:ident: $name:literal, $share:literal;)*) => {
        $(#[test]
        fn $test() {
            hold($name, $share);
        })*

        #[test]
        fn every_target_has_its_part_of_the_time() {
            let names = [$($name),*];
            assert!(TARGETS.iter().all(|(name, _)| names.contains(name)));
            assert_eq!([$($share),*].iter().sum::<u32>(), 20);
        }
    };
}

held! {
    any_bytes_are_a_header_or_an_error: "header", 2;
    any_snapshot_table_survives_or_is_refused: "snapshots", 1;
    any_entry_means_what_the_specification_says: "entries", 1;
    any_bytes_have_content_or_an_error: "content", 2;
    any_bytes_can_be_checked: "check", 2;
    any_bytes_can_be_worked_on_or_stay_as_they_are: "operations", 4;
    what_is_built_and_damaged_is_judged_and_never_made_worse: "generated", 5;
    what_is_built_and_damaged_is_cloned_and_converted_whole_or_not_at_all: "files", 3;
}
