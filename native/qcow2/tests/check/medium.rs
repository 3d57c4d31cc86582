//! What cannot be read.

use std::io;
use std::ops::Range;

use qcow2::storage::{Access, FileStorage, Storage};

use crate::bench::small;
use crate::support::layout::OFFSET;
use crate::verdict::{by_qemu_with, judged};

/// A medium that cannot be read at one place.
struct Scratched {
    inner: FileStorage,
    at: u64,
}

impl Storage for Scratched {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if (offset..offset + buf.len() as u64).contains(&self.at) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.inner.read_at(buf, offset)
    }

    fn read_durable(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        unreachable!("a check trusts the cache")
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        unreachable!("a check writes nothing")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("a check writes nothing")
    }

    fn flush(&self) -> io::Result<()> {
        unreachable!("a check writes nothing")
    }

    fn punch(&self, _: Range<u64>) -> io::Result<()> {
        unreachable!("a check writes nothing")
    }

    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        Ok(vec![within])
    }
}

#[test]
fn what_cannot_be_read_is_reported_as_qemu_reports_it() {
    let bench = small();
    let inactive_l2 = bench.get(bench.snapshot_l1(), 8) & OFFSET;
    for (what, at) in [
        ("a refcount block", bench.block()),
        ("the active L2 table", bench.l2()),
        ("a snapshot's L1 table", bench.snapshot_l1()),
        ("a snapshot's L2 table", inactive_l2),
        ("the snapshot table", bench.snapshots()),
    ] {
        let inner = FileStorage::open(&bench.path, Access::Read).unwrap();
        let ours = judged(&bench.path, Box::new(Scratched { inner, at }));
        let sector = at / 512;
        let qemu = by_qemu_with(&[
            "--image-opts",
            &format!(
                "driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename={},\
                 file.inject-error.0.event=none,file.inject-error.0.iotype=read,\
                 file.inject-error.0.sector={sector},file.inject-error.0.errno=5",
                bench.path.display()
            ),
        ]);
        assert_eq!(ours, qemu, "{what} (ours left, qemu-img's right)");
    }
}
