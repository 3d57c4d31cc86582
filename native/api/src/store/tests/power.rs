//! What is there when the power goes right after an operation has answered.

use super::*;

#[path = "../../../../qcow2/src/os/mounted.rs"]
#[allow(dead_code, reason = "the core's tests use all of it")]
mod mounted;

/// A store on a disk of its own.
struct Disk {
    disk: mounted::Mounted,
    scene: Scene,
}

impl Disk {
    /// None, which is said, where the machine cannot mount such a file system.
    fn new(kind: &str) -> Option<Self> {
        let disk = mounted::Mounted::new(kind)?;
        let root = disk.path().join("a/store").to_str().unwrap().to_owned();
        let store = store_open(StoreOpenRequest { root, create: Some(true) }).unwrap();
        let scene = Scene { directory: tempfile::tempdir().unwrap(), root: store.root.into() };
        Some(Self { disk, scene })
    }

    /// The power goes and comes back.
    fn cut(self) -> Self {
        let disk = self.disk.after_power_cut();
        let root = disk.path().join("a/store");
        Self { scene: Scene { root, ..self.scene }, disk }
    }
}

#[test]
fn what_is_called_durable_is_there_after_a_power_cut() {
    let [old, new] = ["old", "new"].map(|word| word.repeat(30_000));
    for kind in ["ext4", "xfs", "btrfs"] {
        let Some(disk) = Disk::new(kind) else { continue };
        let disk = disk.cut();
        for path in ["instances", "stage", "stage/x", "stage/x/dev"] {
            disk.scene.make_directory(path).unwrap();
            let parent = Path::new(path).parent().and_then(Path::to_str).unwrap();
            disk.scene.sync(if parent.is_empty() { "." } else { parent }).unwrap();
        }
        let record = "stage/x/dev/record";
        disk.scene.create(record, &old).unwrap();
        let disk = disk.cut();
        assert!(disk.scene.text(record) == old, "{kind}");

        disk.scene.replace(record, &new).unwrap();
        let disk = disk.cut();
        assert!(disk.scene.text(record) == new, "{kind}");

        disk.scene.rename("stage/x/dev", DEV).unwrap();
        let disk = disk.cut();
        assert_eq!(disk.scene.names("stage/x"), [""; 0], "{kind}");
        assert!(disk.scene.text(RECORD) == new, "{kind}");

        disk.scene.append("instances/dev/history", "one\n").unwrap();
        store_sync(StoreSyncRequest { root: disk.scene.root(), paths: None }).unwrap();
        let disk = disk.cut();
        assert_eq!(disk.scene.text("instances/dev/history"), "one\n", "{kind}");
    }
}
