//! Images without a mistake: the numbers of what is in use.

use crate::bench::{Bench, lively};

#[test]
fn sound_images_of_every_geometry_get_qemus_numbers() {
    for bits in [9, 12, 16, 21] {
        for options in ["compat=0.10", "refcount_bits=16", "lazy_refcounts=on"] {
            let verdict = lively(bits, options).compare(&format!("2^{bits}, {options}"));
            assert_eq!(verdict.status, 0, "2^{bits}, {options}: {verdict:?}");
        }
    }
    for width in [1, 2, 4, 8, 32, 64] {
        let bench = lively(12, &format!("refcount_bits={width}"));
        assert_eq!(bench.compare(&format!("{width} bits")).status, 0);
    }
    for options in ["preallocation=metadata", "preallocation=falloc"] {
        let bench =
            Bench::create(4 << 20, options).prepare(&["w 0 64k", "snapshot a", "z 1M 128k"]);
        assert_eq!(bench.compare(options).status, 0);
    }
    for bits in [9, 12, 16] {
        for options in ["compression_type=zlib", "compression_type=zstd"] {
            let bench = Bench::compressed(bits, options);
            let overwritten = format!("w {} {}", 5 << bits, 3 << bits);
            let bench = bench.prepare(&["snapshot one", &overwritten]);
            assert_eq!(bench.compare(&format!("2^{bits}, {options}")).status, 0);
        }
    }
    let empty = Bench::create(0, "cluster_size=65536");
    assert_eq!(empty.compare("no disk at all").status, 0);
}
