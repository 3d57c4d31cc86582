//! Writes generated images, sound and damaged, for programs that read files: `images DIRECTORY SEED
//! COUNT` makes `0.qcow2` and so on, those that `tests/differential.rs` compares with that seed.

use std::fs;
use std::path::Path;

use qcow2_fuzz::generate::numbered;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [directory, seed, count] = words.as_slice() else {
        eprintln!("usage: images DIRECTORY SEED COUNT");
        std::process::exit(2);
    };
    let [seed, count]: [u64; 2] = [seed, count].map(|word| word.parse().expect("a number"));
    fs::create_dir_all(directory).expect("a directory");
    for number in 0..count {
        let (image, _) = numbered(seed << 32 | number);
        fs::write(Path::new(directory).join(format!("{number}.qcow2")), image).expect("a file");
    }
}
