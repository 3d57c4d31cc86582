//! Writes the corpus that libFuzzer begins with: `seeds TARGET DIRECTORY`; with a number behind,
//! that input of [`run`](qcow2_fuzz::run), and where there is one, the image that it is about.

use std::fs;
use std::path::Path;

use qcow2_fuzz::run::Inputs;
use qcow2_fuzz::seeds::seeds;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [target, directory, number @ ..] = words.as_slice() else {
        eprintln!("usage: seeds TARGET DIRECTORY [NUMBER]");
        std::process::exit(2);
    };
    let directory = Path::new(directory);
    fs::create_dir_all(directory).expect("a directory");
    if let Some(number) = number.first() {
        let bytes = Inputs::new(target).get(number.parse().expect("a number"));
        if let Some(image) = qcow2_fuzz::image_of(target, &bytes) {
            fs::write(directory.join(format!("{target}-{number}.qcow2")), image).expect("a file");
        }
        fs::write(directory.join(format!("{target}-{number}")), bytes).expect("a file");
        return;
    }
    for (number, seed) in seeds(target).iter().enumerate() {
        fs::write(directory.join(format!("seed-{number}")), seed).expect("a file");
    }
}
