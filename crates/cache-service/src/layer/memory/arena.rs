use super::pages::{self, PAGE_BYTES, Page};

/// Items of bytes in pages, each page cut into items of one size.
///
/// The items of a size lie side by side without a gap: where one is freed, the last one of its size moves in. So no more than one
/// page of each size is partly empty, whatever was stored and removed before. An item begins with the number of its
/// owner, to whom a move is told. Slab classes are those of memcached; to close gaps at once is what RAMCloud's cleaner does later
/// and by whole segments ("Log-structured Memory for DRAM-based Storage", 2014).
#[derive(Debug)]
pub(super) struct Arena {
    pages: Vec<PageOf>,
    /// Numbers of `pages` without one.
    vacant: Vec<u32>,
    sizes: Box<[Size]>,
}

#[derive(Debug)]
struct PageOf {
    /// Empty when there is none.
    bytes: Page,
    class: u8,
}

/// The items of one size: the first `n_items` places of its pages.
#[derive(Debug, Default, Clone)]
struct Size {
    pages: Vec<u32>,
    n_items: usize,
}

/// Tells that an item lies at another address now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) to: Address,
    pub(super) owner: u32,
    /// Which of the owner's chunks it is; none when it is the record itself.
    pub(super) chunk: Option<u32>,
}

/// Where an item lies: the number of a page, and in eighths of bytes how far from its beginning.
pub(super) type Address = u32;

const OFFSET_BITS: u32 = (PAGE_BYTES / UNIT).ilog2();
const UNIT: usize = 8;
/// The largest item is a quarter of a page.
pub(super) const LARGEST_ITEM: usize = PAGE_BYTES / 4;
const SMALLEST_ITEM: usize = 64;
/// Chunks are as large as the largest items with little to spare, and have a number of their own.
pub(super) const CHUNK_ITEM: usize = PAGE_BYTES / 8;
pub(super) const CHUNK: u8 = N_CLASSES as u8;
/// Of a chunk: who owns it, and which of the owner's it is.
pub(super) const CHUNK_HEAD: usize = 8;
/// What a chunk holds of a value.
pub(super) const CHUNK_BYTES: usize = CHUNK_ITEM - CHUNK_HEAD;

const N_CLASSES: usize = per_pages().1;
/// Items in a page, by class, the largest first.
const PER_PAGE: [usize; N_CLASSES + 1] = {
    let (all, mut some, mut class) = (per_pages().0, [PAGE_BYTES / CHUNK_ITEM; N_CLASSES + 1], 0);
    while class < N_CLASSES {
        some[class] = all[class];
        class += 1;
    }
    some
};
/// By length in units, the class with the smallest items that are large enough.
const CLASSES: [u8; LARGEST_ITEM / UNIT + 1] = {
    let mut classes = [0; LARGEST_ITEM / UNIT + 1];
    let mut class = 0;
    while class < N_CLASSES {
        let mut units = 0;
        while units * UNIT <= item_bytes(PER_PAGE[class]) {
            classes[units] = class as u8;
            units += 1;
        }
        class += 1;
    }
    classes
};

/// Sizes of which each is 6 % smaller than the one before, or as near to it as a page can be cut; powers of two among them.
const fn per_pages() -> ([usize; 128], usize) {
    let (mut all, mut n, mut per_page) = ([0; 128], 0, PAGE_BYTES / LARGEST_ITEM);
    while item_bytes(per_page) >= SMALLEST_ITEM {
        all[n] = per_page;
        n += 1;
        let before = item_bytes(per_page);
        per_page += 1;
        while per_page > 8
            && (item_bytes(per_page) == before
                || !per_page.is_power_of_two() && item_bytes(per_page) * 100 > before * 94)
        {
            per_page += 1;
        }
    }
    (all, n)
}

const fn item_bytes(per_page: usize) -> usize {
    PAGE_BYTES / per_page / UNIT * UNIT
}

/// Returns the class of items for so many bytes, at most [`LARGEST_ITEM`].
pub(super) fn class_for(n_bytes: usize) -> u8 {
    CLASSES[n_bytes.div_ceil(UNIT)]
}

