//! One change, carried out in several files that hold the same bytes.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::Draft;
use crate::error::Result;
use crate::image::Image;
use crate::plan::Plan;
use crate::storage::{FileStorage, Storage};
use crate::transaction::{CommitOptions, commit};

/// Carries out `plan`, which was made on the source, in drafts that hold what it reads and nobody
/// sees. An error says which draft it is about.
pub(super) fn commit_to(drafts: &mut [&mut Draft], plan: Plan) -> Result<()> {
    let files = drafts
        .iter()
        .map(|draft| FileStorage::from_file(draft.staged.file().try_clone()?))
        .collect::<Result<_>>()?;
    let failed = Arc::new(OnceLock::new());
    let alike = Alike { files, failed: Arc::clone(&failed) };
    let mut image = Image::open(Box::new(alike))?;
    let options = &mut CommitOptions { staged: true, ..Default::default() };
    let committed = commit(&mut image, plan, options).map_err(|error| match failed.get() {
        Some(&index) => error.about(drafts[index].staged.target()),
        None => error,
    })?;
    for draft in drafts {
        draft.written_bytes += committed.written_bytes;
    }
    Ok(())
}

/// Files of the same content, which is read from the first and written to all.
struct Alike {
    files: Vec<FileStorage>,
    /// Position of the file that failed.
    failed: Arc<OnceLock<usize>>,
}

impl Alike {
    /// Does it to the file at `index`, and notes it if that fails.
    fn with<T>(
        &self,
        index: usize,
        act: impl FnOnce(&FileStorage) -> io::Result<T>,
    ) -> io::Result<T> {
        act(&self.files[index]).inspect_err(|_| {
            let _ = self.failed.set(index);
        })
    }

    fn first<T>(&self, act: impl FnOnce(&FileStorage) -> io::Result<T>) -> io::Result<T> {
        self.with(0, act)
    }

    fn all(&self, mut act: impl FnMut(&FileStorage) -> io::Result<()>) -> io::Result<()> {
        (0..self.files.len()).try_for_each(|index| self.with(index, &mut act))
    }
}

impl Storage for Alike {
    fn len(&self) -> io::Result<u64> {
        self.first(Storage::len)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.first(|file| file.read_at(buf, offset))
    }

    fn read_durable(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.first(|file| file.read_durable(buf, offset))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.all(|file| file.write_at(buf, offset))
    }

    fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        self.all(|file| file.write_back(range.clone()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.all(|file| file.set_len(len))
    }

    fn flush(&self) -> io::Result<()> {
        self.all(Storage::flush)
    }

    /// What one of the files cannot give back must not keep the others from doing so.
    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.all(|file| match file.punch(range.clone()) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        })
    }

    fn data_ranges(&self, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        self.first(|file| file.data_ranges(within))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn alike<const COUNT: usize>(files: [File; COUNT]) -> Alike {
        let files = files.map(|file| FileStorage::from_file(file).unwrap()).into();
        Alike { files, failed: Arc::default() }
    }

    #[test]
    fn every_file_gets_what_is_written() {
        let files = alike([tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()]);
        files.set_len(1 << 20).unwrap();
        files.write_at(&[7; 8192], 4096).unwrap();
        files.punch(4096..8192).unwrap();
        for file in &files.files {
            let mut found = [1; 12_288];
            file.read_at(&mut found, 0).unwrap();
            assert!(found[..8192] == [0; 8192] && found[8192..] == [7; 4096]);
            assert_eq!(file.len().unwrap(), 1 << 20);
        }
        assert_eq!(files.failed.get(), None);
    }

    #[test]
    fn an_error_is_noted_with_the_file_that_it_is_about() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let read_only = File::open(named.path()).unwrap();
        let files = alike([tempfile::tempfile().unwrap(), read_only]);
        assert!(files.read_at(&mut [0; 8], 0).is_ok() && files.failed.get().is_none());
        assert!(files.write_at(b"new", 0).is_err());
        assert_eq!(files.failed.get(), Some(&1));
    }
}
