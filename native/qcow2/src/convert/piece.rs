//! What a disk has at a guest offset.

/// What stands there, and for how many bytes from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// At least one.
    pub bytes: u64,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Nothing of the file's own: its backing file shows through, or zeros.
    Hole,
    /// Zeros.
    Zero,
    /// The bytes of the file from host offset `offset` on.
    Stored { offset: u64 },
    /// The bytes of `cluster` behind the first `skip`.
    Compressed { cluster: CompressedCluster, skip: u64 },
}

/// Where compressed data lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CompressedCluster {
    pub offset: u64,
    /// How many bytes it takes at most.
    pub bytes: u64,
}

impl Piece {
    pub(super) fn zero(bytes: u64) -> Self {
        Self { bytes, what: What::Zero }
    }

    /// At most the first `bytes` of it.
    pub(super) fn cut(self, bytes: u64) -> Self {
        Self { bytes: self.bytes.min(bytes), ..self }
    }

    /// What is left behind the first `bytes`.
    pub(super) fn behind(self, bytes: u64) -> Self {
        Self { bytes: self.bytes - bytes, what: self.what.behind(bytes) }
    }
}

impl What {
    /// What stands `bytes` further on, as long as it is the same.
    pub(super) fn behind(self, bytes: u64) -> Self {
        match self {
            Self::Hole | Self::Zero => self,
            Self::Stored { offset } => Self::Stored { offset: offset + bytes },
            Self::Compressed { cluster, skip } => Self::Compressed { cluster, skip: skip + bytes },
        }
    }
}
