//! What is left after the owner died: nothing of ours, everything of others.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mainstay_devstack::{Endpoints, Entry, down, status, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const EVERY: Duration = Duration::from_millis(20);
const WITHIN: Duration = Duration::from_mins(1);

/// Runs the program itself as a child, so that its death can be tried.
struct Up {
    child: Child,
    endpoints: Endpoints,
}

impl Up {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mainstay-devstack"))
            .args(["up", "--no-services", "--json"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut told = String::new();
            child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
            panic!("did not come up: {told}");
        }
        Self { child, endpoints: serde_json::from_str(&line).unwrap() }
    }

    fn dir(&self) -> PathBuf {
        self.endpoints.dir.clone()
    }

    fn pid_of(&self, name: &str) -> u32 {
        status(&self.dir()).1.into_iter().find(|entry| entry.name == name).unwrap().pid
    }

    fn guard_pid(&self) -> u32 {
        let manifest = fs::read_to_string(self.dir().join("manifest")).unwrap();
        let line = manifest.lines().find(|line| line.contains(" guard guard ")).unwrap();
        line.split(' ').next().unwrap().parse().unwrap()
    }

    fn signal(&mut self, signal: Signal) -> Option<i32> {
        send(self.child.id(), signal);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // A failed test must not leave a stack behind; the guard does the rest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

fn ports(endpoints: &Endpoints) -> Vec<SocketAddr> {
    let redis = endpoints
        .redis
        .iter()
        .flat_map(|redis| [redis.primary, redis.replica].into_iter().chain(redis.sentinels.iter().copied()));
    let postgres = endpoints
        .postgres
        .iter()
        .flat_map(|postgres| &postgres.nodes)
        .flat_map(|node| [Some(node.address), node.pgbouncer])
        .flatten();
    redis.chain(postgres).collect()
}

/// Fails while a process of `entries` runs or one of `ports` accepts.
async fn wait_gone(entries: &[Entry], ports: &[SocketAddr]) {
    wait_until("everything to be gone", EVERY, WITHIN, || async {
        if let Some(entry) = entries.iter().find(|entry| is_running(entry.pid)) {
            return Err(format!("{} runs as {}", entry.name, entry.pid));
        }
        match ports.iter().find(|port| TcpStream::connect_timeout(port, EVERY).is_ok()) {
            Some(port) => Err(format!("{port} accepts")),
            None => Ok(()),
        }
    })
    .await
    .unwrap();
}

async fn wait_removed(dir: &Path) {
    wait_until("the directory to be removed", EVERY, WITHIN, || async {
        if dir.exists() { Err(format!("{} is there", dir.display())) } else { Ok(()) }
    })
    .await
    .unwrap();
}

fn segments_of_postgres(dir: &Path) -> Vec<String> {
    ["primary", "replica1", "replica2"]
        .iter()
        .map(|node| {
            let text =
                fs::read_to_string(dir.join("postgres").join(node).join("data/postmaster.pid")).unwrap();
            text.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned()
        })
        .collect()
}

#[tokio::test]
async fn kill_9_of_the_owner_leaves_no_process_no_port_no_directory_and_no_shared_memory() {
    let mut up = Up::start(&[]);
    let entries = status(&up.dir()).1;
    assert_eq!(entries.len(), 11, "two redis, three sentinels, three postgres, three pgbouncers");
    assert!(entries.iter().all(|entry| entry.alive));
    let ports = ports(&up.endpoints);
    assert_eq!(ports.len(), 11);
    let segments = segments_of_postgres(&up.dir());
    // A stopped process cannot see that its parent died, and no signal but KILL and CONT reaches it.
    send(up.pid_of("postgres-replica1"), Signal::STOP);
    send(up.pid_of("redis-primary"), Signal::STOP);
    up.signal(Signal::KILL);
    wait_gone(&entries, &ports).await;
    wait_removed(&up.dir()).await;
    let shared = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let left = |segment: &&String| {
        shared.lines().any(|line| line.split_whitespace().nth(1) == Some(segment.as_str()))
    };
    assert_eq!(segments.iter().filter(left).count(), 0);
}

#[tokio::test]
async fn guard_ends_everything_even_when_the_directory_was_removed() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("stack");
    let mut up = Up::start(&["--without-postgres", "--dir", dir.to_str().unwrap()]);
    let entries = status(&dir).1;
    fs::remove_dir_all(&dir).unwrap();
    up.signal(Signal::KILL);
    wait_gone(&entries, &ports(&up.endpoints)).await;
}

#[tokio::test]
async fn next_start_ends_what_a_crash_left_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("stack");
    let args = ["--without-postgres", "--dir", dir.to_str().unwrap()];
    let mut crashed = Up::start(&args);
    let entries = status(&dir).1;
    // Somebody else got a pid that we once had: same pid, another start time.
    let mut bystander = Command::new("sleep").arg("600").spawn().unwrap();
    let reused = format!("{} 1 kill redis-old -\n", bystander.id());
    let mut manifest = fs::read_to_string(dir.join("manifest")).unwrap();
    manifest.push_str(&reused);
    manifest.push_str("999999 12 ki");
    fs::write(dir.join("manifest"), manifest).unwrap();
    send(crashed.guard_pid(), Signal::KILL);
    crashed.signal(Signal::KILL);
    assert!(entries.iter().all(|entry| is_running(entry.pid)), "nobody was left to clean up");

