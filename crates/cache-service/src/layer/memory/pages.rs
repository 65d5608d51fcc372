//! What memory is made of: pages of one size, so that any of them can serve whatever comes next.

use std::sync::Arc;

use parking_lot::Mutex;

pub(super) const PAGE_BYTES: usize = 16 << 10;

pub(super) type Page = Box<[u8]>;

/// Keeps a few unused pages; the rest go back to the allocator.
///
/// An allocator cannot give back what is half empty. Asked for nothing but pages it has no such thing: a page that was given
/// back is as good as any other.
#[derive(Debug, Default)]
pub(super) struct Pages {
    unused: Mutex<Vec<Page>>,
}

/// A large value, in pages of its own: filled before it is stored, and read without the lock of its shard.
#[derive(Debug)]
pub(super) struct Paged {
    pages: Vec<Page>,
    n_bytes: usize,
    from: Arc<Pages>,
}

impl Pages {
    const MOST_UNUSED: usize = 32;

    pub(super) fn take(&self) -> Page {
        let unused = self.unused.lock().pop();
        unused.unwrap_or_else(|| vec![0; PAGE_BYTES].into_boxed_slice())
    }

    pub(super) fn give_back(&self, page: Page) {
        let mut unused = self.unused.lock();
        if unused.len() < Self::MOST_UNUSED {
            unused.push(page);
        }
    }
}

impl Paged {
    pub(super) fn new(value: &[u8], from: &Arc<Pages>) -> Self {
        let pages = value.chunks(PAGE_BYTES).map(|part| {
            let mut page = from.take();
            page[..part.len()].copy_from_slice(part);
            page
        });
        Self { pages: pages.collect(), n_bytes: value.len(), from: Arc::clone(from) }
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
        self.pages.drain(..).for_each(|page| self.from.give_back(page));
    }
}
