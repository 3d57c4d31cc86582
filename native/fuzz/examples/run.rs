//! Runs targets without libFuzzer and says how it went: `run SECONDS [TARGET [FIRST]]`. With 0
//! seconds one input is tried, which is how a finding is looked at again; one of libFuzzer's is a
//! file, whose name stands in the place of the number.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use qcow2_fuzz::run::run;
use qcow2_fuzz::{TARGETS, target};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| words.get(index).and_then(|word| word.parse().ok()).unwrap_or(0);
    let time = Duration::from_secs(number(0));
    if let [_, name, path] = words.as_slice()
        && let (Some(work), Ok(bytes)) = (target(name), fs::read(path))
    {
        work(&bytes);
        println!("{name:10} {path}: nothing is wrong");
        return ExitCode::SUCCESS;
    }
    let mut code = ExitCode::SUCCESS;
    for target in TARGETS.iter().filter(|(name, _)| words.get(1).is_none_or(|only| only == name)) {
        match run(target, number(2), time) {
            Ok(totals) => {
                let seconds = totals.elapsed.as_secs_f64();
                println!(
                    "{:10} {:>9} inputs, {:>7.0} a second, slowest {:>5.1} ms, peak {:>6.2} MiB",
                    target.0,
                    totals.inputs,
                    f64::from(u32::try_from(totals.inputs).unwrap_or(u32::MAX)) / seconds,
                    totals.slowest.as_secs_f64() * 1000.0,
                    f64::from(u32::try_from(totals.peak_bytes >> 10).unwrap_or(u32::MAX)) / 1024.0,
                );
            }
            Err(number) => {
                println!(
                    "{:10} input {number}: look again with `run 0 {} {number}`",
                    target.0, target.0
                );
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
