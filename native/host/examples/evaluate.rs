//! Evaluates a JavaScript module from a file inside the host: how tests go through this door.
//!
//! The shipped executable evaluates what was built into it and nothing else, so the way in is a
//! program of its own.

use std::{env, fs};

use calque_host::{Source, run};

fn main() {
    let file = env::args_os().nth(1).expect("usage: evaluate FILE");
    let text = fs::read_to_string(file).expect("the module can be read");
    run(Source::Text("evaluate.js", text), "evaluate.js")
}
