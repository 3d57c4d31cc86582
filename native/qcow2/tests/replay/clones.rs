//! Clones of images from seeds: the commit that drops every snapshot, or makes one the content, and
//! the upgrade to version 3. Nobody sees a clone before all of it is durable, so that there are no
//! states to cut; what is published has to be right, and the source as it was.

use qcow2::clone::{Selection, Strategy, Version, Wanted, clone_image};
use qcow2::storage::{Access, FileStorage, SparseImage};

use crate::support::Random;
use crate::support::history::Scene;
use crate::support::layout::Layout;
use crate::support::oracle::Known;
use crate::support::qemu::Workshop;
use crate::trial::{first_look, sound};

/// Clones the image in every way. Returns how many clones were looked at.
pub fn clone(scene: &Scene, workshop: &Workshop, random: &mut Random) -> u64 {
    let image = &scene.fixture.image;
    let what = &scene.fixture.name;
    let (_, before) = first_look(image, what);
    let source_path = workshop.put("source.qcow2", image);
    let source = FileStorage::open(&source_path, Access::Read).unwrap();
    let mut selections = vec![Selection::ActiveDisk, Selection::Everything];
    let chosen = (!before.view.snapshots.is_empty()).then(|| random.pick(&before.view.snapshots));
    selections.extend(chosen.map(|snapshot| Selection::Snapshot(&snapshot.name)));
    let version = *random.pick(&[Version::Kept, Version::Upgraded]);
    let old = Layout::read(image).unwrap();
    let mut count = 0;
    for selection in selections {
        let what = format!("{selection:?}, {version:?} clone of {what}");
        let target = workshop.path("clone.qcow2");
        let wanted = Wanted { selection, strategy: Strategy::Copy, version };
        clone_image(&source, std::slice::from_ref(&target), wanted, &mut |_, _| {})
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let clone = SparseImage::load(&target).unwrap();
        std::fs::remove_file(target).unwrap();
        let after = sound(&clone, &Known::nothing(), before.leaks, &what).view;
        let layout = Layout::read(&clone).unwrap();
        let upgraded = if version == Version::Upgraded { 3 } else { old.version };
        assert_eq!(layout.version, upgraded, "{what}");
        let snapshot = chosen.filter(|_| matches!(selection, Selection::Snapshot(_)));
        let (size, content) = match snapshot {
            Some(snapshot) => (snapshot.size().unwrap_or(before.view.size), &snapshot.content),
            None => (before.view.size, &before.view.active),
        };
        assert_eq!(after.size, size, "{what}");
        assert!(after.keys == before.view.keys, "{what}: other keys");
        let above = size.div_ceil(layout.cluster());
        let content = content.range(..above);
        assert!(after.active.iter().eq(content), "{what}: other content");
        if selection == Selection::Everything {
            let pairs = after.snapshots.iter().zip(&before.view.snapshots);
            let all = after.snapshots.len() == before.view.snapshots.len();
            let mut same = pairs.map(|(a, b)| a.same_but_name(b) && a.name == b.name);
            assert!(all && same.all(|same| same), "{what}: other snapshots");
        } else {
            assert!(after.snapshots.is_empty(), "{what}: snapshots stayed");
        }
        count += 1;
    }
    let now = SparseImage::load(&source_path).unwrap();
    assert!(sound(&now, &Known::nothing(), u64::MAX, what).view == before.view, "{what}: source");
    count
}
