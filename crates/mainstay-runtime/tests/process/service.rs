use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tokio::time::Instant;

/// Longer than anything here takes on a busy machine.
pub(crate) const WITHIN: Duration = Duration::from_mins(1);

/// A running echo service, killed when dropped.
pub(crate) struct Service {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    pub(crate) address: Option<SocketAddr>,
}

/// Returns the command of the echo service with these variables and no others of ours.
pub(crate) fn echo(variables: &[(&str, &str)]) -> Command {
    let tests = std::env::current_exe().expect("a test has a path");
    let target =
        tests.parent().and_then(|deps| deps.parent()).expect("cargo puts tests into target/<profile>/deps");
    let binary: PathBuf = target.join("examples").join("echo");
    assert!(
        binary.exists(),
        "{} is missing: run `cargo build -p mainstay-runtime --example echo`",
        binary.display()
    );
    let mut command = Command::new(binary);
    command.env_clear().env("MAINSTAY__SERVER__LISTEN", "127.0.0.1:0").envs(variables.iter().copied());
    command.env("MAINSTAY__TELEMETRY__LOG_FORMAT", "json").env("MAINSTAY__SERVER__DRAIN_DELAY", "0s");
    command
}

/// Runs the echo service with arguments that end by themselves.
pub(crate) fn echo_once(variables: &[(&str, &str)], args: &[&str]) -> Output {
    echo(variables).args(args).output().expect("the echo service can be started")
}

impl Service {
    /// Starts it and waits until it listens.
    pub(crate) fn listening(variables: &[(&str, &str)]) -> Self {
        let mut service = Self::started(variables);
        let listening = service.wait_for_line(|line| line["message"] == "listening");
        service.address = listening["fields"]["address"].as_str().and_then(|address| address.parse().ok());
        service
    }

    pub(crate) fn started(variables: &[(&str, &str)]) -> Self {
        let mut child = echo(variables)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the echo service can be started");
        let stdout = child.stdout.take().expect("standard output is piped");
        let (line_tx, lines) = channel();
        // Ends with the child, whose output it reads.
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| line_tx.send(line))
        });
        Self { child, lines, seen: Vec::new(), address: None }
    }

    /// Waits for a log line, and returns it.
    pub(crate) fn wait_for_line(&mut self, wanted: impl Fn(&Json) -> bool) -> Json {
        let end_at = Instant::now() + WITHIN;
        loop {
            let left = end_at.saturating_duration_since(Instant::now());
            let line =
                self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no such line in {:#?}", self.seen));
            let parsed = serde_json::from_str(&line).expect("log lines are JSON");
            self.seen.push(line);
            if wanted(&parsed) {
                return parsed;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child has not been waited for");
    }

    /// Waits for the end; returns how it ended and every line.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<Json>) {
        let end_at = Instant::now() + WITHIN;
        while Instant::now() < end_at {
            match self.lines.recv_timeout(WITHIN) {
                Ok(line) => self.seen.push(line),
                // Standard output is closed: the process is ending.
                Err(_) => break,
            }
        }
        let status = poll("the process to end", || self.child.try_wait().expect("the child is ours"));
        let lines = self.seen.iter().map(|line| serde_json::from_str(line).expect("log lines are JSON"));
        (status, lines.collect())
    }

    /// Asks over HTTP/1.1; returns the head and the body.
    pub(crate) fn get(&self, path: &str) -> (String, String) {
        let address = self.address.expect("the service listens");
        let mut stream = TcpStream::connect_timeout(&address, WITHIN).expect("the port accepts");
        stream.set_read_timeout(Some(WITHIN)).expect("a time-out can be set");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n")
            .expect("a request can be sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the answer is text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        (head.to_owned(), body.to_owned())
    }

    pub(crate) fn wait_for_status(&self, path: &str, status: &str) -> String {
        poll(&format!("{path} to answer {status}"), || {
            let (head, body) = self.get(path);
            head.starts_with(&format!("HTTP/1.1 {status}")).then_some(body)
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Fails when it has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks until there is an answer.
pub(crate) fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end_at = Instant::now() + WITHIN;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end_at, "waited {WITHIN:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
