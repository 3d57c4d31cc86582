//! The blocks that a command has loaded or made, page by page.
//!
//! Pages are open while they are few. Where there are very many they are packed as long as nobody
//! changes them; a packed page can be asked, and opens when it is to be changed.

use std::num::NonZeroU32;

use super::packed::{Kinds, Packed};
use super::page::{PAGE_CLUSTERS, Page, Refusal};
use crate::format::refcount::RefcountOrder;

/// Pages are packed where more clusters are counted than this: 4 TiB in clusters of 64 KiB.
const PACKED_CLUSTERS: u64 = 1 << 26;
/// And as soon as so many of them are open: a few MiB.
const OPEN_PAGES: usize = 1024;

/// Whether pages are packed where so many clusters are counted. With debug assertions, those of every
/// other small image are, too, so that all tests try both.
pub(super) fn packs(clusters: u64) -> bool {
    clusters > PACKED_CLUSTERS || cfg!(debug_assertions) && clusters % 2 == 1
}

/// Which of the blocks, from one on: they keep their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(NonZeroU32);

impl Slot {
    #[inline]
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// A loaded refcount block.
#[derive(Debug)]
struct Block {
    /// Its pages, in order.
    pages: Box<[Known]>,
    /// NEW differs from OLD, or the block is new.
    dirty: bool,
}

/// What is known of a page.
#[derive(Debug)]
enum Known {
    /// All counts are zero.
    Nothing,
    Open(Box<Page>),
    Packed(Packed),
}

/// What stands for pages that are packed.
#[derive(Debug, Default)]
struct Packing {
    kinds: Kinds,
    /// Block and page of those that are open.
    open: Vec<(Slot, u32)>,
    /// References wait in many pages, which stay open until they are settled.
    waits: bool,
}

/// All blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    order: RefcountOrder,
    /// log2 of the clusters of a page.
    page_bits: u32,
    all: Vec<Block>,
    /// Where pages are packed.
    packing: Option<Packing>,
}

impl Blocks {
    /// None yet, of `1 << block_bits` clusters each; pages are packed where that is said.
    pub fn new(order: RefcountOrder, block_bits: u32, packs: bool) -> Self {
        let page_bits = block_bits.min(PAGE_CLUSTERS.ilog2());
        Self { order, page_bits, all: Vec::new(), packing: packs.then(Packing::default) }
    }

    /// Whether pages are packed.
    pub fn packs(&self) -> bool {
        self.packing.is_some()
    }

    /// Clusters of a page.
    #[inline]
    pub fn page_len(&self) -> usize {
        1 << self.page_bits
    }

    /// The page of an entry of a block, and which one there that is.
    #[inline]
    pub fn locate(&self, entry: usize) -> (usize, usize) {
        (entry >> self.page_bits, entry & (self.page_len() - 1))
    }

    /// Bytes of a page on disk.
    fn page_bytes(&self) -> usize {
        (self.page_len() << self.order.get()) / 8
    }

    /// A block as the disk has it.
    pub fn load(&mut self, bytes: &[u8]) -> Slot {
        let page = |part| match Page::decode(self.order, part, self.page_len()) {
            Some(page) => Known::Open(Box::new(page)),
            None => Known::Nothing,
        };
        let pages = bytes.chunks_exact(self.page_bytes()).map(page).collect();
        self.insert(Block { pages, dirty: false })
    }

    /// A block of which the NEW counts are `bytes`, and OLD is in use where `in_use` says so, by
    /// the entry in the block.
    pub fn replace(&mut self, bytes: &[u8], in_use: impl Fn(usize) -> bool) -> Slot {
        let page = |(part, first): (&[u8], usize)| {
            let page = Page::decode(self.order, part, self.page_len());
            let mut page = page.unwrap_or_else(|| Page::empty(self.page_len()));
            page.use_where(|entry| in_use(first + entry));
            Known::Open(Box::new(page))
        };
        let parts = bytes.chunks_exact(self.page_bytes());
        let pages = parts.zip((0..).step_by(self.page_len())).map(page).collect();
        self.insert(Block { pages, dirty: true })
    }

    /// A new block that counts nothing, of so many clusters.
    pub fn make(&mut self, clusters: u64) -> Slot {
        let pages = (0..clusters / self.page_len() as u64).map(|_| Known::Nothing).collect();
        self.insert(Block { pages, dirty: true })
    }

    fn insert(&mut self, block: Block) -> Slot {
        self.make_room();
        let number = u32::try_from(self.all.len() + 1).ok().and_then(NonZeroU32::new);
        let slot = Slot(number.expect("at most 2^20 blocks"));
        if let Some(packing) = &mut self.packing {
            let pages = (0..).zip(&block.pages).filter(|(_, page)| matches!(page, Known::Open(_)));
            packing.open.extend(pages.map(|(nth, _)| (slot, nth)));
        }
        if self.all.len() == self.all.capacity() {
            self.all.reserve_exact(self.all.len() / 8 + 16);
        }
        self.all.push(block);
        slot
    }

    #[inline]
    fn block(&self, slot: Slot) -> &Block {
        &self.all[slot.index()]
    }

    #[inline]
    fn block_mut(&mut self, slot: Slot) -> &mut Block {
        &mut self.all[slot.index()]
    }

    pub fn is_dirty(&self, slot: Slot) -> bool {
        self.block(slot).dirty
    }

    pub fn set_dirty(&mut self, slot: Slot) {
        self.block_mut(slot).dirty = true;
    }

