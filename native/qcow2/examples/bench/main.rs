//! The parts of the benchmark that a script cannot do; `scripts/bench.ts` calls them. Each prints
//! one line of JSON. Times are in nanoseconds, sizes in bytes.
//!
//! ```text
//! bench measure COMMAND [ARGUMENT…]             a whole process: time, processor, peak memory
//! bench measure-at-most SECONDS COMMAND …       the same, and ended when it takes longer
//! bench measure-without-punching COMMAND …      the same where no space can be given back
//! bench fabricate IMAGE BYTES LAYOUT            an image whose clusters are all allocated
//! bench minimum IMAGE OPERATION [NAME]          what the format makes an operation read and write
//! bench device DIRECTORY                        how fast the file system there can be
//! bench ficlone SOURCE TARGET                   the kernel's share of a clone
//! ```

mod device;
mod fabricate;
mod ficlone;
mod measure;
mod minimum;
#[path = "../tables/mod.rs"]
mod tables;

use std::process::ExitCode;

/// Whatever went wrong, in words: these are for one reader, at the end of one line.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result =
        match arguments[..] {
            ["measure", command, ref arguments @ ..] => measure::run(command, arguments),
            ["measure-at-most", seconds, command, ref arguments @ ..] => {
                measure::run_at_most(seconds, command, arguments)
            }
            ["measure-without-punching", command, ref arguments @ ..] => {
                measure::run_without_punching(command, arguments)
            }
            ["fabricate", image, bytes, layout] => fabricate::run(image, bytes, layout),
            ["minimum", image, operation] => minimum::run(image, operation, ""),
            ["minimum", image, operation, name] => minimum::run(image, operation, name),
            ["device", directory] => device::run(directory),
            ["ficlone", source, target] => ficlone::run(source, target),
            _ => Err("the first lines of native/qcow2/examples/bench/main.rs say how to call this"
                .into()),
        };
    match result {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: bench {}: {error}", arguments.join(" "));
            ExitCode::FAILURE
        }
    }
}
