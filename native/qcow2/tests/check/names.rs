//! Names that an image chose.

use crate::bench::small;

/// The story: they were escaped here and, on a terminal, again by who prints them; and a script that
/// reads qemu-img's lines from a pipe found another name.
#[test]
fn names_of_snapshots_stand_in_lines_as_the_image_has_them() {
    for hostile in [0x1b, b'\n', b'\\', b'"', 0x80] {
        let bench = small();
        let at = bench.snapshots();
        bench.put(at, 8, 0x9_0200);
        let name = at + 40 + bench.get(at + 36, 4) + bench.get(at + 12, 2);
        bench.put(name, 1, hostile.into());
        let verdict = bench.compare(&format!("{hostile:#x}"));
        let shown = String::from_utf8_lossy(&[hostile]).into_owned();
        let line = format!("ERROR snapshot 1 ({shown}ne) l1_offset=0x90200: ");
        assert!(verdict.lines.starts_with(&line), "{verdict:?}");
    }
}
