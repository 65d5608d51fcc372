use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use bytesize::ByteSize;
use mainstay_devstack::wait_until;
use mainstay_runtime::{Clock, ClockHandle, ComponentKind, Context};
use tempfile::TempDir;

use super::*;
use crate::key::{ContentType, Tags};

const CAPACITY: u64 = 16 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(5);
const TEST_WITHIN: Duration = Duration::from_secs(10);
const START_MS: u64 = 1_700_000_000_000;

struct Node {
    disk: Arc<Disk>,
    cx: Context,
    clock: ClockHandle,
    raised: Arc<Mutex<Vec<Raised>>>,
}

impl Node {
    async fn start(path: &Path) -> Self {
        let (clock, handle) = Clock::fixed(UNIX_EPOCH + Duration::from_millis(START_MS));
        let cx = Context::for_test("cache-service");
        let component = cx.component("disk", ComponentKind::System, false);
        let config = DiskConfig { path: path.to_owned(), capacity: ByteSize::b(CAPACITY) };
        let (disk, writer) = Disk::new(&config, Time::by_clock_alone(clock), component);
        let raised = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&raised);
        let writer = writer.on_raised(move |raised| heard.lock().push(raised));
        cx.spawn("disk.writer", writer.run(cx.stopping(), cx.latch("disk")));
        let node = Self { disk, cx, clock: handle, raised };
        node.wait("the directory to be open", |figures| figures.available).await;
        node
    }

    /// Ends as a killed process does: nothing is flushed or told.
    async fn kill(self) {
        self.cx.shut_down().await;
        drop(self.disk.log.lock().take());
    }

    async fn put(&self, key: &str, value: impl Into<Bytes>, version: u64) {
        self.disk.put(&named(key), envelope(value.into(), version), Duration::ZERO, u64::MAX);
        self.written().await;
    }

    async fn written(&self) {
        wait_until("the queue to be empty", LOOK_EVERY, TEST_WITHIN, || async {
            let n_queued = self.disk.queued_bytes.load(Ordering::Relaxed);
            if n_queued == 0 { Ok(()) } else { Err(format!("{n_queued} bytes")) }
        })
        .await
        .unwrap();
    }

    async fn version(&self, key: &str) -> Option<u64> {
        self.disk.get(&named(key)).await.map(|envelope| envelope.version)
    }

    async fn wait(&self, what: &str, is_so: impl Fn(DiskFigures) -> bool) {
        wait_until(what, LOOK_EVERY, TEST_WITHIN, || async {
            let figures = self.disk.figures();
            if is_so(figures) { Ok(()) } else { Err(format!("{figures:?}")) }
        })
        .await
        .unwrap();
    }
}

fn named(key: &str) -> Key {
    Key::try_new("test", key).unwrap()
}

fn envelope(value: Bytes, version: u64) -> Envelope {
    Envelope {
        version,
        set_at_unix_ms: START_MS,
        expires_at_unix_ms: START_MS + 60_000,
        content_type: ContentType::default(),
        tags: Tags::default(),
        value: Some(value),
    }
}