    let next = Up::start(&args);
    assert!(entries.iter().all(|entry| !is_running(entry.pid)));
    assert!(is_running(bystander.id()));
    assert!(status(&dir).1.iter().all(|entry| entry.alive));
    drop(next);
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[tokio::test]
async fn down_ends_leftovers_and_refuses_a_living_stack() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("stack");
    let mut up = Up::start(&["--without-postgres", "--dir", dir.to_str().unwrap()]);
    let entries = status(&dir).1;
    assert!(down(&dir).unwrap_err().to_string().contains("in use"));
    send(up.guard_pid(), Signal::KILL);
    up.signal(Signal::KILL);
    let ended = down(&dir).unwrap();
    assert_eq!(ended.len(), 5, "{ended:?}");
    wait_gone(&entries, &ports(&up.endpoints)).await;
    assert!(down(&dir).unwrap().is_empty());
}

#[tokio::test]
async fn sigterm_stops_all_and_keeps_a_named_directory_with_its_logs() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("stack");
    let mut up = Up::start(&["--without-postgres", "--dir", dir.to_str().unwrap()]);
    let entries = status(&dir).1;
    assert_eq!(up.signal(Signal::TERM), Some(0));
    assert!(entries.iter().all(|entry| !is_running(entry.pid)));
    assert!(dir.join("logs/redis-primary.log").exists());
    assert!(!dir.join("endpoints.json").exists());
    assert!(!dir.join("manifest").exists());
}

#[tokio::test]
async fn signal_during_the_start_ends_what_was_started() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("stack");
    let mut child = Command::new(env!("CARGO_BIN_EXE_mainstay-devstack"))
        .args(["up", "--no-services", "--dir", dir.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the first process", EVERY, WITHIN, || async {
        if status(&dir).1.is_empty() { Err(String::from("none")) } else { Ok(()) }
    })
    .await
    .unwrap();
    send(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!dir.join("manifest").exists(), "everything in it has ended");
}

#[tokio::test]
async fn unexpected_end_of_a_child_is_told_with_its_log() {
    let mut up = Up::start(&["--without-postgres"]);
    send(up.pid_of("redis-replica"), Signal::KILL);
    let stderr = up.child.stderr.take().unwrap();
    let told = tokio::task::spawn_blocking(move || {
        BufReader::new(stderr)
            .lines()
            .map_while(Result::ok)
            .find(|line| line.starts_with("redis-replica ended with"))
    });
    let told = tokio::time::timeout(WITHIN, told).await.unwrap().unwrap().unwrap();
    assert!(told.contains("signal: 9"), "{told}");
}

#[tokio::test]
async fn token_carries_role_and_subject_and_is_signed_with_the_secret_of_the_stack() {
    use mainstay_auth::jwt::{Verifier, VerifierConfig};
    let up = Up::start(&["--without-postgres"]);
    let dir = up.dir();
    let output = Command::new(env!("CARGO_BIN_EXE_mainstay-devstack"))
        .args(["mint-token", "--role", "operator", "--subject", "alice", "--ttl", "5m"])
        .args(["--dir", dir.to_str().unwrap()])
        .output()
        .unwrap();
    let token = String::from_utf8(output.stdout).unwrap();
    let verifier = Verifier::try_new(VerifierConfig {
        hs256_secrets: vec![up.endpoints.credentials.jwt_secret.clone().into_bytes()],
        issuer: None,
        audience: None,
        leeway: Duration::ZERO,
        require_exp: true,
        ..VerifierConfig::default()
    })
    .unwrap();
    let claims = verifier.verify(token.trim(), 0).unwrap();
    assert_eq!((claims.sub.as_str(), claims.role), ("alice", Some(mainstay_auth::Role::Operator)));
    assert_eq!(claims.exp.unwrap() - claims.iat.unwrap(), 300);
}
