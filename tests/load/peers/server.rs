use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mainstay_auth::jwt::{Claims, sign_hs256};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::Programs;

pub(super) const SECRET: &str = "0123456789abcdef0123456789abcdef";
const LISTENS_WITHIN: Duration = Duration::from_secs(20);
const NODE_MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/load/peers");

/// A server that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Gateway,
    Ws,
    SocketIo,
    Nats,
    Nchan,
    Sockudo,
}

/// A running server, ended with this value.
pub(crate) struct Server {
    pub(crate) peer: Peer,
    pub(crate) websocket: SocketAddr,
    /// Where is published.
    pub(crate) inlet: SocketAddr,
    pid: u32,
    _child: Child,
    _files: TempDir,
}

impl Peer {
    pub(crate) const ALL: [Self; 6] =
        [Self::Gateway, Self::Ws, Self::SocketIo, Self::Nats, Self::Nchan, Self::Sockudo];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "ws-gateway",
            Self::Ws => "ws",
            Self::SocketIo => "socket.io",
            Self::Nats => "nats-server",
            Self::Nchan => "nchan",
            Self::Sockudo => "sockudo",
        }
    }

    /// Says where it comes from.
    pub(crate) fn origin(self) -> &'static str {
        match self {
            Self::Gateway => "cargo build",
            Self::Ws | Self::SocketIo => "npm install in tests/load/peers",
            Self::Nats => "Debian package nats-server",
            Self::Nchan => "Debian packages nginx and libnginx-mod-nchan",
            Self::Sockudo => "cargo install sockudo --no-default-features",
        }
    }

    /// Returns what asks for a WebSocket.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Gateway => "/connection/websocket",
            Self::Ws | Self::Nats => "/",
            Self::SocketIo => "/socket.io/?EIO=4&transport=websocket",
            Self::Nchan => "/sub",
            Self::Sockudo => "/app/key?protocol=7",
        }
    }

    /// Returns what a client says, one after the other, each once it has been told what stands before it.
    pub(crate) fn dialogue(self, index: usize) -> Vec<(&'static str, String)> {
        match self {
            Self::Gateway => vec![
                ("", format!(r#"{{"id":1,"connect":{{"token":"{}"}}}}"#, token(index))),
                (r#""connect":"#, r#"{"id":2,"subscribe":{"channel":"bench"}}"#.to_owned()),
                (r#""subscribe":"#, String::new()),
            ],
            Self::Ws => vec![("", "subscribe".to_owned()), ("subscribed", String::new())],
            Self::SocketIo => {
                vec![
                    ("0{", "40".to_owned()),
                    ("40{", "42[\"subscribe\"]".to_owned()),
                    ("subscribed", String::new()),
                ]
            }
            Self::Nats => vec![
                ("INFO", "CONNECT {\"verbose\":false}\r\nSUB bench 1\r\nPING\r\n".to_owned()),
                ("PONG", String::new()),
            ],
            // Who is let in is subscribed.
            Self::Nchan => Vec::new(),
            Self::Sockudo => vec![
                (
                    "connection_established",
                    r#"{"event":"pusher:subscribe","data":{"channel":"bench"}}"#.to_owned(),
                ),
                ("subscription_succeeded", String::new()),
            ],
        }
    }

    /// Returns what answers a ping inside the messages, if this is one.
    pub(crate) fn pong(self, payload: &[u8]) -> Option<&'static str> {
        match (self, payload) {
            (Self::Gateway, b"{}") => Some("{}"),
            (Self::SocketIo, b"2") => Some("3"),
            (Self::Nats, b"PING\r\n") => Some("PONG\r\n"),
            (Self::Sockudo, payload) if payload.starts_with(br#"{"event":"pusher:ping""#) => {
                Some(r#"{"event":"pusher:pong","data":{}}"#)
            }
            _ => None,
        }
    }
}

impl Server {
    /// Starts a server; none when it is not installed.
    pub(crate) async fn start(peer: Peer, programs: &Programs) -> anyhow::Result<Option<Self>> {
        let websocket = free()?;
        // One door for both.
        let inlet = if peer == Peer::Sockudo { websocket } else { free()? };
        let files = tempfile::tempdir()?;
        let Some(mut command) = command(peer, programs, (websocket, inlet), files.path())? else {
            return Ok(None);
        };
        command.current_dir(files.path()).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        if peer != Peer::Gateway {
            command.stderr(Stdio::null());
        }
        let mut child = match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            child => child.with_context(|| format!("starting {}", peer.name()))?,
        };
        let began_at = Instant::now();
        for address in [websocket, inlet] {
            while TcpStream::connect(address).await.is_err() {
                ensure!(child.try_wait()?.is_none(), "{} ended", peer.name());
                ensure!(began_at.elapsed() < LISTENS_WITHIN, "{} does not listen", peer.name());
                sleep(Duration::from_millis(10)).await;
            }
        }
        let pid = child.id().with_context(|| format!("{} ended", peer.name()))?;
        Ok(Some(Self { peer, websocket, inlet, pid, _child: child, _files: files }))
    }

    pub(crate) fn resident_bytes(&self) -> anyhow::Result<usize> {
        Ok(mainstay_tests::resident_bytes(self.pid)? as usize)
    }

    /// Gives the processor time used so far, in user and kernel mode.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        mainstay_tests::cpu_time(self.pid)
    }
}

fn command(
    peer: Peer,
    programs: &Programs,
    (websocket, inlet): (SocketAddr, SocketAddr),
    files: &Path,
) -> anyhow::Result<Option<Command>> {
    let mut command;
    match peer {
        Peer::Gateway => {
            command = Command::new(&programs.gateway);
            command
                .env("MAINSTAY__SERVER__LISTEN", inlet.to_string())
                .env("MAINSTAY__WEBSOCKET__LISTEN", websocket.to_string())
                .env("MAINSTAY__AUTH__JWT_SECRET", SECRET)
                .env("MAINSTAY__TELEMETRY__LOG", "warn");
        }
        Peer::Ws | Peer::SocketIo => {
            let package = Path::new(NODE_MODULES).join("node_modules").join(peer.name());
            if !package.exists() {
                return Ok(None);
            }
            let program = if peer == Peer::Ws { "ws.mjs" } else { "socketio.mjs" };
            command = Command::new("node");
            command.arg(Path::new(NODE_MODULES).join(program));
            command.args([websocket.port(), inlet.port()].map(|port| port.to_string()));
        }
        Peer::Nats => {
            let file = files.join("nats.conf");
            let text = format!(
                "listen: {inlet}\nmax_connections: 100000\nping_interval: \"10m\"\nmax_pending: 256MB\n\
                 write_deadline: \"60s\"\nwebsocket {{ listen: \"{websocket}\", no_tls: true }}\n"
            );
            std::fs::write(&file, text)?;
            command = Command::new(&programs.nats);
            command.arg("-c").arg(file);
        }
        Peer::Nchan => {
            let Some(module) = nchan_module(&programs.nginx_modules) else { return Ok(None) };
            let file = files.join("nginx.conf");
            std::fs::write(&file, nginx_conf(&module, files, websocket, inlet))?;
            command = Command::new(&programs.nginx);
            command.arg("-p").arg(files).arg("-c").arg(file);
        }
        Peer::Sockudo => {
            command = Command::new(&programs.sockudo);
            command.env("HOST", websocket.ip().to_string()).env("PORT", websocket.port().to_string());
            command.envs([
                ("SOCKUDO_DEFAULT_APP_ID", "app"),
                ("SOCKUDO_DEFAULT_APP_KEY", "key"),
                ("SOCKUDO_DEFAULT_APP_SECRET", SECRET),
                ("SOCKUDO_DEFAULT_APP_MAX_CONNECTIONS", "100000"),
                ("SOCKUDO_DEFAULT_APP_MAX_EVENT_BATCH_SIZE", "100"),
                ("RATE_LIMITER_ENABLED", "false"),
                ("METRICS_ENABLED", "false"),
                ("RUST_LOG", "error"),
            ]);
        }
    }
    Ok(Some(command))
}

fn nchan_module(folder: &Path) -> Option<PathBuf> {
    let module = folder.join("ngx_nchan_module.so");
    module.exists().then_some(module)
}

/// One process, so that its figures are those of the server.
fn nginx_conf(module: &Path, files: &Path, websocket: SocketAddr, inlet: SocketAddr) -> String {
    let (module, files) = (module.display(), files.display());
    format!(
        "load_module {module};\ndaemon off;\nmaster_process off;\npid {files}/nginx.pid;\nerror_log {files}/error.log;\n\
         worker_rlimit_nofile 20000;\nevents {{ worker_connections 19000; }}\n\
         http {{\n  access_log off;\n  nchan_max_reserved_memory 512M;\n\
         client_body_temp_path {files}/body;\n  proxy_temp_path {files}/proxy;\n  fastcgi_temp_path {files}/fastcgi;\n\
         uwsgi_temp_path {files}/uwsgi;\n  scgi_temp_path {files}/scgi;\n  keepalive_requests 1000000;\n\
         server {{ listen {websocket} backlog=4096; location /sub {{ nchan_subscriber websocket; nchan_channel_id bench;\n\
         nchan_subscriber_first_message newest; }} }}\n\
         server {{ listen {inlet}; location /pub {{ nchan_publisher; nchan_channel_id bench;\n\
         nchan_message_buffer_length 1000; }} }}\n}}\n"
    )
}

/// Signs the token of one user.
fn token(index: usize) -> String {
    let claims = Claims { sub: format!("user-{index}"), exp: Some(4_000_000_000), ..Claims::default() };
    sign_hs256(&claims, SECRET.as_bytes()).expect("a secret of 32 bytes signs")
}

/// Gives an address on which nothing listens now.
fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
