//! The executable `calque`.

use calque_host::{Bundle, run};

/// The modules of `src/`, compiled by the build script.
static MODULES: Bundle = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

fn main() {
    calque_api::report_file_size_limit();
    run(MODULES, "embedded.js")
}