    /// Packs the open pages, if they are many and nothing waits in them.
    fn make_room(&mut self) {
        let Some(Packing { kinds, open, waits: false }) = &mut self.packing else { return };
        if open.len() < OPEN_PAGES {
            return;
        }
        for (slot, nth) in std::mem::take(open) {
            let known = &mut self.all[slot.index()].pages[nth as usize];
            if let Known::Open(page) = known
                && let Some(packed) = Packed::of(page, kinds)
            {
                *known = Known::Packed(packed);
            }
        }
    }

    fn unpack(&self, packed: &Packed) -> Page {
        packed.unpack(self.kinds(), self.order, self.page_len())
    }

    fn kinds(&self) -> &Kinds {
        &self.packing.as_ref().expect("it was packed").kinds
    }

    /// Shows all pages of a block of which something is known to `look`, each with the number of its
    /// first entry, until that fails.
    pub fn for_pages<E>(
        &self,
        slot: Slot,
        mut look: impl FnMut(usize, &Page) -> Result<(), E>,
    ) -> Result<(), E> {
        for (known, first) in self.block(slot).pages.iter().zip((0..).step_by(self.page_len())) {
            match known {
                Known::Nothing => {}
                Known::Open(page) => look(first, page)?,
                Known::Packed(packed) => look(first, &self.unpack(packed))?,
            }
        }
        Ok(())
    }

    /// Page `nth` of a block; none where nothing is known of it. A packed one is unpacked into
    /// `room`, unless that is where it is.
    pub fn view<'a>(&'a self, slot: Slot, nth: usize, room: &'a mut Room) -> Option<&'a Page> {
        match &self.block(slot).pages[nth] {
            Known::Nothing => None,
            Known::Open(page) => Some(page),
            Known::Packed(packed) => {
                if room.0.as_ref().is_none_or(|it| (it.0, it.1) != (slot, nth)) {
                    room.0 = Some((slot, nth, self.unpack(packed)));
                }
                room.0.as_ref().map(|it| &it.2)
            }
        }
    }

    /// NEW count of an entry of page `nth`, and whether the state after the commit was seen to
    /// reference that cluster more than once.
    #[inline]
    pub fn count(&self, slot: Slot, nth: usize, entry: usize) -> (u64, bool) {
        match &self.block(slot).pages[nth] {
            Known::Nothing => (0, false),
            Known::Open(page) => (page.counts.get(entry), page.is_shared(entry)),
            Known::Packed(packed) => packed.count(self.kinds(), entry),
        }
    }

    /// Page `nth` of a block, to be changed.
    pub fn open(&mut self, slot: Slot, nth: usize) -> &mut Page {
        if !matches!(self.block(slot).pages[nth], Known::Open(_)) {
            self.make_room();
            let opened = match &self.block(slot).pages[nth] {
                Known::Open(_) => unreachable!("looked at"),
                Known::Nothing => Page::empty(self.page_len()),
                Known::Packed(packed) => self.unpack(packed),
            };
            self.block_mut(slot).pages[nth] = Known::Open(Box::new(opened));
            if let Some(packing) = &mut self.packing {
                packing.open.push((slot, u32::try_from(nth).expect("few in a block")));
            }
        }
        let Known::Open(page) = &mut self.block_mut(slot).pages[nth] else {
            unreachable!("opened")
        };
        page
    }

    /// Sets all counts of a block to zero.
    pub fn clear(&mut self, slot: Slot) {
        self.set_dirty(slot);
        for nth in 0..self.block(slot).pages.len() {
            if !matches!(self.block(slot).pages[nth], Known::Nothing) {
                self.open(slot, nth).clear();
            }
        }
    }

    /// From now on references may wait in pages.
    pub fn expect_waiting(&mut self) {
        if let Some(packing) = &mut self.packing {
            packing.waits = true;
        }
    }

    /// Registers what waits in a block, and gives back the memory of counts that have become alike;
    /// the entry that refuses, and why.
    pub fn settle(&mut self, slot: Slot) -> Result<(), (usize, Refusal)> {
        let len = self.page_len();
        let Self { order, all, packing, .. } = self;
        let pages = &mut all[slot.index()].pages;
        for (known, first) in pages.iter_mut().zip((0..).step_by(len)) {
            let Known::Open(page) = known else { continue };
            page.settle(*order).map_err(|(entry, why)| (first + entry, why))?;
            page.counts.squeeze();
            if let Some(packing) = packing
                && let Some(packed) = Packed::of(page, &mut packing.kinds)
            {
                *known = Known::Packed(packed);
            }
        }
        Ok(())
    }

    /// Says that all blocks are settled.
    pub fn have_settled(&mut self) {
        if let Some(packing) = &mut self.packing {
            packing.open.clear();
            packing.waits = false;
        }
    }

    /// A block as it will be on disk, in `bytes`, which are zero.
    pub fn encode(&self, slot: Slot, bytes: &mut [u8]) {
        let (order, part_bytes) = (self.order, self.page_bytes());
        let Ok(()) = self.for_pages(slot, |first, page| {
            let at = first / self.page_len() * part_bytes;
            page.counts.encode(order, &mut bytes[at..at + part_bytes]);
            Ok::<_, std::convert::Infallible>(())
        });
    }
}

/// Room for one page that is looked at again and again.
#[derive(Default)]
pub(super) struct Room(Option<(Slot, usize, Page)>);
