//! What `check` finds, and the line for it, which is `qemu-img check`'s to the letter: scripts read
//! those.

use std::borrow::Cow;
use std::fmt;

/// One finding. Its [`Display`](fmt::Display) form is what is printed, without a newline at the end.
/// Names of snapshots stand in it as they are: whoever prints it looks after the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what the line says")]
pub enum Problem {
    /// A version 3 snapshot entry lacks the 64-bit VM state size or the disk size.
    SnapshotIncomplete { index: u32 },
    /// Snapshots in an image whose data lives elsewhere.
    ExternalSnapshots { count: u32 },
    /// A snapshot's L1 table does not start on a cluster.
    SnapshotL1Unaligned { id: Vec<u8>, name: Vec<u8>, offset: u64 },
    /// A snapshot's L1 table is longer than 32 MiB.
    SnapshotL1TooLarge { id: Vec<u8>, name: Vec<u8>, entries: u32 },
    /// Something refers to bytes a whole cluster or more past the end of the file.
    BeyondEnd { offset: u64, bytes: u64 },
    /// A cluster has more references than a refcount can hold.
    Overflow { offset: u64 },
    /// Bits of an L1 entry that must be zero are not.
    L1Reserved { entry: u64 },
    /// An L2 table does not start on a cluster.
    L2Unaligned { offset: u64 },
    /// Bits of an L2 entry that must be zero are not.
    L2Reserved { entry: u64 },
    /// A compressed cluster claims to be writable in place.
    CompressedCopied { offset: u64 },
    /// A compressed cluster in an image whose data lives elsewhere.
    CompressedExternal { index: u64, entry: u64 },
    /// Subclusters of a compressed cluster.
    CompressedSubclusters { index: u64, entry: u64 },
    /// Allocated subclusters of a cluster that is nowhere.
    UnallocatedSubclusters,
    /// A subcluster is both allocated and zero.
    SubclustersContradictory { offset: u64 },
    /// A data cluster does not start on a cluster.
    DataUnaligned { offset: u64 },
    /// The cluster kept by a zero cluster does not start on a cluster.
    PreallocatedUnaligned { offset: u64 },
    /// The same, where a repair leaves that cluster out.
    PreallocatedDropped { offset: u64 },
    /// Bits of a refcount table entry that must be zero are not.
    TableEntryReserved { index: u64 },
    /// A refcount block does not start on a cluster.
    BlockUnaligned { index: u64 },
    /// A refcount block lies outside the file.
    BlockOutside { index: u64 },
    /// A refcount block is referenced by something else too.
    BlockShared { index: u64, refcount: u64 },
    /// Said once, before the first cluster whose refcount an unaligned block hides.
    BlockUnusable { index: u64, offset: u64 },
    /// A refcount that cannot be read.
    Unreadable { cluster: u64, reason: String },
    /// The refcount is higher than the references.
    Leaked { cluster: u64, refcount: u64, references: u64 },
    /// The refcount is lower than the references.
    Undercounted { cluster: u64, refcount: u64, references: u64 },
    /// COPIED of an active L1 entry does not match the refcount.
    CopiedL2 { l1_index: u64, entry: u64, refcount: u64 },
    /// COPIED of an active L2 entry does not match the refcount.
    CopiedData { entry: u64, refcount: u64 },
    /// The file was cut off, and a repair has made it longer again.
    Lost { clusters: u64 },
    /// The check cannot go on: an L1 or L2 table cannot be read.
    ReadFailed { level: u8 },
}

impl Problem {
    /// The same in lines of ours; a name in one may have line ends of its own.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let text = self.to_string();
        match self {
            Self::Overflow { .. } => text.lines().map(str::to_owned).collect(),
            _ => vec![text],
        }
    }
}

/// Bytes of a name as C would print them.
fn shown(bytes: &[u8]) -> Cow<'_, str> {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text)
}