/// Returns what an item of a class takes of its page.
pub(super) fn class_bytes(class: u8) -> usize {
    item_bytes(PER_PAGE[usize::from(class)])
}

impl Arena {
    pub(super) fn new() -> Self {
        let sizes = vec![Size::default(); PER_PAGE.len()].into();
        Self { pages: Vec::new(), vacant: Vec::new(), sizes }
    }

    /// Returns what is taken of the process: whole pages.
    pub(super) fn held_bytes(&self) -> u64 {
        ((self.pages.len() - self.vacant.len()) * PAGE_BYTES) as u64
    }

    /// Returns how many more pages so many more items would take.
    pub(super) fn pages_for(&self, class: u8, n_items: usize) -> usize {
        let (size, per_page) = (&self.sizes[usize::from(class)], PER_PAGE[usize::from(class)]);
        let unused = size.pages.len() * per_page - size.n_items;
        n_items.saturating_sub(unused).div_ceil(per_page)
    }

    /// Takes an item; what is in it is left of others.
    pub(super) fn take(&mut self, class: u8) -> Address {
        let (class, per_page) = (usize::from(class), PER_PAGE[usize::from(class)]);
        let nth = self.sizes[class].n_items;
        if nth == self.sizes[class].pages.len() * per_page {
            let page = self.add_page(class);
            self.sizes[class].pages.push(page);
        }
        self.sizes[class].n_items += 1;
        self.address(class, nth)
    }

    /// Frees an item, and tells which one lies there now instead.
    pub(super) fn free(&mut self, at: Address) -> Option<Moved> {
        let class = usize::from(self.pages[page_of(at)].class);
        let n_bytes = item_bytes(PER_PAGE[class]);
        let last = self.sizes[class].n_items - 1;
        let from = self.address(class, last);
        self.sizes[class].n_items = last;
        let moved = (from != at).then(|| {
            self.copy(from, at, n_bytes);
            let number = |nth: usize| u32_at(self.item(at), 4 * nth);
            Moved { to: at, owner: number(0), chunk: (class == usize::from(CHUNK)).then(|| number(1)) }
        });
        if last.is_multiple_of(PER_PAGE[class]) {
            let page = self.sizes[class].pages.pop().expect("the one of the last item");
            pages::give_back(std::mem::take(&mut self.pages[page as usize].bytes));
            self.vacant.push(page);
        }
        moved
    }

    /// Returns the bytes of an item and those behind it on its page.
    pub(super) fn item(&self, at: Address) -> &[u8] {
        &self.pages[page_of(at)].bytes[offset_of(at)..]
    }

    pub(super) fn item_mut(&mut self, at: Address) -> &mut [u8] {
        &mut self.pages[page_of(at)].bytes[offset_of(at)..]
    }

    /// Loads a small item into the processor's cache. Nothing waits for it, so that many are loaded at once.
    pub(super) fn touch(&self, at: Address) {
        const LINE_BYTES: usize = 64;
        const LINES: usize = 8;
        let page = &self.pages[page_of(at)];
        let item = &page.bytes[offset_of(at)..][..class_bytes(page.class)];
        let begin = &item[..item.len().min(LINES * LINE_BYTES)];
        // Items do not begin where lines do: the last byte may be on one more.
        let lines = begin.iter().step_by(LINE_BYTES).chain(begin.last());
        std::hint::black_box(lines.fold(0, |all, byte| all | byte));
    }

    fn add_page(&mut self, class: usize) -> u32 {
        let page = PageOf { bytes: pages::take(), class: u8::try_from(class).expect("few classes") };
        if let Some(number) = self.vacant.pop() {
            self.pages[number as usize] = page;
            return number;
        }
        let number = u32::try_from(self.pages.len()).expect("fewer than addresses");
        assert!(number < 1 << (u32::BITS - OFFSET_BITS), "a shard has at most 32 GiB");
        self.pages.push(page);
        number
    }

