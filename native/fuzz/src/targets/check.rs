//! The whole check of any bytes.

use qcow2::check::{CheckReport, MAX_PROBLEMS, check as check_image, open};

use super::within_memory;
use crate::storage::ReadOnly;

/// `bytes` are a file.
pub fn check(bytes: &[u8]) {
    within_memory(bytes.len(), || {
        let _ = verdict(bytes);
    });
}

/// What the check says; none where it cannot say anything.
pub fn verdict(bytes: &[u8]) -> Option<CheckReport> {
    let image = open(Box::new(ReadOnly::new(bytes))).ok()?;
    let mut told = 0;
    let mut lines = 0;
    let report = check_image(&image, &mut |problem| {
        told += 1;
        lines += problem.to_string().len();
    });
    assert!(told <= MAX_PROBLEMS, "{told} problems are told");
    let report = report.ok()?;
    let counted = report.corruptions.saturating_add(report.leaks + report.check_errors);
    assert!(counted > 0 || told == 0 || lines > 0);
    assert!(report.problems_omitted <= counted);
    assert!(told + report.problems_omitted >= counted, "{told} told of {report:?}");
    let used = report.allocated_clusters.max(report.fragmented_clusters);
    assert!(report.compressed_clusters <= used);
    Some(report)
}

/// Whether a check found nothing at all.
pub fn is_clean(report: &CheckReport) -> bool {
    report.corruptions == 0 && report.leaks == 0 && report.check_errors == 0
}