/// C's `%#x`, which writes zero as `0`.
fn alternate(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

impl fmt::Display for Problem {
    #[expect(clippy::too_many_lines, reason = "a table of lines")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SnapshotIncomplete { index } => {
                write!(f, "ERROR snapshot table entry {index} is incomplete")
            }
            Self::ExternalSnapshots { count } => {
                write!(f, "ERROR {count} snapshots in image with data file")
            }
            Self::SnapshotL1Unaligned { id, name, offset } => write!(
                f,
                "ERROR snapshot {} ({}) l1_offset={}: L1 table is not cluster aligned; snapshot \
                 table entry corrupted",
                shown(id),
                shown(name),
                alternate(*offset)
            ),
            Self::SnapshotL1TooLarge { id, name, entries } => write!(
                f,
                "ERROR snapshot {} ({}) l1_size={entries:#x}: L1 table is too large; snapshot \
                 table entry corrupted",
                shown(id),
                shown(name)
            ),
            Self::BeyondEnd { offset, bytes } => write!(
                f,
                "ERROR: counting reference for region exceeding the end of the file by one \
                 cluster or more: offset 0x{offset:x} size 0x{bytes:x}"
            ),
            Self::Overflow { offset } => write!(
                f,
                "ERROR: overflow cluster offset=0x{offset:x}\nUse qemu-img amend to increase the \
                 refcount entry width or qemu-img convert to create a clean copy if the image \
                 cannot be opened for writing"
            ),
            Self::L1Reserved { entry } => {
                write!(f, "ERROR found L1 entry with reserved bits set: {entry:x}")
            }
            Self::L2Unaligned { offset } => write!(
                f,
                "ERROR l2_offset={offset:x}: Table is not cluster aligned; L1 entry corrupted"
            ),
            Self::L2Reserved { entry } => {
                write!(f, "ERROR found l2 entry with reserved bits set: {entry:x}")
            }
            Self::CompressedCopied { offset } => write!(
                f,
                "ERROR: coffset=0x{offset:x}: copied flag must never be set for compressed \
                 clusters"
            ),
            Self::CompressedExternal { index, entry } => {
                write!(f, "ERROR compressed cluster {index} with data file, entry=0x{entry:x}")
            }
            Self::CompressedSubclusters { index, entry } => write!(
                f,
                "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, \
                 entry=0x{entry:x}"
            ),
            Self::UnallocatedSubclusters => {
                write!(f, "ERROR: Unallocated cluster has non-zero subcluster allocation map")
            }
            Self::SubclustersContradictory { offset } => write!(
                f,
                "ERROR offset={offset:x}: Allocated cluster has corrupted subcluster allocation \
                 bitmap"
            ),
            Self::DataUnaligned { offset } => write!(
                f,
                "ERROR offset={offset:x}: Data cluster is not properly aligned; L2 entry \
                 corrupted."
            ),
            Self::PreallocatedUnaligned { offset } | Self::PreallocatedDropped { offset } => {
                write!(
                    f,
                    "ERROR offset={offset:x}: Preallocated cluster is not properly aligned; L2 \
                     entry corrupted."
                )
            }
            Self::TableEntryReserved { index } => {
                write!(f, "ERROR refcount table entry {index} has reserved bits set")
            }
            Self::BlockUnaligned { index } => write!(
                f,
                "ERROR refcount block {index} is not cluster aligned; refcount table entry \
                 corrupted"
            ),
            Self::BlockOutside { index } => {
                write!(f, "ERROR refcount block {index} is outside image")
            }
            Self::BlockShared { index, refcount } => {
                write!(f, "ERROR refcount block {index} refcount={refcount}")
            }
            Self::BlockUnusable { index, offset } => write!(
                f,
                "qcow2: Image is corrupt: Refblock offset {} unaligned (reftable index: {}); \
                 further non-fatal corruption events will be suppressed",
                alternate(*offset),
                alternate(*index)
            ),
            Self::Unreadable { cluster, reason } => {
                write!(f, "Can't get refcount for cluster {cluster}: {reason}")
            }
            Self::Leaked { cluster, refcount, references } => {
                write!(f, "Leaked cluster {cluster} refcount={refcount} reference={references}")
            }
            Self::Undercounted { cluster, refcount, references } => {
                write!(f, "ERROR cluster {cluster} refcount={refcount} reference={references}")
            }
            Self::CopiedL2 { l1_index, entry, refcount } => write!(
                f,
                "ERROR OFLAG_COPIED L2 cluster: l1_index={l1_index} l1_entry={entry:x} \
                 refcount={refcount}"
            ),
            Self::CopiedData { entry, refcount } => {
                write!(f, "ERROR OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={refcount}")
            }
            Self::Lost { clusters } => write!(
                f,
                "ERROR {clusters} clusters in use lay past the end of the file, which has grown: \
                 what was in them is lost, and they read as zeros"
            ),
            Self::ReadFailed { level } => {
                write!(f, "ERROR: I/O error in check_refcounts_l{level}")
            }
        }
    }
}
