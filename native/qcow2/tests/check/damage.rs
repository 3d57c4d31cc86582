//! One mistake at a time, in every table.

use std::fs;

use crate::bench::small;
use crate::damages::DAMAGES;

#[test]
fn every_damage_is_reported_as_qemu_reports_it() {
    let bench = small();
    let sound = fs::read(&bench.path).unwrap();
    for (story, damage) in DAMAGES {
        fs::write(&bench.path, &sound).unwrap();
        damage(&bench);
        bench.compare(story);
    }
}
