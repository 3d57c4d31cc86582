//! Names that an image chose.

use crate::bench::small;
use crate::verdict::by_us;

#[test]
fn control_characters_of_names_do_not_reach_the_terminal() {
    let bench = small();
    let at = bench.snapshots();
    bench.put(at, 8, 0x9_0200);
    let name = at + 40 + bench.get(at + 36, 4) + bench.get(at + 12, 2);
    bench.put(name, 1, 0x1b);
    let ours = by_us(&bench.path);
    assert!(ours.lines.starts_with("ERROR snapshot 1 (\\u{1b}ne) l1_offset=0x90200: "), "{ours:?}");
}