    fn address(&self, class: usize, nth: usize) -> Address {
        let per_page = PER_PAGE[class];
        let offset = nth % per_page * item_bytes(per_page) / UNIT;
        self.sizes[class].pages[nth / per_page] << OFFSET_BITS | u32::try_from(offset).expect("in a page")
    }

    fn copy(&mut self, from: Address, to: Address, n_bytes: usize) {
        let (source, target) = (offset_of(from), offset_of(to));
        if page_of(from) == page_of(to) {
            self.pages[page_of(to)].bytes.copy_within(source..source + n_bytes, target);
            return;
        }
        // Taken out for a moment: two pages cannot be borrowed at once.
        let page = std::mem::take(&mut self.pages[page_of(to)].bytes);
        page[target..target + n_bytes].copy_from_slice(&self.item(from)[..n_bytes]);
        self.pages[page_of(to)].bytes = page;
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let pages = self.pages.drain(..).map(|page| page.bytes).filter(|bytes| !bytes.is_empty());
        pages.for_each(pages::give_back);
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn page_of(at: Address) -> usize {
    (at >> OFFSET_BITS) as usize
}

fn offset_of(at: Address) -> usize {
    (at & ((1 << OFFSET_BITS) - 1)) as usize * UNIT
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items_of_every_length_waste_little_of_themselves() {
        for n_bytes in SMALLEST_ITEM..=LARGEST_ITEM {
            let taken = class_bytes(class_for(n_bytes));
            assert!(taken >= n_bytes, "{n_bytes}");
            // Pages cannot be cut any finer at the upper end, where few items lie: larger entries have chunks.
            let percent = if n_bytes <= 1_000 {
                12
            } else if n_bytes <= CHUNK_ITEM {
                13
            } else {
                26
            };
            assert!(taken <= n_bytes + n_bytes * percent / 100 + UNIT, "{n_bytes} takes {taken}");
        }
        assert_eq!(class_bytes(CHUNK), CHUNK_ITEM);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Items keep what was written into them through all moves, and at most one page of each size is partly empty.
        #[test]
        fn items_keep_their_bytes_and_leave_no_gaps(
            steps in prop::collection::vec((1_usize..=LARGEST_ITEM, any::<u32>(), 0_u8..5), 1..1_500),
        ) {
            let mut arena = Arena::new();
            let (mut owned, mut next): (HashMap<u32, (Address, usize, u8)>, u32) = (HashMap::new(), 0);
            let n_steps = steps.len();
            for (step, (length, random, what)) in (1..).zip(steps) {
                if what < 2 && !owned.is_empty() {
                    let mut owners: Vec<u32> = owned.keys().copied().collect();
                    owners.sort_unstable();
                    let owner = owners[random as usize % owners.len()];
                    let (at, ..) = owned.remove(&owner).unwrap();
                    if let Some(moved) = arena.free(at) {
                        owned.get_mut(&moved.owner).unwrap().0 = moved.to;
                    }
                } else {
                    // Few sizes at a time, so that pages fill up and empty.
                    let length = (length % 7 * 97 + 64).max(length / 1_000 * 900);
                    let at = arena.take(class_for(length));
                    let item = arena.item_mut(at);
                    item[..4].copy_from_slice(&next.to_le_bytes());
                    item[4..length].fill(random as u8);
                    owned.insert(next, (at, length, random as u8));
                    next += 1;
                }
                if step % 50 > 0 && step < n_steps {
                    continue;
                }
                let mut n_by_class = HashMap::new();
                for (owner, (at, length, fill)) in &owned {
                    let item = arena.item(*at);
                    prop_assert_eq!(u32_at(item, 0), *owner);
                    prop_assert!(item[4..*length].iter().all(|byte| byte == fill));
                    *n_by_class.entry(class_for(*length)).or_insert(0_usize) += 1;
                }
                let wanted: usize =
                    n_by_class.iter().map(|(class, n)| n.div_ceil(PER_PAGE[usize::from(*class)])).sum();
                prop_assert_eq!(arena.held_bytes(), (wanted * PAGE_BYTES) as u64);
            }
        }
    }
}
