//! Harm done to the files of the cache's disk layer, while the real service is down after `kill -9` and while it runs.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_tests::{Devstack, Service, eventually};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

const KEYS: usize = 300;
/// So much that the keys lie in several files of 1 MiB.
const VALUE_BYTES: usize = 8 << 10;

/// A cache-service without Redis, whose files somebody else writes to.
struct Harmed {
    stack: Devstack,
    directory: TempDir,
    client: CacheServiceClient<Channel>,
    /// The last confirmed value of each key; none when it was deleted.
    truth: Vec<Option<Vec<u8>>>,
}

impl Harmed {
    async fn start() -> Self {
        let directory = TempDir::new().expect("there is a place for files");
        let path = directory.path().to_str().expect("it is a text");
        let builder = Devstack::builder()
            .services([Service::CacheService])
            .env(Service::CacheService, "MAINSTAY__SERVER__TOKEN", "")
            .env(Service::CacheService, "MAINSTAY__DISK__PATH", path)
            .env(Service::CacheService, "MAINSTAY__DISK__CAPACITY", "16MiB");
        let bin_dir = mainstay_tests::binary("cache-service").parent().expect("it is in a folder").to_owned();
        let stack = builder.bin_dir(bin_dir).start().await.expect("the stack starts");
        let address = stack.service(Service::CacheService).expect("it is in the stack").address();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a URL");
        let client = CacheServiceClient::new(endpoint.timeout(Duration::from_secs(10)).connect_lazy());
        Self { stack, directory, client, truth: vec![None; KEYS] }
    }

    async fn set(&mut self, number: usize) {
        let mut value = vec![0; VALUE_BYTES];
        rand::fill(&mut value[..]);
        let request = pb::SetRequest {
            namespace: "test".to_owned(),
            key: format!("k{number}"),
            value: value.clone().into(),
            ..pb::SetRequest::default()
        };
        self.client.set(request).await.expect("it is stored");
        self.truth[number] = Some(value);
    }

    /// Writes all keys, replaces half of them and deletes a quarter, so that old values lie on disk.
    async fn write_all(&mut self) {
        for number in 0..KEYS {
            self.set(number).await;
        }
        for number in (0..KEYS).step_by(2) {
            self.set(number).await;
        }
        for number in (0..KEYS).step_by(4) {
            let (namespace, key) = ("test".to_owned(), format!("k{number}"));
            let request = pb::DeleteRequest { namespace, key, ..pb::DeleteRequest::default() };
            self.client.delete(request).await.expect("it is deleted");
            self.truth[number] = None;
        }
        let expected = self.truth.iter().flatten().count() as u64;
        eventually("all to be on disk", || async {
            let n_entries = self.disk().await.entries;
            if n_entries == expected { Ok(()) } else { Err(format!("{n_entries} of {expected}")) }
        })
        .await;
    }

    /// Reads all keys and returns how many are there: each of them as it was written last.
    async fn check(&self) -> usize {
        let mut n_found = 0;
        for (number, truth) in self.truth.iter().enumerate() {
            let (namespace, key) = ("test".to_owned(), format!("k{number}"));
            let request = pb::GetRequest { namespace, key, lease: false };
            let found = self.client.clone().get(request).await.expect("a read is answered").into_inner();
            if let Some(entry) = found.entry {
                assert_eq!(Some(entry.value.as_ref()), truth.as_deref(), "k{number} is not what it was last");
                n_found += 1;
            }
        }
        n_found
    }

    async fn disk(&self) -> pb::DiskStats {
        let stats = self.client.clone().stats(pb::StatsRequest {}).await.expect("there are figures");
        stats.into_inner().disk.expect("there is a disk")
    }

    fn files(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.directory.path()).expect("it can be listed");
        let paths = all.map(|file| file.expect("it can be listed").path());
        let mut files: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
        files.sort();
        files
    }

    async fn kill(&self) {
        self.stack
            .service(Service::CacheService)
            .expect("it is there")
            .kill()
            .await
            .expect("it can be killed");
    }

    async fn restart(&self) {
        self.stack
            .service(Service::CacheService)
            .expect("it is there")
            .start()
            .await
            .expect("it starts again");
    }

    /// Everything works as if nothing had been, through another `kill -9`.
    async fn check_that_it_goes_on(&mut self) {
        self.write_all().await;
        self.kill().await;
        self.restart().await;
        assert_eq!(
            self.check().await,
            self.truth.iter().flatten().count(),
            "what was written after the harm"
        );
        assert_eq!(self.disk().await.damaged, 0);
    }
}

fn cut(path: &Path) {
    let length = fs::metadata(path).expect("it is there").len();
    let file = OpenOptions::new().write(true).open(path).expect("it can be written");
    file.set_len(length / 3).expect("it can be cut");
}

fn overwrite_with_noise(path: &Path) {
    let length = fs::metadata(path).expect("it is there").len();
    let mut noise = vec![0; 4_096];
    rand::fill(&mut noise[..]);
    let file = OpenOptions::new().write(true).open(path).expect("it can be written");
    for offset in (0..length.saturating_sub(4_096)).step_by(256 << 10) {
        file.write_all_at(&noise, offset).expect("it can be written");
    }
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("it can be removed");
}

#[tokio::test]
async fn files_harmed_while_the_service_is_down_are_discarded_and_nothing_old_is_served() {
    let mut cache = Harmed::start().await;
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 3] = [("cut", cut), ("noise", overwrite_with_noise), ("removed", remove)];
    for (what, harm) in harms {
        // The newest one knows best what is no longer true; the one before it is followed by a whole one.
        for is_newest in [true, false] {
            cache.write_all().await;
            let n_whole = cache.truth.iter().flatten().count();
            cache.kill().await;
            let files = cache.files();
            assert!(files.len() >= 3, "{files:?}");
            harm(if is_newest { &files[files.len() - 1] } else { &files[files.len() - 2] });
            cache.restart().await;
            assert!(cache.check().await < n_whole, "{what}: what was harmed is gone");
            assert!(cache.disk().await.damaged > 0, "{what}: damage is counted");
        }
    }
    cache.check_that_it_goes_on().await;
    cache.stack.stop().await.unwrap();
}

#[tokio::test]
async fn files_cut_under_the_running_service_are_discarded_and_it_goes_on() {
    let mut cache = Harmed::start().await;
    cache.write_all().await;
    // Nothing is in memory then: all is read from disk.
    cache.kill().await;
    cache.restart().await;
    assert_eq!(cache.disk().await.damaged, 0);
    cache.files().iter().for_each(|path| cut(path));
    assert!(cache.check().await < cache.truth.iter().flatten().count(), "what was cut off is gone");
    let damaged = eventually("the harm to be seen and the directory to be used again", || async {
        let disk = cache.disk().await;
        if disk.damaged > 0 && disk.available { Ok(disk.damaged) } else { Err(format!("{disk:?}")) }
    })
    .await;
    // It may be seen by a read before it is seen by a look at the files: killed at once, it is seen at the start.
    cache.kill().await;
    cache.restart().await;
    cache.check().await;
    assert!(damaged > 0);
    cache.check_that_it_goes_on().await;
    cache.stack.stop().await.unwrap();
}
