//! More references than a refcount can hold.

use crate::bench::{Bench, L1_ENTRIES};

#[test]
fn references_beyond_the_width_are_told_in_order() {
    for width in [1, 2, 4, 8] {
        let options = format!("cluster_size=4096,refcount_bits={width}");
        let bench = Bench::create(4 << 20, &options).prepare(&["w 0 64k"]);
        let entry = bench.get(bench.l2(), 8);
        for slot in 16..36 {
            bench.put(bench.l2() + slot * 8, 8, entry + (slot / 30) * 4096);
        }
        bench.put(L1_ENTRIES, 4, 3);
        bench.put(bench.l1() + 8, 8, bench.l2());
        bench.compare(&format!("{width} bits"));
    }
}