fn segments(directory: &TempDir) -> Vec<PathBuf> {
    let all = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = all.filter(|path| path.extension().is_some_and(|seg| seg == "seg")).collect();
    segments.sort();
    segments
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_what_was_written_and_neither_what_was_removed_nor_what_expired() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path()).await;
    node.put("kept", "one", 1).await;
    node.put("kept", "two", 2).await;
    node.put("removed", "x", 3).await;
    assert!(node.disk.remove(&named("removed")).await);
    assert!(!node.disk.remove(&named("removed")).await);
    let raised = Raised { namespace: "test".into(), tag: Some("t".into()), number: 9 };
    node.disk.raise(&raised).await;
    node.kill().await;

    let node = Node::start(directory.path()).await;
    let found = node.disk.get(&named("kept")).await.unwrap();
    assert_eq!(found, envelope(Bytes::from_static(b"two"), 2));
    assert_eq!(node.version("removed").await, None);
    assert_eq!(*node.raised.lock(), [raised]);
    node.clock.advance(Duration::from_secs(60));
    assert_eq!(node.version("kept").await, None, "served past its time");
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_stay_within_the_bound_and_the_newest_entries_stay() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path()).await;
    for number in 0..400_u64 {
        node.put(&format!("k{number}"), vec![7; 256 << 10], number).await;
        let bytes = node.disk.figures().bytes;
        assert!(bytes <= CAPACITY, "{bytes} after {number}");
    }
    let on_disk: u64 = segments(&directory).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(on_disk <= CAPACITY && on_disk > CAPACITY / 2, "{on_disk}");
    assert_eq!(node.version("k399").await, Some(399));
    assert_eq!(node.version("k0").await, None);
    let entries = node.disk.figures().entries;
    assert!((40..64).contains(&entries), "{entries} entries of 256 KiB in 16 MiB");
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_loses_only_the_last_record() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path()).await;
    node.put("first", "1", 1).await;
    node.put("last", "2", 2).await;
    node.kill().await;
    let segment = segments(&directory).pop().unwrap();
    // Killed in the middle of the next one.
    let next = Record::gone("first").encode();
    let file = OpenOptions::new().append(true).open(&segment).unwrap();
    io::Write::write_all(&mut &file, &next[..next.len() - 3]).unwrap();

    // And once more: what was torn has been cut off.
    for version in 3..5 {
        let node = Node::start(directory.path()).await;
        assert_eq!((node.version("first").await, node.version("last").await), (Some(1), Some(2)));
        assert_eq!(node.disk.figures().damaged, 0);
        node.put("other", "3", version).await;
        node.kill().await;
    }
}

