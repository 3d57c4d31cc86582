//! Bytes on their way to a new file: neighbours are written together, and long runs of them by a
//! thread of its own, so that the next ones are read meanwhile.
//!
//! No two bytes go to the same place, so the order of the writes means nothing.

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

/// What is written at once.
const BATCH_BYTES: usize = 1 << 20;

/// Less is written at once by whoever brings it: waking the thread would take longer.
const HAND_OVER_BYTES: usize = 256 << 10;

/// Batches that may wait for the thread.
const WAITING_BATCHES: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    batch: Batch,
    writer: Option<Writer>,
}

#[derive(Debug, Default)]
struct Batch {
    /// Where the first byte goes.
    offset: u64,
    bytes: Vec<u8>,
}

/// The thread, from the first long batch on.
#[derive(Debug)]
struct Writer {
    /// Gone when there is nothing more to write.
    batches: Option<SyncSender<Batch>>,
    /// Buffers that were written, to be filled again.
    written: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Outbox {
    /// Takes `bytes` for `offset` of `file`; they may be written later, and an error may come with
    /// a later call.
    pub(super) fn put(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = self.batch.offset + self.batch.bytes.len() as u64;
        if offset != end || self.batch.bytes.len() >= BATCH_BYTES {
            self.send(file)?;
            self.batch.offset = offset;
        }
        self.batch.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes what is there. Returns when all of it is written.
    pub(super) fn finish(&mut self, file: &File) -> io::Result<()> {
        self.send(file)?;
        self.writer.as_mut().map_or(Ok(()), Writer::finish)
    }

    fn send(&mut self, file: &File) -> io::Result<()> {
        if self.batch.bytes.len() < HAND_OVER_BYTES {
            file.write_all_at(&self.batch.bytes, self.batch.offset)?;
            self.batch.bytes.clear();
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(Writer::new(file.try_clone()?)),
        };
        writer.write(mem::take(&mut self.batch))?;
        self.batch.bytes = writer.written.try_recv().unwrap_or_default();
        Ok(())
    }
}

impl Writer {
    fn new(file: File) -> Self {
        let (batches, to_write) = sync_channel(WAITING_BATCHES);
        let (done, written) = channel();
        let thread = thread::spawn(move || write_all(&file, &to_write, &done));
        Self { batches: Some(batches), written, thread: Some(thread) }
    }

    fn write(&mut self, batch: Batch) -> io::Result<()> {
        let sent = self.batches.as_ref().is_some_and(|batches| batches.send(batch).is_ok());
        // A thread that has ended has failed.
        if sent { Ok(()) } else { self.finish() }
    }

    /// Waits for the thread; says why it failed.
    fn finish(&mut self) -> io::Result<()> {
        self.batches = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().expect("writing does not panic")
    }
}

impl Drop for Writer {
    /// Whoever gave up leaves nobody behind who still writes.
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

fn write_all(file: &File, batches: &Receiver<Batch>, written: &Sender<Vec<u8>>) -> io::Result<()> {
    for Batch { offset, mut bytes } in batches {
        file.write_all_at(&bytes, offset)?;
        bytes.clear();
        // Nobody may want it any more.
        let _ = written.send(bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_where_it_belongs() {
        let file = tempfile::tempfile().unwrap();
        let mut outbox = Outbox::default();
        let long: Vec<u8> = (1..=251).cycle().take(9 * BATCH_BYTES + 5).collect();
        for (offset, bytes) in [(3, &b"abc"[..]), (6, b"de"), (20, b"f"), (9, b"g")] {
            outbox.put(&file, offset, bytes).unwrap();
        }
        for (index, part) in long.chunks(65_536).enumerate() {
            outbox.put(&file, 21 + 65_536 * index as u64, part).unwrap();
        }
        outbox.finish(&file).unwrap();
        let mut all = vec![0; 21 + long.len()];
        file.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(&all[..10], b"\0\0\0abcde\0g");
        assert_eq!(&all[10..21], b"\0\0\0\0\0\0\0\0\0\0f");
        assert!(all[21..] == long);
        assert_eq!(file.metadata().unwrap().len(), all.len() as u64);
    }

    #[test]
    fn what_cannot_be_written_is_an_error_then_or_later() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let read_only = File::open(named.path()).unwrap();
        let part = vec![7; 65_536];
        for count in [1, 5, 200] {
            let mut outbox = Outbox::default();
            let mut put = (0..count).map(|n| outbox.put(&read_only, 65_536 * n, &part));
            let failed = put.find_map(Result::err);
            let error = failed.or_else(|| outbox.finish(&read_only).err()).unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{count}");
        }
    }
}
