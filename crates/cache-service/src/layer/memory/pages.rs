//! What memory is made of: pages of one size, so that any of them can serve whatever comes next.

use std::alloc::{Layout, handle_alloc_error};

use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;

pub(super) const PAGE_BYTES: usize = 16 << 10;
/// What the operating system is asked for at once. What was never touched of it takes no memory.
const BLOCK_BYTES: usize = 16 << 20;
/// A large page of the processor.
const HUGE_BYTES: usize = 2 << 20;

/// A page that belongs to whoever has it, until it is given back; empty in place of one.
pub(super) type Page = &'static mut [u8];

/// Those that nobody has. They stay with the process: another part of memory that grows takes them, and all together are
/// never more than the bounds of memory allow at once.
///
/// They do not come from the allocator, which would lay other things between them and could then give back neither; and
/// in large pages of the processor a read waits for memory alone, not for the tables that say where it lies.
static UNUSED: Mutex<Vec<Page>> = Mutex::new(Vec::new());

/// A large value, in pages of its own: filled before it is stored, and read without the lock of its shard.
#[derive(Debug)]
pub(super) struct Paged {
    pages: Vec<Page>,
    n_bytes: usize,
}

/// Takes a page; what is in it is left of others.
pub(super) fn take() -> Page {
    let mut unused = UNUSED.lock();
    if unused.is_empty() {
        // From its end: the first page is taken first, and what follows is not touched yet.
        unused.extend(block().chunks_exact_mut(PAGE_BYTES).rev());
    }
    unused.pop().expect("a block has pages")
}

pub(super) fn give_back(page: Page) {
    UNUSED.lock().push(page);
}

/// Maps a block that begins where a large page does.
fn block() -> &'static mut [u8] {
    const MAPPED_BYTES: usize = BLOCK_BYTES + HUGE_BYTES;
    let Ok(mapped) = MmapMut::map_anon(MAPPED_BYTES) else {
        handle_alloc_error(Layout::from_size_align(MAPPED_BYTES, HUGE_BYTES).expect("a power of two"))
    };
    // A system without large pages serves as well, slower.
    let _ = mapped.advise(Advice::HugePage);
    let mapped = Box::leak(Box::new(mapped));
    let begin = mapped.as_ptr().align_offset(HUGE_BYTES);
    &mut mapped[begin..][..BLOCK_BYTES]
}

impl Paged {
    pub(super) fn new(value: &[u8]) -> Self {
        let pages = value.chunks(PAGE_BYTES).map(|part| {
            let page = take();
            page[..part.len()].copy_from_slice(part);
            page
        });
        Self { pages: pages.collect(), n_bytes: value.len() }
    }

    pub(super) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    pub(super) fn n_pages(&self) -> usize {
        self.pages.len()
    }

    /// Returns the bytes from page number `nth` that belong to the value; none behind its end.
    pub(super) fn part(&self, nth: usize) -> Option<&[u8]> {
        let page = self.pages.get(nth)?;
        Some(&page[..PAGE_BYTES.min(self.n_bytes - nth * PAGE_BYTES)])
    }
}

impl Drop for Paged {
    fn drop(&mut self) {
        self.pages.drain(..).for_each(give_back);
    }
}
