//! qemu-img as the second judge, of one state in many.

use qcow2::storage::SparseImage;

use crate::arguments::Arguments;
use crate::report::Report;
use crate::support::layout::{Layout, be32};
use crate::support::oracle;
use crate::support::plant::Keys;
use crate::support::qemu::{self, Workshop};

pub struct Second {
    workshop: Option<Workshop>,
    check_every: u64,
    read_every: u64,
    seen: u64,
    report: Report,
}

impl Second {
    pub fn new(arguments: &Arguments) -> Self {
        let wanted = arguments.qemu_every > 0 || arguments.content_every > 0;
        Self {
            workshop: (wanted && qemu::is_installed()).then(Workshop::new),
            check_every: arguments.qemu_every,
            read_every: arguments.content_every,
            seen: 0,
            report: Report::default(),
        }
    }

    /// What encrypted images must have for it.
    pub fn keys(&self) -> Keys {
        if self.workshop.is_some() { Keys::Usable } else { Keys::Noise }
    }

    /// Shows it the state, if it is its turn. Panics with `what` if qemu-img finds anything.
    pub fn look(&mut self, image: &SparseImage, may_leak: bool, what: &dyn Fn() -> String) {
        let Some(workshop) = &self.workshop else { return };
        // Its content is not what the image holds.
        let is_encrypted = be32(image, 32) != 0;
        self.seen += 1;
        let is_turn = |every: u64| every > 0 && self.seen.is_multiple_of(every);
        let (check, read) = (is_turn(self.check_every), is_turn(self.read_every));
        if !check && !read {
            return;
        }
        let path = workshop.put("state.qcow2", image);
        if check {
            let complaint = match (is_encrypted, may_leak) {
                (true, _) => qemu::complaint_with_key(&path, may_leak),
                (false, true) => qemu::complaint_but_leaks(&path),
                (false, false) => qemu::complaint(&path),
            };
            assert_eq!(complaint, None, "{}", what());
            self.report.checked_by_qemu += 1;
            self.report.checked_with_key += u64::from(is_encrypted);
        }
        let view = oracle::view(image).unwrap();
        // A raw disk of terabytes of zeros is nothing to write out.
        if read && !is_encrypted && view.size <= 1 << 30 {
            let cluster = Layout::read(image).unwrap().cluster();
            let other = qemu::other_content(workshop, &path, &view, cluster);
            assert_eq!(other, None, "{}: qemu-img reads something else", what());
            self.report.read_by_qemu += 1;
        }
    }

    pub fn finish(self) -> Report {
        self.report
    }
}