/// Leaves one key that was replaced and one that was removed, each in a segment after that of its old value.
async fn leave_old_values_behind(directory: &TempDir) {
    for version in [1, 2] {
        let node = Node::start(directory.path()).await;
        node.put("replaced", "value", version).await;
        match version {
            1 => node.put("removed", "value", 3).await,
            _ => assert!(node.disk.remove(&named("removed")).await),
        }
        node.put("kept", "value", 3 + version).await;
        node.kill().await;
    }
    assert_eq!(segments(directory).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cut_and_no_missing_file_brings_back_an_old_value() {
    type Harm = fn(&TempDir, &Path);
    fn cut(path: &Path, bytes: u64) {
        OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
    }
    let harms: [(&str, Harm); 7] = [
        ("last one empty", |_, last| cut(last, 0)),
        ("last one cut behind its first record", |_, last| cut(last, Record::BEGIN_BYTES)),
        ("last one cut by a byte", |_, last| cut(last, fs::metadata(last).unwrap().len() - 1)),
        ("last one removed", |_, last| fs::remove_file(last).unwrap()),
        ("last one replaced by the first", |directory, last| {
            fs::copy(&segments(directory)[0], last).map(drop).unwrap();
        }),
        ("end removed", |directory, _| fs::remove_file(directory.path().join("end")).unwrap()),
        ("end overwritten", |directory, _| fs::write(directory.path().join("end"), [7; 24]).unwrap()),
    ];
    for (what, harm) in harms {
        let directory = TempDir::new().unwrap();
        leave_old_values_behind(&directory).await;
        let last = segments(&directory).pop().unwrap();
        harm(&directory, &last);
        for _ in 0..2 {
            let node = Node::start(directory.path()).await;
            for key in ["replaced", "removed"] {
                assert_eq!(node.version(key).await, None, "{what}: {key}");
            }
            node.put("new", "value", 9).await;
            node.kill().await;
        }
        let node = Node::start(directory.path()).await;
        assert_eq!((node.version("new").await, node.disk.figures().damaged), (Some(9), 0), "{what}");
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_at_the_start_is_counted_and_costs_what_is_older_than_it() {
    let directory = TempDir::new().unwrap();
    leave_old_values_behind(&directory).await;
    fs::remove_file(&segments(&directory)[0]).unwrap();
    let node = Node::start(directory.path()).await;
    // Nothing is older than the first one: the second says all that there is to say.
    assert_eq!((node.version("replaced").await, node.version("removed").await), (Some(2), None));
    assert_eq!(node.disk.figures().damaged, 0);
    node.put("third", "value", 9).await;
    node.kill().await;
    cut_in_the_middle(&segments(&directory)[0]);
    let node = Node::start(directory.path()).await;
    assert_eq!((node.version("replaced").await, node.version("third").await), (None, Some(9)));
    assert_eq!(node.disk.figures().damaged, 1);
    node.kill().await;
}

fn cut_in_the_middle(path: &Path) {
    let length = fs::metadata(path).unwrap().len();
    OpenOptions::new().write(true).open(path).unwrap().set_len(length / 2).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_cut_or_removed_while_the_process_runs_are_given_up() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path()).await;
    for (version, is_cut) in [(1, true), (2, false)] {
        node.put("k", "value", version).await;
        let n_damaged = node.disk.figures().damaged;
        let segment = segments(&directory).pop().unwrap();
        if is_cut {
            cut_in_the_middle(&segment)
        } else {
            fs::remove_file(&segment).unwrap()
        }
        node.wait("the harm to be seen", |figures| figures.damaged > n_damaged).await;
        node.wait("the directory to be used again", |figures| figures.available && figures.entries == 0)
            .await;
        assert_eq!(node.version("k").await, None);
    }
    node.put("k", "value", 3).await;
    assert_eq!(node.version("k").await, Some(3));
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_from_before_a_damage_is_served() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path()).await;
    node.put("before", "1", 1).await;
    node.put("hit", "2", 2).await;
    node.put("behind", "3", 3).await;
    node.kill().await;
    let segment = segments(&directory).pop().unwrap();
    flip(&segment, fs::metadata(&segment).unwrap().len() / 2);
    let node = Node::start(directory.path()).await;
    for key in ["before", "hit", "behind"] {
        assert_eq!(node.version(key).await, None, "{key}");
    }
    assert_eq!((node.disk.figures().damaged, node.disk.figures().entries), (1, 0));
    node.put("new", "4", 4).await;
    assert_eq!(node.version("new").await, Some(4));
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_damaged_while_the_process_runs_is_not_served() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path()).await;
    node.put("k", "value", 1).await;
    let segment = segments(&directory).pop().unwrap();
    flip(&segment, fs::metadata(&segment).unwrap().len() - 2);
    assert_eq!(node.version("k").await, None);
    node.put("cut", "value", 2).await;
    OpenOptions::new().write(true).open(&segment).unwrap().set_len(20).unwrap();
    assert_eq!(node.version("cut").await, None);
    let n_damaged = node.disk.figures().damaged;
    assert!(n_damaged >= 2, "{n_damaged}: two records, and the file if it was looked at since");
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_written_is_off_until_it_can() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("l3");
    let node = Node::start(&directory).await;
    node.put("k", "value", 1).await;
    // A file in the way of the directory fails as a full disk does: with an error from the system.
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "").unwrap();
    // Too large for what is left of the segment.
    node.put("large", vec![0; 1_048_000], 2).await;
    node.put("larger", vec![0; 1_048_000], 3).await;
    node.wait("the disk to be off", |figures| !figures.available).await;
    let health = || node.cx.component_list().into_iter().find(|component| component.name == "disk").unwrap();
    wait_until("the component to be unhealthy", LOOK_EVERY, TEST_WITHIN, || async {
        let health = health();
        if health.detail.starts_with("off: ") { Ok(()) } else { Err(format!("{health:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(node.version("k").await, None, "served from a disk that is off");
    fs::remove_file(&directory).unwrap();
    node.wait("the disk to be back", |figures| figures.available).await;
    node.put("k", "again", 4).await;
    assert_eq!(node.version("k").await, Some(4));
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_belongs_to_one_process() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path()).await;
    node.put("k", "value", 1).await;
    let taken = Log::open(directory.path(), CAPACITY, &mut Index::default(), 0);
    assert!(taken.is_err());
    assert_eq!(node.version("k").await, Some(1));
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_given_up_takes_the_older_value_with_it() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path()).await;
    node.put("k", "old", 1).await;
    node.disk.queued_bytes.fetch_add(QUEUE_BYTES, Ordering::Relaxed);
    node.disk.put(&named("k"), envelope(Bytes::from_static(b"new"), 2), Duration::ZERO, 0);
    node.disk.queued_bytes.fetch_sub(QUEUE_BYTES, Ordering::Relaxed);
    assert_eq!((node.version("k").await, node.disk.figures().dropped), (None, 1));
    node.put("other", "x", 3).await;
    node.kill().await;
    let node = Node::start(directory.path()).await;
    assert_eq!((node.version("k").await, node.version("other").await), (None, Some(3)));
    node.kill().await;
}
